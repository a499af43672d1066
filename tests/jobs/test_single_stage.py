"""What trainings in one stage have in common, before a head with a memory and before one without."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import collect
from dyslctl.jobs.distill_flexidepth import RouterTraining, distill_flexidepth
from dyslctl.jobs.distill_mole import MixtureTraining, distill_mole
from dyslctl.jobs.profile import profile
from dyslctl.jobs.single_stage import Work

METHODS = {MixtureTraining: distill_mole, RouterTraining: distill_flexidepth}


@pytest.fixture(scope="module", params=[False, True], ids=["forgets", "remembers"])
def work(request, tiny_backbone, tiny_suite):
    """Backbone, profile, data."""
    backbone, suite = tiny_backbone(memory=request.param), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    return backbone, made, collect(backbone, suite, episodes=6)


@pytest.mark.parametrize("settings", METHODS)
def test_a_window_is_learnt_where_the_head_remembers_and_refused_elsewhere(settings, work, tmp_path) -> None:
    windows = settings(steps=3, batch_size=4, window=3, precision="fp32")
    folders = {window: tmp_path / str(window) for window in (3, 1)}
    if work[0].spec.window == 1:
        with pytest.raises(ConfigError, match="window: expected 1 for TinyBackbone"):
            METHODS[settings](Work(*work, tmp_path / "out", folders[3]), windows)
        assert not list(tmp_path.iterdir())
        return
    for window, folder in folders.items():
        METHODS[settings](Work(*work, folder / "out", folder), dataclasses.replace(windows, window=window))
    learnt = {window: load_file(folder / WEIGHTS) for window, folder in folders.items()}
    assert not all(torch.equal(learnt[3][name], tensor) for name, tensor in learnt[1].items())


@pytest.mark.parametrize("settings", METHODS)
def test_a_head_with_a_memory_learns_on_its_window(settings) -> None:
    found = [settings.default(hidden, window) for hidden in (2048, 96) for window in (12, 1)]
    assert [(each.batch_size, each.window) for each in found] == [(24, 12), (32, 1), (8, 12), (64, 1)]
