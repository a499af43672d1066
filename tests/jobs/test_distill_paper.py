"""Both stages on the tiny backbone, a SIGKILL in the middle, and what must not work."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS, load_bundle
from dyslctl.artifacts.files import read_json
from dyslctl.engine import LayerSchedule, forward
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.jobs.data import collect
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.profile import profile
from dyslctl.jobs.progress import NoProgress
from dyslctl.jobs.trained_paper import load_modules
from dyslctl.types import LayerState

STAGE1 = DistillSettings(stage=1, steps=60, batch_size=16, adapter_lr=5e-3, precision="fp32", checkpoint_every=10)
STAGE2 = dataclasses.replace(STAGE1, stage=2, steps=30, controller_lr=5e-3)


@pytest.fixture(scope="module")
def work(tiny_backbone, tiny_suite):
    """Backbone, profile, data."""
    backbone, suite = tiny_backbone(), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    return backbone, made, collect(backbone, suite, episodes=6)


@pytest.fixture(scope="module")
def stage1(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1")
    return distill_paper(*work, STAGE1, out=folder / "out", bundle=folder / "bundle")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if "self_test" not in name}


def equal(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_stage_1_teaches_adapters_and_leaves_controllers_alone(work, stage1) -> None:
    assert stage1.loss_last < 0.9 * stage1.loss_first
    assert len(stage1.curve) == 60
    header = load_bundle(stage1.bundle_path).header
    assert (header.training.stage, header.training.steps, header.training.samples) == (1, 60, len(work[2]))
    # 5 dynamic layers; H = 16, r = 4: 2 H r + r + H + 2 H = 180.
    assert stage1.trainable_parameters == 5 * 180


def test_a_trained_adapter_lands_nearer_than_the_plain_skip(work, stage1) -> None:
    backbone, made, data = work
    modules = load_modules(stage1.bundle_path, made, backbone).modules
    (batch,) = data.groups
    states = [batch.inputs.hidden]

    class Record(LayerSchedule):
        def after(self, layer, state):
            states.append(state.hidden)

    forward(backbone, LayerState.of(batch.inputs), Record())
    for layer in made.dynamic_layers:
        target = states[modules.partition.next_static(layer)]
        with torch.no_grad():
            assert (modules.adapter(layer)(states[layer]) - target).norm() < (states[layer] - target).norm()


def test_stage_2_trains_both_and_logs_its_parts(work, stage1, tmp_path) -> None:
    result = distill_paper(*work, STAGE2, out=tmp_path / "out", bundle=tmp_path / "bundle", init=stage1.bundle_path)
    assert {"task", "penalty", "gate"} <= result.curve[0].keys()
    before, after = weights(stage1.bundle_path), weights(result.bundle_path)
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"adapters", "controllers"}
    assert result.trainable_parameters > 5 * 180
    assert read_curve(tmp_path / "out")[-1]["step"] == 29


def read_curve(folder: Path) -> list[dict[str, float]]:
    return read_json(folder / "curve.json")["curve"]


def test_a_heavy_price_on_layers_opens_the_gates(work, stage1, tmp_path) -> None:
    greedy = dataclasses.replace(STAGE2, steps=60, penalty_weight=10.0, controller_lr=5e-2)
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle", "init": stage1.bundle_path}
    curve = distill_paper(*work, greedy, **where).curve
    assert curve[0]["gate"] < 0.3 < 0.7 < curve[-1]["gate"]


def test_the_backbone_is_untouched(work, tiny_backbone, stage1, tmp_path) -> None:
    distill_paper(*work, STAGE2, out=tmp_path / "out", bundle=tmp_path / "bundle", init=stage1.bundle_path)
    for trained, fresh in zip(work[0].parameters(), tiny_backbone().parameters(), strict=True):
        assert torch.equal(trained, fresh)
        assert trained.grad is None


def test_bf16_autocast_learns_the_same_thing(work, stage1, tmp_path) -> None:
    bf16 = dataclasses.replace(STAGE1, precision="bf16")
    result = distill_paper(*work, bf16, out=tmp_path / "out", bundle=tmp_path / "bundle")
    assert result.loss_last == pytest.approx(stage1.loss_last, rel=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in weights(result.bundle_path).values())
    assert not equal(result.bundle_path, stage1.bundle_path)


def test_stage_2_without_stage_1_is_refused_unless_asked_for(work, tmp_path) -> None:
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle"}
    with pytest.raises(ConfigError, match="stage 2 starts from the adapters of stage 1") as caught:
        distill_paper(*work, STAGE2, **where, init=tmp_path / "nothing")
    assert caught.value.hint == "dyslctl distill --stage 1 --method dysl-paper comes first"
    assert not (tmp_path / "bundle").exists()
    assert distill_paper(*work, dataclasses.replace(STAGE2, from_scratch=True), **where).stage == 2


def test_windows_need_a_head_that_remembers(work, tmp_path) -> None:
    with pytest.raises(ConfigError, match="window: expected 1 for TinyBackbone, whose head remembers nothing, found 3"):
        distill_paper(*work, dataclasses.replace(STAGE1, window=3), out=tmp_path, bundle=tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_both_stages_learn_from_windows(tiny_backbone, tiny_suite, tmp_path) -> None:
    backbone, suite = tiny_backbone(memory=True), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    work = (backbone, made, collect(backbone, suite, episodes=6))
    how, stage1 = {"batch_size": 4, "window": 3, "steps": 20}, tmp_path / "stage1"
    distill_paper(*work, dataclasses.replace(STAGE1, **how), out=tmp_path / "1", bundle=stage1)
    bundles = {}
    for window in (3, 1):
        settings = dataclasses.replace(STAGE2, **{**how, "window": window})
        bundles[window] = tmp_path / f"stage2-{window}"
        distill_paper(*work, settings, out=tmp_path / f"2-{window}", bundle=bundles[window], init=stage1)
    assert not equal(bundles[3], bundles[1])
    assert not equal(bundles[3], stage1)


def test_a_stage_1_bundle_of_another_profile_is_refused(work, stage1, tmp_path) -> None:
    backbone, made, data = work
    other = made.model_copy(update={"static_layers": (0, 3, 7)})
    with pytest.raises(ArtifactError, match="belongs to another skip profile"):
        distill_paper(backbone, other, data, STAGE2, out=tmp_path / "o", bundle=tmp_path / "b", init=stage1.bundle_path)


def test_a_profile_of_other_weights_is_refused(work, tiny_backbone, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="made with other weights"):
        distill_paper(tiny_backbone(seed=1), *work[1:], STAGE1, out=tmp_path / "o", bundle=tmp_path / "b")


def test_equal_seeds_give_equal_weights_and_others_do_not(work, stage1, tmp_path) -> None:
    again = distill_paper(*work, STAGE1, out=tmp_path / "o", bundle=tmp_path / "same")
    other = distill_paper(*work, dataclasses.replace(STAGE1, seed=1), out=tmp_path / "o", bundle=tmp_path / "other")
    assert equal(again.bundle_path, stage1.bundle_path)
    assert not equal(other.bundle_path, stage1.bundle_path)


def test_divergence_writes_no_bundle(work, tmp_path) -> None:
    wild = dataclasses.replace(STAGE1, adapter_lr=1e30)
    with pytest.raises(ConfigError, match="diverged"):
        distill_paper(*work, wild, out=tmp_path / "out", bundle=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.jobs.data import collect
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.progress import NoProgress

class Kill(NoProgress):
    done = 0
    def advance(self, amount=1, **fields):
        self.done += amount
        if self.done == 17:
            os.kill(os.getpid(), signal.SIGKILL)

folder, init = Path(sys.argv[2]), Path(sys.argv[3])
settings = DistillSettings(stage=2, steps=30, batch_size=16, adapter_lr=5e-3, controller_lr=5e-3, precision="fp32",
                           checkpoint_every=10)
backbone = tiny.TinyBackbone()
data = collect(backbone, tiny.TinyReach(), episodes=6)
distill_paper(backbone, SkipProfile.load(folder / "profile.yaml"), data, settings, out=folder / "out",
              bundle=folder / "bundle", init=init, progress=Kill())
"""


