"""One stage on the tiny backbone, and what must not load."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS, load_bundle
from dyslctl.artifacts.bundle_settings import Mixture
from dyslctl.errors import ArtifactError
from dyslctl.jobs.data import collect
from dyslctl.jobs.distill_flexidepth import RouterTraining, distill_flexidepth
from dyslctl.jobs.distill_mole import MixtureTraining, distill_mole
from dyslctl.jobs.inspection import inspect
from dyslctl.jobs.profile import profile
from dyslctl.jobs.single_stage import Work
from dyslctl.jobs.trained_mole import load_router

QUICK = MixtureTraining(
    steps=60, batch_size=16, controller_lr=5e-3, kept_share=0.5, precision="fp32", checkpoint_every=10
)


@pytest.fixture(scope="module")
def work(tiny_backbone, tiny_suite):
    """Backbone, profile, data."""
    backbone, suite = tiny_backbone(), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    return backbone, made, collect(backbone, suite, episodes=6)


@pytest.fixture(scope="module")
def trained(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mole")
    return distill_mole(Work(*work, folder / "out", folder / "bundle"), QUICK)


def test_it_learns_and_says_what_it_is(work, trained) -> None:
    assert trained.loss_last < trained.loss_first
    assert {"task", "balance", "distance"} <= trained.curve[0].keys()
    bundle = load_bundle(trained.bundle_path)
    assert (bundle.header.training.method, bundle.header.training.stage) == ("mole", 2)
    assert bundle.settings == Mixture(share=0.5)
    assert inspect(trained.bundle_path).facts["share"] == 0.5
    assert "A router of layers (MoLe)" in (trained.bundle_path / "README.md").read_text()


def test_the_bundle_comes_back_as_it_was(work, trained) -> None:
    backbone, made, _ = work
    loaded = load_router(trained.bundle_path, made, backbone)
    stored = load_file(trained.bundle_path / WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.router.state_dict().items())
    assert loaded.share == 0.5


def test_equal_seeds_give_equal_weights_and_others_do_not(work, trained, tmp_path) -> None:
    def weights(seed: int) -> torch.Tensor:
        settings = dataclasses.replace(QUICK, seed=seed)
        made = distill_mole(Work(*work, tmp_path / f"out{seed}", tmp_path / f"bundle{seed}"), settings)
        return load_file(made.bundle_path / WEIGHTS)["temporal.weight"]

    first = load_file(trained.bundle_path / WEIGHTS)["temporal.weight"]
    assert torch.equal(weights(0), first) and not torch.equal(weights(1), first)


def test_another_methods_bundle_is_refused(work, trained, tmp_path) -> None:
    backbone, made, _ = work
    other = RouterTraining(steps=1, batch_size=4, precision="fp32")
    distill_flexidepth(Work(*work, tmp_path / "out", tmp_path / "bundle"), other)
    with pytest.raises(ArtifactError, match="expected the router of mole, found the modules of flexidepth"):
        load_router(tmp_path / "bundle", made, backbone)
    with pytest.raises(ArtifactError, match="belongs to another skip profile"):
        load_router(trained.bundle_path, made.model_copy(update={"static_layers": (0, 3, 7)}), backbone)
