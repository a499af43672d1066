"""``dyslctl analyze ablation`` on the tiny backbone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import Result

from dyslctl import methods
from dyslctl.artifacts.bundle import load_bundle
from dyslctl.artifacts.bundle_settings import BundleSettings
from dyslctl.artifacts.lock import locked
from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.ablations import Cell, built_in
from dyslctl.cli.config import merge, parse_set
from dyslctl.cli.steps import seeds, variants
from dyslctl.cli.steps.ablation import fits, plays, trainings
from dyslctl.cli.steps.variants import fitted_part, folder_name, trained_part
from dyslctl.errors import ConfigError

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]
RUN = Path("runs/tiny")
OUT = RUN / "analysis/ablation"
SMALL = (
    *("--set", "distill.episodes=2", "--set", "distill.batch_size=4", "--set", "distill.steps=3"),
    *("--set", "guidance.episodes=2", "--episodes", "3", "--tune-episodes", "2"),
)
SWEEP = ("analyze", "ablation", *SMALL)
TABLES = """
schema: dyslctl.ablations/1
tables:
  mine:
    title: Mine
    reference: as it is
    cells:
      - {name: as it is, method: dysl-paper}
      - {name: k 2, method: dysl-paper, set: [profile.guidance.k=2]}
      - {name: also k 2, method: dysl-paper, set: [profile.guidance.k=2]}
      - {name: wide, method: dysl-paper, set: [profile.modules.adapter_width=6, profile.guidance.k=2]}
      - {name: three static, method: dysl-paper, set: [profile.static_layers=3]}
      - {name: too few static, method: dysl-paper, set: [profile.static_layers=1]}
"""
SET = """
schema: dyslctl.ablations/1
tables:
  set:
    title: Set to 6 of 8 layers
    reference: dysl
    share: 0.75
    cells:
      - {name: dysl, method: dysl}
      - {name: often, method: dysl, set: [execute_horizon=1]}
      - {name: chance, method: random-skip-adapters}
