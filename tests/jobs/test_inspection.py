from __future__ import annotations

from pathlib import Path

import pytest

from dyslctl import plugins
from dyslctl.artifacts.files import write_json, write_jsonl
from dyslctl.artifacts.run_dir import RunManifest, start_run
from dyslctl.errors import ArtifactError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.inspection import inspect


def _episode(index: int, method: str, *, success: bool, status: str = "done") -> dict[str, object]:
    record = EpisodeRecord(method, "suite", "test", index, "task", index, status, success=success)  # type: ignore[arg-type]
    return record.as_dict()


def test_a_run_directory(tmp_path: Path) -> None:
    start_run(RunManifest.now("tiny", "here", "reach"), root=tmp_path)
    found = inspect(tmp_path / "tiny")
    assert found.kind == "run directory"
    assert found.facts == {"backbone": "tiny", "checkpoint": "here", "suite": "reach"}


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


@pytest.mark.parametrize(
    "content", ["", "hello", "schema: other/1", '{"schema": "dyslctl.unheard-of/1"}', "[1, 2]", "a: ["]
)
def test_anything_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ArtifactError, match="no artifact of dyslctl"):
        inspect(tmp_path / "file")


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


def test_a_checkpoint_nobody_loads_lists_every_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refuse(name: str) -> None:
        raise ArtifactError(f"not for {name}")

    monkeypatch.setattr(plugins, "names", lambda group: ["one", "two"])
    monkeypatch.setattr(plugins, "load_backbone", refuse)
    with pytest.raises(ArtifactError, match="one: not for one\n  two: not for two"):
        inspect(tmp_path)
