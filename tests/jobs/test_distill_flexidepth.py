"""One stage on the tiny backbone, once for all tokens or token by token; its resume, and what must not load."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS, RouterSizes, load_bundle
from dyslctl.artifacts.bundle_settings import Routing
from dyslctl.backbone import Backbone
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.jobs.data import collect
from dyslctl.jobs.distill_flexidepth import RouterTraining, distill_flexidepth
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.inspection import inspect
from dyslctl.jobs.profile import profile
from dyslctl.jobs.single_stage import Work
from dyslctl.jobs.trained_flexidepth import load_routers
from dyslctl.jobs.trained_paper import load_modules

QUICK = RouterTraining(
    steps=40,
    batch_size=16,
    adapter_lr=5e-3,
    controller_lr=5e-3,
    penalty_weight=1e-4,
    precision="fp32",
    checkpoint_every=10,
)


@pytest.fixture(scope="module")
def work(tiny_backbone, tiny_suite):
    """Backbone, profile, data."""
    backbone, suite = tiny_backbone(), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    return backbone, made, collect(backbone, suite, episodes=6)


@pytest.fixture(scope="module")
def trained(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flexidepth")
    return distill_flexidepth(Work(*work, folder / "out", folder / "bundle"), QUICK)


@pytest.fixture(scope="module")
def by_token(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return distill_flexidepth(Work(*work, folder / "out", folder / "bundle"), QUICK, "flexidepth-tokens")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if "self_test" not in name}


def test_it_learns_the_task_in_one_stage_and_says_so(work, trained) -> None:
    assert trained.curve[-1]["task"] < trained.curve[0]["task"]
    header = load_bundle(trained.bundle_path).header
    assert (header.training.method, header.training.stage, header.training.steps) == ("flexidepth", 2, 40)
    assert header.modules == RouterSizes(adapter_width=4, router_width=16, pool="query_tokens")
    # 8 layers; adapter 180 as for dysl-paper; router: 2 H + H h + h + 2 h + h + 1 with H = h = 16.
    assert trained.trainable_parameters == 8 * (180 + 32 + 256 + 16 + 32 + 16 + 1)
    assert inspect(trained.bundle_path).facts["tau"] == 0.5
    assert "Adapters and routers (FlexiDepth)" in (trained.bundle_path / "README.md").read_text()


def test_a_heavy_price_opens_the_gates_and_none_keeps_them_shut(work, tmp_path) -> None:
    greedy = dataclasses.replace(QUICK, steps=60, penalty_weight=1.0, controller_lr=5e-2)
    curve = distill_flexidepth(Work(*work, tmp_path / "out", tmp_path / "bundle"), greedy).curve
    assert curve[0]["gate"] < 0.3 < 0.7 < curve[-1]["gate"]
    assert curve[-1]["penalty"] < 0.1 * curve[0]["penalty"]


def test_token_by_token_it_learns_the_task_too(work, trained, by_token) -> None:
    assert by_token.curve[-1]["task"] < by_token.curve[0]["task"]
    header = load_bundle(by_token.bundle_path).header
    assert (header.training.method, header.training.stage) == ("flexidepth-tokens", 2)
    assert by_token.trainable_parameters == trained.trainable_parameters
    assert by_token.curve[-1]["task"] != trained.curve[-1]["task"], "what routers read differs"


def test_tokens_have_a_price_of_their_own(work, tmp_path) -> None:
    greedy = dataclasses.replace(QUICK, steps=60, penalty_weight=1.0, controller_lr=5e-2)
    where = Work(*work, tmp_path / "out", tmp_path / "bundle")
    curve = distill_flexidepth(where, greedy, "flexidepth-tokens").curve
    assert curve[0]["gate"] < 0.3 < 0.7 < curve[-1]["gate"]
    assert curve[-1]["penalty"] < 0.1 * curve[0]["penalty"]


def test_a_backbone_that_runs_layers_for_all_tokens_only_is_refused(work, tmp_path) -> None:
    backbone, *rest = work

    class Whole(type(backbone)):
        keys_values = Backbone.keys_values

    with pytest.raises(ConfigError, match="Whole makes no keys and values") as caught:
        distill_flexidepth(Work(Whole(), *rest, tmp_path / "out", tmp_path / "bundle"), QUICK, "flexidepth-tokens")
    assert "flexidepth" in caught.value.hint and not (tmp_path / "out").exists()


def test_the_bundle_comes_back_as_it_was(work, trained) -> None:
    backbone, made, _ = work
    loaded = load_routers(trained.bundle_path, made, backbone)
    assert loaded.tau == 0.5 and load_bundle(trained.bundle_path).settings == Routing()
    state = loaded.modules.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights(trained.bundle_path).items())


def test_an_interrupted_training_resumes_to_the_same_weights(work, trained, tmp_path) -> None:
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle"}

    class Stop(Exception):
        pass

    class Stopping:
        def start(self, total, what):
            self.left = 15

        def advance(self, count=1, **numbers):
            self.left -= count
            if self.left <= 0:
                raise Stop

        def close(self):
            pass

    with pytest.raises(Stop):
        distill_flexidepth(Work(*work, **where, progress=Stopping()), QUICK)
    assert not where["bundle"].exists()
    again = distill_flexidepth(Work(*work, **where, resume=True), QUICK)
    left, right = weights(again.bundle_path), weights(trained.bundle_path)
    assert all(torch.equal(left[name], right[name]) for name in right)
    with pytest.raises(ConfigError, match="penalty_weight"):
        distill_flexidepth(Work(*work, **where, resume=True), dataclasses.replace(QUICK, penalty_weight=1.0))


def test_another_methods_bundle_is_refused(work, trained, by_token, tmp_path) -> None:
    backbone, made, data = work
    with pytest.raises(ArtifactError, match="expected the modules of dysl-paper, found those of flexidepth"):
        load_modules(trained.bundle_path, made, backbone)
    paper = DistillSettings(stage=1, steps=1, batch_size=4, precision="fp32")
    distill_paper(backbone, made, data, paper, out=tmp_path / "out", bundle=tmp_path / "bundle")
    with pytest.raises(ArtifactError, match="expected the routers of flexidepth, found the modules of dysl-paper"):
        load_routers(tmp_path / "bundle", made, backbone)
    with pytest.raises(ArtifactError, match="routers of flexidepth-tokens, found the modules of flexidepth"):
        load_routers(trained.bundle_path, made, backbone, "flexidepth-tokens")
    with pytest.raises(ArtifactError, match="routers of flexidepth, found the modules of flexidepth-tokens"):
        load_routers(by_token.bundle_path, made, backbone)
    assert load_routers(by_token.bundle_path, made, backbone, "flexidepth-tokens").tau == 0.5
    with pytest.raises(ArtifactError, match="belongs to another skip profile"):
        load_routers(trained.bundle_path, made.model_copy(update={"static_layers": (0, 3, 7)}), backbone)
