"""What a careless user feeds the commands: the exit code, one error that names the place, and the old files intact."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from dyslctl.artifacts.bundle import load_bundle, save_bundle
from dyslctl.cli import app
from dyslctl.errors import ArtifactError
from dyslctl.suite import Demonstration, EpisodeSpec, TaskSuite

Run = Callable[..., Result]
HOME = Path("runs/tiny")
PROFILE, BUNDLE = HOME / "skip_profile.yaml", HOME / "bundles/dysl"
WEIGHTS, SETTINGS = BUNDLE / "bundle.safetensors", BUNDLE / "bundle.yaml"


def _files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def _refused(run: Run, code: int, *arguments: str) -> str:
    """The error of a command that must fail and leave every file as it is."""
    before = _files()
    result = run(*arguments, "--quiet", "--json")
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    assert _files() == before
    return result.stderr


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_backbone_that_brings_no_checkpoint(run: Run, tiny_backbone: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_backbone, "default_checkpoint", classmethod(lambda _: None))
    error = _refused(run, 2, "profile", "tiny")
    assert "tiny brings no checkpoint of its own" in error
    assert "hint: name yours: --checkpoint FOLDER" in error


def test_an_unknown_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["profile", "no-such-backbone", "--json"])
    assert result.exit_code == 2 and result.stdout == ""
    assert "no backbone named 'no-such-backbone'" in result.stderr and "dyslctl plugins" in result.stderr
    assert _files() == {}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("samples: ", "smaples: ", "smaples: unknown key. Did you mean 'samples'?"),
        ("samples: 16", "samples: many", "samples: Input should be a valid integer (found 'many')"),
        ("samples: 16", "samples: 16\nsamples: 17", "key 'samples' is given twice"),
        ("skip-profile/1", "skip-profile/2", "pip install --upgrade dyslctl"),
        ("fingerprint: ", "fingerprint: 0", "the skip profile was made with other weights"),
    ],
)
def test_a_bad_skip_profile(distilled: dict[str, Any], run: Run, old: str, new: str, said: str) -> None:
    _edit(PROFILE, old, new)
    assert said in _refused(run, 4, "eval", "--method", "dysl")
    assert said in _refused(run, 4, "distill")


def test_a_bundle_of_another_profile_leaves_the_earlier_evaluation(distilled: dict[str, Any], run: Run) -> None:
    assert run("eval", "--method", "random-skip-adapters,dysl", "--quiet").exit_code == 0
    static = list(load_bundle(BUNDLE).header.static_layers)
    other = sorted({*static, next(layer for layer in range(8) if layer not in static)})
    _edit(PROFILE, f"static_layers: {static}", f"static_layers: {other}")
    for arguments in (
        ["eval", "--method", "random-skip-adapters,dysl"],
        ["bench", "--device", "orin", "--method", "dysl"],
    ):
        said = _refused(run, 4, *arguments)
        assert "belongs to another skip profile" in said and str(static) in said and str(other) in said


def test_a_truncated_bundle(distilled: dict[str, Any], run: Run) -> None:
    WEIGHTS.write_bytes(WEIGHTS.read_bytes()[:-64])
    _edit(SETTINGS, "split: tune", "split: test")  # a bundle that this process has not loaded before
    assert "truncated or damaged" in _refused(run, 4, "eval", "--method", "random-skip-adapters,dysl")


@pytest.mark.parametrize("damage", ["misshapen", "not finite"])
def test_a_damaged_tensor_in_a_bundle(distilled: dict[str, Any], run: Run, damage: str) -> None:
    bundle = load_bundle(BUNDLE)
    name, tensor = next((name, tensor) for name, tensor in bundle.tensors.items() if tensor.dim() == 2)
    bad = tensor[:-1] if damage == "misshapen" else torch.full_like(tensor, torch.nan)
    save_bundle(BUNDLE, replace(bundle, tensors={**bundle.tensors, name: bad}), "")
    assert f"{damage}: {name}" in _refused(run, 4, "eval", "--method", "random-skip-adapters,dysl")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tau_by_layer: {}", "tau_by_layer: {99: 0.25}", "names layer 99, expected dynamic layers only"),
        ("scale: null", "scale: [1.0]", "scale has 1 numbers"),
    ],
)
def test_guidance_edited_for_another_model(paper: dict[str, Any], run: Run, old: str, new: str, said: str) -> None:
    _edit(HOME / "bundles/dysl-paper/bundle.yaml", old, new)
    assert said in _refused(run, 4, "eval", "--method", "random-skip,dysl-paper")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tolerance: ", "tolerance: many # ", "exits.tolerance: Input should be a valid number"),
        ("tolerance: ", "tolerence: ", "exits.tolerence: unknown key. Did you mean 'tolerance'?"),
        ("tolerance: ", "tolerance: null # ", "not calibrated yet: tolerance is null"),
        ("exits:", "guidance:", "guidance.tolerance: unknown key"),
    ],
)
def test_exits_edited_badly(distilled: dict[str, Any], run: Run, old: str, new: str, said: str) -> None:
    _edit(SETTINGS, old, new)
    assert said in _refused(run, 4, "eval", "--method", "random-skip-adapters,dysl")


def test_a_newer_bundle(distilled: dict[str, Any], run: Run) -> None:
    _edit(SETTINGS, "bundle-settings/3", "bundle-settings/4")
    assert "made by a newer dyslctl" in _refused(run, 4, "eval", "--method", "random-skip-adapters,dysl")


def test_an_image_that_is_none(
    profiled: dict[str, Any], run: Run, tiny_suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    demonstrate = tiny_suite.demonstrate

    def damaged(suite: TaskSuite, spec: EpisodeSpec) -> Demonstration:
        found: Demonstration = demonstrate(suite, spec)
        nan = {"agent": np.full((8, 8, 3), np.nan)}
        return replace(found, observations=[replace(seen, images=nan) for seen in found.observations])

    monkeypatch.setattr(tiny_suite, "demonstrate", damaged)
    assert "found [8, 8, 3] float64" in _refused(run, 3, "distill", "--method", "dysl-paper")


def test_a_window_that_the_head_does_not_have(
    profiled: dict[str, Any], run: Run, tiny_suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before any episode is played."""
    monkeypatch.setattr(tiny_suite, "demonstrate", None)
    error = _refused(run, 2, "distill", "--method", "dysl-paper", "--set", "distill.window=3")
    assert "distill.window: expected 1 for TinyBackbone, whose head remembers nothing, found 3" in error


