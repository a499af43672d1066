from __future__ import annotations

from pathlib import Path

import pytest
from dyslctl_roboflamingo.__main__ import main
from dyslctl_roboflamingo.config import SETTINGS, Files, Settings, settings_of

from dyslctl.errors import ArtifactError


def test_released_sizes() -> None:
    small, large = (settings_of(size, Files(policy="p")) for size in ("3b", "9b"))
    assert (small.language_model.layers, small.live_layers, small.cross_attention.every) == (24, 23, 1)
    assert (large.language_model.layers, large.live_layers, large.cross_attention.every) == (32, 32, 4)
    assert (small.final_norm, large.final_norm) == (False, True)
    assert small.vision.patches == 256


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    settings = settings_of("9b", Files(policy="p.pth", vision="v.safetensors", language_model="m.bin"))
    settings.save(tmp_path)
    assert Settings.read(tmp_path) == settings


def test_the_settings_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["settings", "--size", "9b", "--policy", "p.pth", "--vision", "v.pt", "--language-model", "m.bin"])
    (tmp_path / SETTINGS).write_text(capsys.readouterr().out)
    settings = Settings.read(tmp_path)
    assert settings == settings_of("9b", Files(policy="p.pth", vision="v.pt", language_model="m.bin"))
    assert settings.files.by_precedence == ("m.bin", "v.pt", "p.pth")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no such file.*\n.*dyslctl_roboflamingo settings"):
        Settings.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("files: {polcy: x}", ["files.policy: missing", "files.polcy: unknown key. Did you mean 'policy'?"]),
        ("files: {policy: x}\nfeature_tap: last", ["feature_tap: Input should be"]),
        ("files: {policy: x}\nfinal_norm: true", ["final norm comes after the last block"]),
        ("files: {policy: x}\nlanguage_model: {heads: 3}", ["language_model: heads: expected a power of two"]),
        ("files: {policy: x}\nvision: {heads: 3}", ["vision: heads: expected a divisor of the width 1024, found 3"]),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, messages: list[str]) -> None:
    (tmp_path / SETTINGS).write_text(f"schema: {Settings.SCHEMA}\n{text}\n")
    with pytest.raises(ArtifactError) as raised:
        Settings.read(tmp_path)
    assert all(message in str(raised.value) for message in messages), raised.value
