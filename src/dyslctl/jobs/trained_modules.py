"""What the modules of every method need between memory and the bundle on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from dyslctl.artifacts.bundle import Bundle, check_tensors
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules

M = TypeVar("M", bound=nn.Module)


def partition_of(profile: SkipProfile) -> LayerPartition:
    """The profile's partition as a run-time value."""
    return LayerPartition(profile.backbone.num_layers, profile.static_layers)


def fill(
    build: Callable[[], M],
    bundle: Bundle,
    folder: Path,
    probe: Callable[[M, Tensor], Mapping[str, Tensor]],
    backbone: Backbone,
) -> M:
    """Modules that hold the tensors of ``bundle``, in eval mode, beside ``backbone``; their self-test still holds.

    Args:
        build: Builds them as they were when they were trained; no values are drawn for what the bundle brings.
        bundle: Read from ``folder``.
        folder: Its folder, for error messages.
        probe: What modules answer to ``[1, T, H]``, as it was when they were saved.
        backbone: Whose device and dtype they take.

    Raises:
        ArtifactError: If a tensor is missing, unexpected or misshapen, or an answer differs.
    """
    with torch.device("meta"):
        modules = build()
    check_tensors(bundle.tensors, modules.state_dict(), folder)
    copies = {name: tensor.clone() for name, tensor in bundle.tensors.items()}  # not windows into the mapped file
    modules.load_state_dict(copies, assign=True)
    modules.eval()
    bundle.self_test.replay(lambda hidden: probe(modules, hidden), str(folder))
    return modules.to(backbone.device, backbone.dtype)


@torch.no_grad()
def probe_skip_modules(modules: SkipModules, hidden: Tensor) -> Mapping[str, Tensor]:
    """What every module answers to ``hidden`` ``[1, T, H]``: the self-test of a bundle."""
    answers: dict[str, Tensor] = {}
    for layer in modules.partition.dynamic_layers:
        answers[f"adapter.{layer}"] = modules.adapter(layer)(hidden)
        answers[f"controller.{layer}"] = modules.controller(layer)(hidden.mean(1))
    return answers
