from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest

from dyslctl import plugins
from dyslctl.data.calvin import CalvinSource
from dyslctl.data.hdf5 import Hdf5Source
from dyslctl.data.lerobot import LeRobotSource
from dyslctl.data.of_suite import SuiteSource
from dyslctl.data.open import open_source
from dyslctl.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from tests.tiny import TinyReach


def test_the_format_is_known_from_the_files(writers: ModuleType, tmp_path: Path) -> None:
    episodes = [writers.episode(number, 3) for number in range(2)]
    lerobot = writers.write_lerobot(tmp_path / "a", episodes)
    hdf5 = writers.write_hdf5(tmp_path / "b", episodes)
    calvin = writers.write_calvin(tmp_path / "c", episodes)
    assert isinstance(open_source(str(lerobot)), LeRobotSource)
    assert isinstance(open_source(str(hdf5)), Hdf5Source)
    assert isinstance(open_source(str(next(hdf5.iterdir()))), Hdf5Source)
    assert open_source(str(lerobot)).name == str(lerobot)
    for folder in (calvin, calvin / "training"):
        assert isinstance(open_source(str(folder)), CalvinSource) and open_source(str(folder)).name == str(folder)


def test_what_is_neither_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(ArtifactError, match=r"found train.csv\n  looked for: meta/info.json .*, \*\.hdf5") as raised:
        open_source(str(tmp_path))
    assert raised.value.hint is not None and "meta/" in raised.value.hint
    (tmp_path / "demo.h5").write_text("")
    for name in ("train.csv", "demo.h5"):
        found = rf"found a \{Path(name).suffix} file\n  looked for: .*, \*\.hdf5"
        with pytest.raises(ArtifactError, match=found):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["./gone", "gone", "a/b/c", "/no/where"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no folder, no \.hdf5 file, no task suite and no Hub id"):
        open_source(name)


def test_a_suite_that_is_nearly_called_so_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "names", lambda group: ["tiny_reach"])
    with pytest.raises(ConfigError, match=r"'tiny_reech' is no folder.* Did you mean 'tiny_reach'\?"):
        open_source("tiny_reech")


def test_a_suite_is_a_source_of_its_experts_episodes(
    tiny_suite: type[TinyReach], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "names", lambda group: ["tiny_reach"])
    monkeypatch.setattr(plugins, "load_suite", lambda name: tiny_suite())
    source = open_source("tiny_reach")
    assert isinstance(source, SuiteSource) and (source.name, len(source)) == ("tiny_reach", 300)
    expected = tiny_suite().demonstrate(tiny_suite().episodes("train", 3)[2])
    assert source.episode(2).actions.tolist() == expected.actions.tolist()


def test_a_hub_id_is_fetched_and_named_after_its_commit(
    writers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preset is known from the id: it names the views, the format's own would take them as they are called."""
    root = writers.write_lerobot(tmp_path / "c0ffee", [writers.episode(number, 3) for number in range(2)])
    asked: dict[str, Any] = {}

    def download(repository: str, **how: Any) -> str:
        asked.update(repository=repository, **how)
        return str(root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = open_source("HuggingFaceVLA/libero@v3.0")
    assert source.name == "HuggingFaceVLA/libero@c0ffee"
    assert (asked["repository"], asked["revision"], asked["repo_type"]) == ("HuggingFaceVLA/libero", "v3.0", "dataset")
    assert list(source.episode(0).observations[0].images) == ["agentview", "wrist"]
    assert list(open_source("some/other").episode(0).observations[0].images) == ["image", "image2"]
    assert asked["revision"] is None


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = "'{}' is no folder here and could not be fetched from the Hub: LocalEntryNotFoundError: outgoing"
    for name in ("org/name", "org/name@v3.0"):
        with pytest.raises(ArtifactError, match=message.format(name)) as raised:
            open_source(name)
        assert raised.value.hint is not None and "HF_HUB_OFFLINE=1" in raised.value.hint


def test_a_data_set_that_brings_its_own_column_mapping_is_read_by_it(writers: ModuleType, tmp_path: Path) -> None:
    """Another one, if the caller names one; the one beside it, for a single file."""
    root = writers.write_hdf5(tmp_path / "set", [writers.episode(number, 3) for number in range(2)])
    (root / "data-map.yaml").write_text(
        "schema: dyslctl.data-map/1\n"
        "views: {upside_down: {column: obs/agentview_rgb}}\n"
        "action: actions\n"
        "execute_horizon: 5\n"
    )
    for name in (root, next(root.glob("*.hdf5"))):
        source = open_source(str(name))
        assert (list(source.episode(0).observations[0].images), source.execute_horizon) == (["upside_down"], 5)
    preset = open_source(str(root), "libero-hdf5")
    assert list(preset.episode(0).observations[0].images) == ["agentview", "wrist"]
    assert preset.execute_horizon is None