def test_a_killed_stage_2_resumes_to_the_same_weights(work, stage1, tmp_path) -> None:
    work[1].save(tmp_path / "profile.yaml")
    tiny = Path(__file__).parents[1] / "tiny.py"
    killed = subprocess.run([sys.executable, "-c", KILLED, tiny, tmp_path, stage1.bundle_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()

    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle", "resume": True}
    with pytest.raises(ConfigError, match="stage1: then"):
        distill_paper(*work, dataclasses.replace(STAGE2, from_scratch=True), **where)
    resumed = distill_paper(*work, STAGE2, **where, init=stage1.bundle_path)
    whole = distill_paper(*work, STAGE2, out=tmp_path / "o", bundle=tmp_path / "whole", init=stage1.bundle_path)
    assert equal(resumed.bundle_path, whole.bundle_path)
    assert resumed.curve == whole.curve


def test_an_interrupted_stage_1_resumes_to_the_same_weights(work, stage1, tmp_path) -> None:
    class Interrupt(NoProgress):
        done = 0

        def advance(self, amount: int = 1, **fields: float) -> None:
            self.done += amount
            if self.done == 23:
                raise KeyboardInterrupt

    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle"}
    with pytest.raises(KeyboardInterrupt):
        distill_paper(*work, STAGE1, **where, progress=Interrupt())
    resumed = distill_paper(*work, STAGE1, **where, resume=True)
    assert equal(resumed.bundle_path, stage1.bundle_path)
    assert resumed.curve == stage1.curve


def test_resume_refuses_other_settings(work, tmp_path) -> None:
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle"}
    short = dataclasses.replace(STAGE1, steps=10)
    distill_paper(*work, short, **where)
    with pytest.raises(ConfigError, match=r"adapter_lr: then 0.005, now 0.001"):
        distill_paper(*work, dataclasses.replace(short, adapter_lr=1e-3), **where, resume=True)
    assert distill_paper(*work, dataclasses.replace(short, checkpoint_every=3), **where, resume=True).steps == 10


def test_settings_are_overridden_by_name() -> None:
    assert DistillSettings.default(2, 4096).override({"steps": 7}).steps == 7
    with pytest.raises(ConfigError, match=r"no setting 'stepz' for this method\. Did you mean 'steps'") as caught:
        DistillSettings.default(1, 64).override({"stepz": 7})
    assert caught.value.hint is not None and "penalty_weight" in caught.value.hint


def test_a_head_with_a_memory_learns_on_its_window() -> None:
    """24 windows of 12 frames are those of Tables 8 and 9."""
    sizes = [(hidden, window) for hidden in (2048, 96) for window in (12, 1)]
    found = [DistillSettings.default(2, *size) for size in sizes]
    assert [(each.batch_size, each.window) for each in found] == [(24, 12), (32, 1), (8, 12), (64, 1)]


def test_published_sizes_get_the_papers_hyper_parameters() -> None:
    settings = [DistillSettings.default(stage, 4096) for stage in (1, 2)]
    assert [s.steps for s in settings] == [7_693, 29_307]
    assert {(s.batch_size, s.adapter_lr, s.controller_lr, s.penalty_weight, s.decay) for s in settings} == {
        (32, 1e-4, 1e-4, 1e-2, "constant")
    }
