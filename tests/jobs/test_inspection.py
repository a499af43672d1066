from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dyslctl import plugins
from dyslctl.artifacts.bundle import TrainingInfo, save_settings
from dyslctl.artifacts.bundle_settings import Exits
from dyslctl.artifacts.files import write_json, write_jsonl
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.run_dir import RESULTS, RunDirectory, RunManifest, place_run, save_start
from dyslctl.artifacts.skip_profile import BackboneRef, ModuleSizes, Similarity, SkipProfile
from dyslctl.dysl.exits import ExitSizes
from dyslctl.errors import ArtifactError, PluginError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.inspection import inspect
from dyslctl.jobs.trained_exits import new_exits, save_exits

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


def _episode(index: int, method: str, *, success: bool, status: str = "done") -> dict[str, object]:
    record = EpisodeRecord(method, "suite", "test", index, "task", index, status, success=success)  # type: ignore[arg-type]
    return record.as_dict()


def _start_run(root: Path) -> RunDirectory:
    run = place_run("tiny", root)
    save_start(run, RunManifest.now("tiny", "here", "reach"), root)
    return run


def test_a_run_directory(tmp_path: Path) -> None:
    _start_run(tmp_path)
    found = inspect(tmp_path / "tiny")
    assert found.kind == "run directory"
    assert found.facts == {"backbone": "tiny", "checkpoint": "here", "suite": "reach"}


def _profile(fingerprint: str) -> SkipProfile:
    return SkipProfile(
        backbone=BackboneRef(plugin="tiny", checkpoint="x", fingerprint=fingerprint, num_layers=6, last_live_layer=5),
        suite="reach",
        samples=8,
        static_layers=(0, 1, 5),
        ratio=0.5,
        criterion="similarity",
        similarity=Similarity(cosine=(0.9,) * 6, standard_error=(0.1,) * 6),
        modules=ModuleSizes(adapter_width=2, controller_width=2, pool="mean"),
        made_with=made_with("dyslctl profile tiny", 0),
    )


def _save_exits(folder: Path, method: str, fingerprint: str = "f00d") -> None:
    """Exits before layers 2 and 4, ``H`` = 4, ``P`` = 3."""
    modules = new_exits(_profile(fingerprint), (2, 4), ExitSizes(4, 2, 1, adapter_rank=2, planner_width=3), seed=0)
    training = TrainingInfo(stage=2, steps=7, seed=0, method=method)
    save_exits(folder, modules.eval(), 2, _profile(fingerprint), training, "dyslctl distill")


@pytest.mark.parametrize("method", ["dysl", "static"])
def test_a_bundle_with_exits(tmp_path: Path, method: str) -> None:
    _save_exits(tmp_path / "bundle", method)
    save_settings(tmp_path / "bundle", Exits(tolerance=-1.5), None)
    found = inspect(tmp_path / "bundle")
    assert found.kind == "bundle"
    assert (found.facts["method"], found.facts["stage"], found.facts["steps"]) == (method, 2, 7)
    assert found.facts["tolerance"] == -1.5 and "eta_1" not in found.facts
    # Adapters 2 H r + r + H + 2 H + N r P and their scale; planner 2 F + F w + w + w E + E with F = 3 H + P.
    assert found.facts["parameters"] == 2 * (16 + 2 + 4 + 8 + 12 + 1) + (30 + 45 + 3 + 6 + 2)


def test_a_run_lists_its_bundles_and_refuses_a_strangers(tmp_path: Path) -> None:
    run = _start_run(tmp_path)
    _profile("f00d").save(run.skip_profile)
    for method in ("static", "dysl"):
        _save_exits(run.bundle(method), method)
    facts = inspect(run.path).facts
    assert facts["static_layers"] == [0, 1, 5]
    listed = {key: value for key, value in facts.items() if key.startswith("bundle_")}
    assert listed == {"bundle_dysl": str(run.bundle("dysl")), "bundle_static": str(run.bundle("static"))}
    _save_exits(run.bundle("static"), "static", fingerprint="beef")
    with pytest.raises(ArtifactError, match="other backbone weights: bundle beef"):
        inspect(run.path)


def test_episodes_are_counted_by_method(tmp_path: Path) -> None:
    rows = [
        _episode(0, "full", success=True),
        _episode(0, "dysl", success=False),
        _episode(1, "full", success=True),
        _episode(1, "dysl", success=False, status="error"),
    ]
    write_jsonl(tmp_path / "any-name", rows)
    found = inspect(tmp_path / "any-name")
    assert found.kind == "episode log"
    assert found.facts["episodes"] == 2 and found.facts["errors"] == 1
    assert found.facts["successes"] == {"full": 2}
    assert found.facts["finished"] == {"full": 2, "dysl": 1}


def test_one_episode_is_an_episode_log_too(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "log", [_episode(0, "full", success=True)])
    assert inspect(tmp_path / "log").kind == "episode log"


def test_a_damaged_episode_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "log", [_episode(0, "full", success=True), {"method": "full"}])
    with pytest.raises(ArtifactError, match="not an episode"):
        inspect(tmp_path / "log")


def test_a_result_shows_its_plain_values(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"schema": "dyslctl.eval/1", "suite": "reach", "methods": {}})
    found = inspect(tmp_path / "r.json")
    assert (found.kind, found.facts) == ("eval result", {"suite": "reach"})


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"schema": "dyslctl.eval/99"})
    with pytest.raises(ArtifactError, match=r"version /1, found schema 'dyslctl\.eval/99'"):
        inspect(tmp_path / "r.json")