@pytest.mark.parametrize("text", ["eval: {episodes: many}", "eval: {episods: 3}", "eval: {episodes: 1, episodes: 2}"])
def test_a_bad_config_file(profiled: dict[str, Any], run: Run, text: str) -> None:
    Path("mine.yaml").write_text(text)
    assert "mine.yaml" in _refused(run, 2, "eval", "--config", "mine.yaml")


@pytest.mark.parametrize("command", ["eval", "bench"])
def test_naming_no_method_is_not_naming_all(distilled: dict[str, Any], run: Run, command: str) -> None:
    assert f"{command}.methods" in _refused(run, 2, command, "--method", "")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00" * 32, b"schema: [1]\n", b'{"schema": "other/1"}'])
def test_inspecting_garbage(run: Run, content: bytes) -> None:
    Path("garbage").write_bytes(content)
    result = run("inspect", "garbage", "--json")
    assert result.exit_code == 4 and result.stdout == ""
    assert "garbage" in result.stderr


def test_a_full_disk(distilled: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", full)
    said = _refused(run, 3, "eval", "--method", "full")
    assert "No space left on device" in said and "--resume" in said


def test_a_failed_calibration_leaves_the_old_bundle(
    paper: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ArtifactError("no episode to calibrate on")

    monkeypatch.setattr("dyslctl.cli.steps.trainers.fit_guidance", fails)
    bundle = HOME / "bundles/dysl-paper"
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    result = run("distill", "--method", "dysl-paper", "--stage", "2", "--steps", "1", "--quiet")
    assert result.exit_code == 4 and "no episode to calibrate on" in result.stderr
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before


def test_exits_without_a_tolerance_say_how_to_find_it(distilled: dict[str, Any], run: Run) -> None:
    """Those of ``analyze pareto``, which only tries dials, stay like that."""
    settings = yaml.safe_load(SETTINGS.read_text())
    del settings["calibration"]
    settings["exits"]["tolerance"] = None
    SETTINGS.write_text(yaml.safe_dump(settings))
    said = _refused(run, 4, "eval", "--method", "dysl")
    assert "not calibrated yet" in said and "dyslctl calibrate --max-success-drop" in said
