from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dyslctl.artifacts.bundle import load_bundle
from dyslctl.artifacts.bundle_settings import Exits
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.data.of_suite import SuiteSource
from dyslctl.data.replay import RecordedSuite
from dyslctl.dysl.exit_schedule import worthwhile
from dyslctl.dysl.exits import DAMAGE_FLOOR
from dyslctl.errors import ConfigError
from dyslctl.jobs.distill_exits import ExitTraining, distill_exits
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.fit_tolerance import Answers, OfflineTarget, fit_tolerance
from dyslctl.jobs.profile import profile

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

PREDICTED = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-4, 1, width=32))


def answers(predicted: np.ndarray) -> Answers:
    return Answers(predicted, np.exp(predicted), exits=(2, 4, 6), num_layers=8)


def test_layers_and_damage_by_hand() -> None:
    """A tolerance of 0, squared damages and layers over 8 added up:

    exp(0, -4, -6) + (2, 4, 6) / 8: 1.25, 0.52, 0.75, and 1 for all layers: leaves at 4;
    exp(-3, 0, 0) + ...: 0.30 ...: leaves at 2; exp(0, -2, 0) + ...: 1.25, 0.64, 1.75, 1: at 4.
    """
    found = Answers(
        np.array([[0.0, -2.0, -3.0], [-1.5, 0.0, 0.0], [0.0, -1.0, 0.0]], np.float32),
        np.array([[0.9, 0.3, 0.1], [0.6, 0.0, 0.0], [0.5, 0.5, 0.5]], np.float32),
        exits=(2, 4, 6),
        num_layers=8,
    )
    assert found.layers(0.0) == pytest.approx((4 + 2 + 4) / 3)
    assert found.damage(0.0) == pytest.approx((0.3 + 0.6 + 0.5) / 3)
    # At -0.8 (t^2 = 0.2019) the third stays: 0.1353 + 0.1009 > 0.2019. It leaves from t^2 = 0.1353 * 2 on.
    assert found.layers(-0.8) == pytest.approx((4 + 2 + 8) / 3)
    assert found.damage(-0.8) == pytest.approx((0.3 + 0.6 + 0.0) / 3)
    assert found.layers(found.tolerance((4 + 2 + 8) / 3)) == pytest.approx((4 + 2 + 8) / 3)


@given(PREDICTED, st.floats(-5, 2))
def test_layers_are_those_of_the_policy(predicted: np.ndarray, tolerance: float) -> None:
    chosen = [worthwhile(row, tolerance, (2, 4, 6), 8) for row in predicted.tolist()]
    assert answers(predicted).layers(tolerance) == pytest.approx(np.mean(chosen))


@given(PREDICTED, st.floats(2, 8))
def test_no_other_tolerance_comes_nearer(predicted: np.ndarray, layers: float) -> None:
    found = answers(predicted)
    chosen = found.layers(found.tolerance(layers))
    for tolerance in np.linspace(-6, 4, 200):
        assert abs(chosen - layers) <= abs(found.layers(float(tolerance)) - layers) + 1e-6


@pytest.mark.parametrize("layers", [1.9, 8.1])
def test_layers_out_of_reach_are_refused(layers: float) -> None:
    with pytest.raises(ConfigError, match=r"runs 2\.00 to 8\.00 layers on these frames"):
        answers(np.zeros((4, 3), np.float32)).tolerance(layers)


@pytest.fixture(scope="module")
def trained(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyBackbone, RecordedSuite, SkipProfile, Path]:
    """Exits learnt from nothing but recorded episodes."""
    backbone, folder = tiny_backbone(), tmp_path_factory.mktemp("recorded")
    recorded = RecordedSuite(SuiteSource(tiny_suite(), episodes=20), execute_horizon=2)
    made = profile(
        backbone,
        tiny_suite(),
        recorded=recorded.source,
        plugin_name="tiny",
        checkpoint="tiny",
        samples=16,
    ).profile
    rounds = Rounds(backbone, [recorded], episodes=4, lanes=2)
    for stage in (1, 2):
        settings = ExitTraining.default(1 if stage == 1 else 2, 16).override({"steps": 20, "batch_size": 8})
        init = folder / "1" if stage == 2 else None
        distill_exits(backbone, made, rounds, settings, out=folder / "out", bundle=folder / str(stage), init=init)
    return backbone, recorded, made, folder / "2"


def test_the_profile_names_the_recording(trained: tuple[TinyBackbone, RecordedSuite, SkipProfile, Path]) -> None:
    assert trained[2].suite == trained[1].name and trained[2].samples == 16


def test_a_damage_is_taken_at_the_planners_word(
    trained: tuple[TinyBackbone, RecordedSuite, SkipProfile, Path],
) -> None:
    backbone, recorded, made, bundle = trained
    found = fit_tolerance(backbone, recorded, made, bundle, OfflineTarget(damage=0.3), episodes=2)
    assert found.tolerance == pytest.approx(math.log(0.3 + DAMAGE_FLOOR))
    saved = load_bundle(bundle)
    assert isinstance(saved.settings, Exits) and saved.settings.tolerance == found.tolerance
    assert saved.calibration is not None
    assert saved.calibration == found.calibration
    assert saved.calibration.rule == "offline: predicted damage below 0.3"
    assert (saved.calibration.suite, saved.calibration.split) == (recorded.name, "tune")
    assert saved.calibration.numbers["frames"] == found.frames > 2
    assert "success" not in saved.calibration.numbers


def test_layers_are_met_with_the_memory_that_the_tolerance_leads_to(
    trained: tuple[TinyBackbone, RecordedSuite, SkipProfile, Path],
) -> None:
    backbone, recorded, made, bundle = trained
    found = fit_tolerance(backbone, recorded, made, bundle, OfflineTarget(layers=6.0), episodes=2)
    assert found.layers == pytest.approx(6.0, abs=0.75)  # few frames: each is worth that much of a layer
    assert found.calibration.rule == "offline: 6 layers"
    assert found == fit_tolerance(backbone, recorded, made, bundle, OfflineTarget(layers=6.0), episodes=2)