def test_a_torn_result_is_no_episode_log(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"schema": "dyslctl.eval/1", "suite": "reach", "methods": {}})
    (tmp_path / "r.json").write_bytes((tmp_path / "r.json").read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="JSON"):
        inspect(tmp_path / "r.json")


@pytest.mark.parametrize("name", [*RESULTS, "curve", "behaviour"])
def test_every_result_of_a_run_is_known(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "r.json", {"schema": f"dyslctl.{name}/1"})
    assert inspect(tmp_path / "r.json").kind == f"{name} result"


@pytest.mark.parametrize(
    "content", ["", "hello", "schema: other/1", '{"schema": "dyslctl.unheard-of/1"}', "[1, 2]", "a: ["]
)
def test_anything_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ArtifactError, match="no artifact of dyslctl"):
        inspect(tmp_path / "file")


def test_yaml_that_does_not_parse_says_where(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("schema: dyslctl.skip-profile/1\nstatic_layers: [0,\n")
    with pytest.raises(ArtifactError, match=r"p.yaml is not valid YAML(.|\n)*line 3"):
        inspect(tmp_path / "p.yaml")


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        inspect(tmp_path / "none")
    with pytest.raises(ArtifactError, match="no artifact of dyslctl"):
        inspect(tmp_path)


def test_a_newer_schema_is_refused_by_its_reader(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("schema: dyslctl.skip-profile/99\n")
    with pytest.raises(ArtifactError, match="newer dyslctl"):
        inspect(tmp_path / "p.yaml")


def test_a_checkpoint_is_what_some_backbone_loads(
    tmp_path: Path, tiny_backbone: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(plugins, "names", lambda group: ["tiny"])
    monkeypatch.setattr(plugins, "load_backbone", lambda name: tiny_backbone)
    found = inspect(tmp_path)
    assert found.kind == "backbone checkpoint" and found.facts["num_layers"] == 8


def test_a_backbone_knows_files_of_its_own(
    tmp_path: Path, tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = list[str | Path]()

    class Weights(tiny_backbone):  # type: ignore[misc, valid-type]
        @classmethod
        def checkpoint_at(cls, path: Path) -> Path | None:
            return path.parent if path.suffix == ".weights" else None

        @classmethod
        def load(cls, checkpoint: str | Path, **how: Any) -> TinyBackbone:
            loaded.append(checkpoint)
            return tiny_backbone.load(checkpoint, **how)

    monkeypatch.setattr(plugins, "names", lambda group: ["other", "weights"])
    monkeypatch.setattr(plugins, "load_backbone", lambda name: Weights if name == "weights" else tiny_backbone)
    file = tmp_path / "of-mine.weights"
    file.write_bytes(b"PK\0")
    assert (inspect(file).kind, inspect(file).facts["backbone"]) == ("backbone checkpoint", "weights")
    assert loaded == [tmp_path, tmp_path]


def test_what_is_no_text_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's weights may be of any size."""

    def read(path: Path) -> dict[str, Any]:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("dyslctl.jobs.inspection.read_yaml", read)
    (tmp_path / "model.bin").write_bytes(b"PK\x03\x04\0")
    with pytest.raises(ArtifactError, match="no artifact of dyslctl"):
        inspect(tmp_path / "model.bin")


def test_a_checkpoint_nobody_loads_lists_every_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refuse(name: str) -> None:
        raise ArtifactError(f"not for {name}", hint=f"mend {name}")

    monkeypatch.setattr(plugins, "names", lambda group: ["one", "two"])
    monkeypatch.setattr(plugins, "load_backbone", refuse)
    with pytest.raises(ArtifactError, match="one: not for one\n  two: not for two\n  hint: mend one; mend two"):
        inspect(tmp_path)


@pytest.fixture
def one_does_not_import(tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two backbones are installed; ``tiny`` imports, and takes a folder with a ``config.json`` for its checkpoint."""

    def load(name: str) -> type[TinyBackbone]:
        if name == "broken":
            raise PluginError("backbone 'broken' does not import", hint="dyslctl doctor checks the environment")
        return tiny_backbone

    monkeypatch.setattr(plugins, "names", lambda group: ["broken", "tiny"])
    monkeypatch.setattr(plugins, "load_backbone", load)


@pytest.mark.usefixtures("one_does_not_import")
def test_a_backbone_that_does_not_import_makes_no_checkpoint_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path):
        with pytest.raises(ArtifactError, match="is no artifact of dyslctl"):
            inspect(path)


@pytest.mark.usefixtures("one_does_not_import")
def test_but_it_may_be_the_one_that_weights_are_for(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04\0")
    for path in (tmp_path / "model.pt", tmp_path):
        with pytest.raises(ArtifactError, match="broken: backbone 'broken' does not import\n  hint: dyslctl doctor"):
            inspect(path)
    (tmp_path / "config.json").write_text("{}")
    assert inspect(tmp_path).facts["backbone"] == "tiny", "another one loads it"


@pytest.mark.usefixtures("one_does_not_import")
def test_and_is_named_beside_the_one_that_refuses(
    tmp_path: Path, tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("too small")

    monkeypatch.setattr(tiny_backbone, "checkpoint_at", refuse)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ArtifactError, match="tiny: too small\n  broken: backbone 'broken' does not import"):
        inspect(tmp_path / "notes.txt")