"""
OTHER = "  other: {title: T, reference: a, cells: [{name: a, method: full}]}\n"


@pytest.fixture
def mine(run: Run) -> str:
    """A file with one table."""
    Path("mine.yaml").write_text(TABLES)
    return "mine.yaml"


VALUES = st.sampled_from(
    ["profile.ratio=0.3", "profile.guidance.k=2", "guidance.p1=0.2", "distill.exits=[3, 5]", "pruning.keep=0.5"]
)
CELLS = st.lists(
    st.tuples(st.sampled_from(["dysl", "dysl-paper", "dysl-paper-no-pre", "full"]), st.lists(VALUES, unique=True)),
    min_size=1,
    max_size=6,
)


@given(CELLS, st.lists(st.integers(0, 3), unique=True, min_size=1))
def test_no_two_pieces_of_a_stretch_write_into_one_run(cells: list[tuple[str, list[str]]], seeds: list[int]) -> None:
    made = [Cell(name=str(number), method=method, set=tuple(own)) for number, (method, own) in enumerate(cells)]
    trained, fitted = trainings(made, seeds), fits(made, seeds)
    for stretch in (trained, fitted):
        places = [(folder_name(task.settings), task.seed) for task in stretch]
        assert len(places) == len(set(places))
    # What is fitted has been trained before, and is no run that is trained; what is played is there.
    where = {(task.settings, task.seed): set(task.names) for task in (*trained, *fitted)}
    for task in fitted:
        assert set(task.names) <= where[trained_part(task.settings), task.seed]
        assert task.settings != trained_part(task.settings)
    for task in plays(made, seeds).values():
        if task.seed is not None:
            needed = set(methods.bundles(task.names))
            assert needed <= where.get((fitted_part(task.settings), task.seed), set())


@given(st.lists(st.text(min_size=1), max_size=3), st.lists(st.text(min_size=1), max_size=3))
def test_a_variant_has_a_folder_of_its_own(one: list[str], other: list[str]) -> None:
    names = [folder_name(tuple(settings)) for settings in (one, other)]
    assert all(len(name) < 140 and "/" not in name and name not in (".", "..") for name in names)
    assert (names[0] == names[1]) == (",".join(one) == ",".join(other))


def test_the_built_in_tables_name_methods_and_settings_that_exist() -> None:
    for table in built_in().values():
        for cell in table.cells:
            methods.method(cell.method)
            merge([parse_set(each) for each in cell.set])


def test_the_papers_parts_one_by_one(profiled: dict[str, Any], document: Documents) -> None:
    found = document(*SWEEP, "--table", "4")
    assert (found["schema"], found["table"], found["reference"]) == ("dyslctl.ablation/1", "4", "dysl-paper")
    cells = {cell["name"]: cell for cell in found["cells"]}
    assert list(cells)[:2] == ["full", "dysl-paper"] and len(cells) == 6
    assert cells["full"]["layers_per_inference"] == 8 and cells["full"]["set"] == []
    for name, cell in cells.items():
        better = cell["reference_better"]
        assert (better is None) == (name == "dysl-paper") and cell["episodes"] == 3
        if better:
            assert better["wins"] + better["losses"] + better["ties"] == 3
    assert cells["no post-skip verification"]["verifications_per_episode"] == 0
    # Three cells are one training, of the run that ``analyze pareto`` would use; the others have their own.
    headers = [load_bundle(path).header.training for path in sorted(RUN.rglob("seeds/seed0/bundles/dysl-paper"))]
    assert [(header.stage, header.steps) for header in headers] == [(2, 3), (2, 6)]
    assert not (RUN / "variants/distill.from_scratch=true/seeds/seed0/bundles/dysl-paper-stage1").exists()
    rows = list(csv.DictReader((OUT / "4-tiny_reach/table.csv").read_text().splitlines()))
    assert [(row["cell"], row["seed"]) for row in rows[:4]] == [
        ("full", ""),
        ("full", "all"),
        ("dysl-paper", "0"),
        ("dysl-paper", "all"),
    ]
    assert "| no pre-skip prediction |" in (OUT / "4-tiny_reach/table.md").read_text()
    assert json.loads((OUT / "4-tiny_reach/result.json").read_text())["cells"] == found["cells"]
    assert "Ablations" in Path(document("report")["report_path"]).read_text(encoding="utf-8")
    assert Path("runs/current").read_text() == "tiny\n"


def test_cells_that_learn_the_same_share_a_training(profiled: dict[str, Any], document: Documents, mine: str) -> None:
    found = document(*SWEEP, "--table", mine, "--seeds", "0,1")
    cells = {cell["name"]: cell for cell in found["cells"]}
    assert cells["too few static"]["refused"].startswith("1 static layers of 8: expected 2")
    assert {k: v for k, v in cells["k 2"].items() if k != "name"} == {
        k: v for k, v in cells["also k 2"].items() if k != "name"
    }
    base, own = (
        RUN / "seeds/seed1/bundles/dysl-paper",
        RUN / "variants/profile.guidance.k=2/seeds/seed1/bundles/dysl-paper",
    )
    assert (base / "bundle.safetensors").read_bytes() == (own / "bundle.safetensors").read_bytes()
    guidance = [BundleSettings.load(path / "bundle.yaml").guidance for path in (base, own)]
    assert [each and each.k for each in guidance] == [5, 2] and all(each and each.eta_1 for each in guidance)
    assert not (RUN / "variants/profile.guidance.k=2/seeds/seed1/distill").exists()
    wide = RUN / "variants/profile.modules.adapter_width=6"
    assert SkipProfile.load(wide / "skip_profile.yaml").modules.adapter_width == 6
    assert (wide / "seeds/seed0/distill").exists()
    assert len(SkipProfile.load(RUN / "variants/profile.static_layers=3/skip_profile.yaml").static_layers) == 3
    # A variant is a run: every command works on it.
    shown = document("eval", "--run", str(wide / "seeds/seed0"), "--method", "dysl-paper")
    assert shown["methods"]["dysl-paper"]["episodes"] == 1


def test_what_needs_no_training_needs_no_trained_run(profiled: dict[str, Any], document: Documents) -> None:
    """``efficientvla`` is built from the skip profile, which is the run's where nothing has been trained."""
    cells = "[{name: a, method: divprune}, {name: b, method: efficientvla}]"
    Path("own.yaml").write_text(
        f"schema: dyslctl.ablations/1\ntables:\n  x: {{title: t, reference: a, cells: {cells}}}\n"
    )
    assert [cell["name"] for cell in document(*SWEEP, "--table", "own.yaml")["cells"]] == ["full", "a", "b"]
    assert not (RUN / "seeds").exists()


