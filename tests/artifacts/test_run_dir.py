from __future__ import annotations

from pathlib import Path

import pytest

from dyslctl.artifacts.run_dir import RunDirectory, RunManifest, current_run, open_run, place_run, save_start
from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch

MANIFEST = RunManifest.now("openvla-oft", "mini", "tabletop_object")


def start(name: str, root: Path) -> RunDirectory:
    run = place_run(name, root)
    save_start(run, MANIFEST, root)
    return run


def test_a_run_that_starts_becomes_the_current_one(tmp_path: Path) -> None:
    run = start("openvla-oft", tmp_path / "runs")
    assert run.path == tmp_path / "runs" / "openvla-oft"
    assert (tmp_path / "runs" / "current").read_text() == "openvla-oft\n"
    opened = open_run(root=tmp_path / "runs")
    assert opened == run and opened.manifest() == MANIFEST


def test_runs_by_name_and_by_path(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere" / "run-2"
    start("a", root)
    start("b", root)
    start(str(elsewhere), root)
    assert open_run("a", root).name == "a"
    assert open_run(str(root / "b"), root).name == "b"
    assert open_run(None, root).path == elsewhere


def test_the_layout(tmp_path: Path) -> None:
    run = start("r", tmp_path)
    paths = [
        run.manifest_path,
        run.skip_profile,
        run.bundle("dysl", 1),
        run.bundle(),
        run.bundle("dysl-paper"),
        run.distill("dysl", 2),
        run.eval("s"),
        run.bench("orin"),
        run.report,
    ]
    assert [str(path.relative_to(run.path)) for path in paths] == [
        "manifest.json",
        "skip_profile.yaml",
        "bundles/dysl-stage1",
        "bundles/dysl",
        "bundles/dysl-paper",
        "distill/dysl-stage2",
        "eval/s",
        "bench/orin",
        "report",
    ]


def test_no_current_run_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no current run") as caught:
        open_run(root=tmp_path / "runs")
    assert caught.value.hint == "dyslctl profile openvla-oft starts a run"


def test_an_unknown_run_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    start("first", tmp_path)
    with pytest.raises(ConfigError, match=r"no run at .*frist\. Did you mean 'first'\?\n  runs: first"):
        open_run("frist", tmp_path)


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a b", "-x", "x" * 65, "a\n", "é"])
def test_names_cannot_play_tricks(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a run name"):
        start(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_current_file_cannot_either(tmp_path: Path) -> None:
    start("a", tmp_path)
    (tmp_path / "current").write_text("..\n")
    with pytest.raises(ConfigError, match="is not a run name"):
        open_run(root=tmp_path)


def test_a_file_where_runs_belong(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(EnvironmentMismatch, match="cannot write") as caught:
        start("r", tmp_path / "runs")
    assert caught.value.exit_code == 3 and caught.value.hint is not None


def test_a_read_only_file_system() -> None:
    with pytest.raises(EnvironmentMismatch, match="cannot write"):
        start("r", Path("/proc/runs"))


def test_a_folder_that_is_no_run_or_of_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"no such file: .*manifest\.json"):
        open_run("empty", tmp_path)
    run = start("new", tmp_path)
    run.manifest_path.write_text(run.manifest_path.read_text().replace("dyslctl.run/1", "dyslctl.run/9"))
    with pytest.raises(ArtifactError, match="made by a newer dyslctl"):
        open_run("new", tmp_path)


def test_current_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "current").write_text("by-hand")
    assert current_run(tmp_path) == "by-hand"


def test_the_bundles_there_are(tmp_path: Path) -> None:
    run = start("mine", tmp_path)
    assert run.bundles() == []
    for method, stage in (("static", 2), ("dysl", 2), ("dysl", 1)):
        run.bundle(method, stage).mkdir(parents=True)
    (run.path / "bundles" / ".half-written").mkdir()
    assert [folder.name for folder in run.bundles()] == ["dysl", "dysl-stage1", "static"]


def test_a_run_of_an_earlier_version_says_its_horizon_elsewhere(tmp_path: Path) -> None:
    run = start("old", tmp_path)
    run.profile_config.parent.mkdir()
    run.profile_config.write_text("data: {path: recorded, execute_horizon: 4}\n")
    assert (run.execute_horizon(), run.told("data")) == (4, {"path": "recorded"})
    run.profile_config.write_text("execute_horizon: 2\ndata: {path: recorded}\n")
    assert (run.execute_horizon(), run.told("data")) == (2, {"path": "recorded"})
