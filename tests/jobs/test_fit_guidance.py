from pathlib import Path

import numpy as np
import pytest
import torch

from dyslctl.artifacts.bundle import SETTINGS, WEIGHTS, save_settings
from dyslctl.artifacts.skip_profile import Guidance
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.jobs.data import collect
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.fit_guidance import CalibrationSettings, fit_etas, fit_guidance, record, skip_probabilities
from dyslctl.jobs.profile import profile
from dyslctl.jobs.trained_paper import load_modules
from dyslctl.jobs.trajectories import Trajectory
from dyslctl.suite import EpisodeSpec
from dyslctl.types import Observation

PARTITION = LayerPartition(6, (0, 5))


@pytest.fixture
def bundle(tiny_backbone, tiny_suite, tmp_path: Path):
    """Backbone, suite, profile and an untuned bundle."""
    backbone, suite = tiny_backbone(), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=8, ratio=0.4).profile
    settings = DistillSettings(stage=1, steps=1, batch_size=4, precision="fp32")
    data = collect(backbone, suite, episodes=2)
    distill_paper(backbone, made, data, settings, out=tmp_path / "out", bundle=tmp_path / "bundle")
    return backbone, suite, made, tmp_path / "bundle"


def straight(jumps: list[float]) -> Trajectory:
    """One-dimensional actions, one an inference, each ``jumps[i]`` above the one before."""
    made = Trajectory(EpisodeSpec("hand", "tune", 0, "task", 0))
    for action in np.cumsum(jumps):
        chunk = np.array([[action]], np.float32)
        made.add(Observation({}, "go"), chunk, chunk, 1)
    return made


def test_quantiles_by_hand() -> None:
    # k = 1: C_t = -|A_t - A_{t-1}|, so delta C_t = |jump before| - |jump now|.
    made = straight([0, 1, 1, 3, 1, 1])
    how = CalibrationSettings(rule="quantile", p1=0.0, p2=0.0)
    etas = fit_etas([made], Guidance(k=1), PARTITION, None, how)
    assert (etas.eta_1, etas.eta_2) == (pytest.approx(-2), pytest.approx(2))


def test_occupancy_comes_close_to_its_target() -> None:
    rng = np.random.default_rng(0)
    trajectories = [straight(list(rng.normal(size=60))) for _ in range(8)]
    for target in (0.2, 0.6):
        how = CalibrationSettings(rule="occupancy", protected=target, p2=0.3)
        found = fit_etas(trajectories, Guidance(), PARTITION, None, how)
        assert found.protected_fraction == pytest.approx(target, abs=0.1)
        assert found.eta_1 < 0 <= found.eta_2


def test_episodes_come_back_in_order(tiny_backbone, tiny_suite) -> None:
    found = record(tiny_backbone(), tiny_suite(), episodes=5, lanes=2)
    assert [made.spec for made in found] == tiny_suite().episodes("tune", 5)


def test_every_setting_of_the_file_reaches_the_policy(bundle) -> None:
    backbone, _, made, folder = bundle
    layer, scale = made.dynamic_layers[0], (2.0,) * backbone.spec.action_dim
    edited = Guidance(eta_1=-0.5, eta_2=0.1, k=3, tau=0.4, tau_by_layer={layer: 0.9}, stride=2, scale=scale)
    save_settings(folder, edited, None)
    settings = load_modules(folder, made, backbone).guidance
    assert Guidance.of(settings) == edited
    assert settings.threshold(layer) == 0.9


def test_calibration_changes_the_settings_and_nothing_else(bundle) -> None:
    backbone, suite, made, folder = bundle
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(ArtifactError, match="not calibrated yet"):
        _ = load_modules(folder, made, backbone).guidance
    result = fit_guidance(backbone, suite, made, folder, episodes=6, lanes=3)
    assert (folder / WEIGHTS).read_bytes() == before
    loaded = load_modules(folder, made, backbone)
    assert (loaded.guidance.eta_1, loaded.guidance.eta_2) == (result.guidance.eta_1, result.guidance.eta_2)
    assert loaded.guidance.k == made.guidance.k
    assert (result.calibration.split, result.calibration.episodes, result.calibration.suite) == (
        "tune",
        6,
        "tiny_reach",
    )


def test_calibration_is_reproducible(bundle) -> None:
    backbone, suite, made, folder = bundle
    one = fit_guidance(backbone, suite, made, folder, episodes=6, lanes=3)
    two = fit_guidance(backbone, suite, made, folder, episodes=6, lanes=6)
    assert fit_guidance(backbone, suite, made, folder, episodes=6, lanes=3).calibration == one.calibration
    assert two.guidance.eta_1 == pytest.approx(one.guidance.eta_1, rel=1e-3)


def test_edited_settings_are_kept(bundle) -> None:
    backbone, suite, made, folder = bundle
    settings = folder / SETTINGS
    settings.write_text(settings.read_text().replace("k: 5", "k: 3"))
    assert fit_guidance(backbone, suite, made, folder, episodes=4).guidance.k == 3
    assert load_modules(folder, made, backbone).guidance.k == 3


def test_a_bundle_of_another_profile_is_refused(bundle) -> None:
    backbone, suite, made, folder = bundle
    other = made.model_copy(update={"static_layers": (0, 3, 7)})
    with pytest.raises(ArtifactError, match="another skip profile"):
        fit_guidance(backbone, suite, other, folder, episodes=2)


def test_no_bundle_is_an_artifact_error(bundle) -> None:
    backbone, suite, made, folder = bundle
    with pytest.raises(ArtifactError, match="no such file"):
        fit_guidance(backbone, suite, made, folder.with_name("nothing"), episodes=2)


def test_unmoving_episodes_cannot_be_calibrated() -> None:
    with pytest.raises(ConfigError, match="continuity never falls"):
        fit_etas([straight([0.0] * 30)], Guidance(), PARTITION, None, CalibrationSettings(rule="occupancy"))


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_skip_rate_gives_every_controller_its_own_tau(bundle, rate: float) -> None:
    backbone, suite, made, folder = bundle
    how = CalibrationSettings(rule="quantile", skip_rate=rate)
    fit_guidance(backbone, suite, made, folder, episodes=4, how=how)
    trained = load_modules(folder, made, backbone)
    seen = [one for trajectory in record(backbone, suite, episodes=4) for one in trajectory.observations]
    answers = skip_probabilities(backbone, trained.modules, seen, batch_size=3)
    assert list(answers) == list(made.dynamic_layers)
    for layer, probabilities in answers.items():
        skipped = (probabilities > trained.guidance.threshold(layer) + 1e-7).mean()
        assert skipped <= rate and skipped == pytest.approx(rate, abs=2 / len(seen))


def test_answers_near_one_stay_apart_in_bfloat16(tiny_backbone, tiny_suite) -> None:
    """There the sigmoid of 7 is 1, which no threshold leaves a skip above."""
    backbone, suite = tiny_backbone(dtype=torch.bfloat16), tiny_suite()
    modules = SkipModules(PARTITION, SkipSizes.mini(16)).to(torch.bfloat16)
    for layer in PARTITION.dynamic_layers:
        torch.nn.init.constant_(modules.controller(layer).out.bias, 7.0)
    seen = suite.demonstrate(suite.episodes("train", 1)[0]).observations
    for answers in skip_probabilities(backbone, modules, seen).values():
        assert answers.dtype == np.float64 and (answers < 1).all() and (answers > 0.998).all()