def test_resumed_it_trains_fits_and_plays_nothing_again(
    profiled: dict[str, Any], document: Documents, run: Run, mine: str, monkeypatch: pytest.MonkeyPatch, tiny_suite: Any
) -> None:
    whole = document(*SWEEP, "--table", mine, "--resume")

    def fail(what: str) -> NoReturn:
        raise ConfigError(what)

    with monkeypatch.context() as unable:
        unable.setattr(tiny_suite, "make", lambda self: fail("played"))
        unable.setattr(seeds, "run_distill", lambda *_, **__: fail("trained"))
        unable.setattr(variants, "measured", lambda *_, **__: fail("profiled"))
        unable.setattr(variants, "trainer", lambda *_, **__: fail("fitted"))
        # What the profile refuses leaves nothing behind, so it is asked again.
        unable.setattr(variants, "measured", lambda *_, **__: fail(whole["cells"][-1]["refused"]))
        assert document(*SWEEP, "--table", mine, "--resume") == whole
        again = run(*SWEEP, "--table", mine, "--resume", "--set", "distill.steps=4", "-q").stderr
        assert "train dysl-paper, as-is, seed 0: trained" in again


def test_a_budget_sets_every_cell_and_the_horizon_is_a_setting(profiled: dict[str, Any], document: Documents) -> None:
    Path("own.yaml").write_text(SET)
    found = document(*SWEEP, "--table", "own.yaml")
    assert found["layers"] == 6 and found["tune_episodes"] == 2
    points = {point["method"]: point for point in found["points"]}
    assert points["chance"]["target_layers"] == 6
    assert points["dysl"]["dial"] is not None and points["often"]["tune"]["episodes"] == 2
    assert points["often"]["inferences_per_episode"] > points["dysl"]["inferences_per_episode"]


def test_the_joint_table_trains_every_bundle_once() -> None:
    cells = built_in()["joint"].cells
    trained = [(folder_name(task.settings), task.names) for task in trainings(cells, [0])]
    assert trained == [("as-is", ("dysl", "dysl-paper")), ("distill.token_subsets=true", ("dysl",))]
    assert fits(cells, [0]) == [], "an agreement is neither trained nor fitted"
    played = set(plays(cells, [0]).values())
    assert len(played) == 1 + len(cells) == 12, "no two cells are the same"


def changed(old: str, new: str) -> str:
    assert old in TABLES
    return TABLES.replace(old, new, 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("44", "--table: no table '44'. Did you mean '4'?"),
        ("missing.yaml", "no such file: missing.yaml"),
        (changed("k 2, method: dysl-paper,", "k 2, method: dysl-papr,"), "no method named 'dysl-papr'"),
        (changed("k=2", "kk=2"), "cell 'k 2': --set profile.guidance.kk=2"),
        (changed("profile.guidance.k=2", "distill.remembers=true"), "cell 'k 2': distill.remembers: no method"),
        (changed("profile.guidance.k=2", "model.dtype=float32"), "is no setting of profile, distill"),
        (changed("also k 2", "k 2"), "two cells are called 'k 2'"),
        (changed("reference: as it is", "reference: nothing"), "no cell is called 'nothing'"),
        (
            changed("k 2, method: dysl-paper, set: [profile.guidance.k=2]", "k 2, method: static"),
            "must be told how many",
        ),
        (changed("reference: as it is", "reference: too few static"), "the reference 'too few static' cannot be"),
        (changed("  mine:", f"{OTHER}  mine:"), "own.yaml holds several tables"),
    ],
)
def test_bad_tables_fail_before_any_training(profiled: dict[str, Any], run: Run, table: str, message: str) -> None:
    if "\n" in table:
        Path("own.yaml").write_text(table)
        table = "own.yaml"
    result = run(*SWEEP, "--table", table)
    assert result.exit_code in (2, 4) and message in result.stderr
    assert not OUT.exists() and not (RUN / "seeds").exists()


def test_a_table_is_chosen_by_name_in_a_file_of_several(profiled: dict[str, Any], document: Documents) -> None:
    Path("own.yaml").write_text(changed("  mine:", f"{OTHER}  mine:"))
    assert [cell["name"] for cell in document(*SWEEP, "--table", "own.yaml:other")["cells"]] == ["full", "a"]


def test_a_run_that_is_being_trained_is_left_alone(profiled: dict[str, Any], run: Run, mine: str) -> None:
    lock = RunDirectory(RUN / "seeds/seed0").training_lock
    with locked(lock, "", ""):
        result = run(*SWEEP, "--table", mine, "-q")
    assert result.exit_code == 3 and "seeds/seed0 is being trained by process" in result.stderr
