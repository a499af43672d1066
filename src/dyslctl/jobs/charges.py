"""What an inference of a trained method is charged for on a model of another size, beside its layers.

The three counts of an inference - layers, controllers, adapters - are scaled by the ratio of the layer counts: the
static share and the length of the segments are taken to stay the same. A method that has no bundle jumps without an
adapter. Exits are planned and taken once, whatever the depth; their adapter is charged for all tokens, though it sees
only some. ``deer`` tries more exits in a deeper model, each with an adapter and a head, and predicts once more where no
exit ends the inference; whether two actions agree costs a decision without parameters. ``mole`` asks its router once,
which is charged as an adapter, since it reads all tokens, and as such a decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import nn

from dyslctl.backbone import Workload
from dyslctl.baselines.flexidepth import Router
from dyslctl.baselines.mole import LayerRouter, MixtureSizes
from dyslctl.devices.roofline import ModuleParams, Usage
from dyslctl.dysl.exits import ExitAdapter, ExitPlanner, ExitSizes, default_rank
from dyslctl.dysl.skip_modules import Adapter, Controller, SkippingController, SkipSizes, dysl_sizes
from dyslctl.method_assets import AnyExits, ConsistencyAssets, ExitAssets, MixtureAssets, RouterAssets, SkipAssets

Asset = TypeVar("Asset", contravariant=True)


@dataclass(frozen=True)
class Charge(Generic[Asset]):
    """How an inference here becomes one there.

    Attributes:
        usage: What it does on a backbone with ``ratio`` times as many layers.
        params: Sizes of its modules there, from those in the bundle; ``None``: the bundle is not at hand.
    """

    usage: Callable[[Usage, float], Usage]
    params: Callable[[Asset | None, Workload], ModuleParams]


def scaled(usage: Usage, ratio: float, *, once: bool = False) -> Usage:
    """The same behaviour on a backbone with ``ratio`` times as many layers; ``once``: it decides once an inference."""
    deeper = replace(usage, layers=usage.layers * ratio)
    return deeper if once else replace(deeper, controllers=usage.controllers * ratio, jumps=usage.jumps * ratio)


def _tried(usage: Usage, ratio: float) -> Usage:
    """Of ``deer``: it asks whether an exit agrees with the one before, so one more was tried.

    It reports a jump where an exit ended the inference; elsewhere the whole model predicts after the exits.
    """
    exits = max((usage.controllers + 1) * ratio, 1.0)
    return Usage(usage.layers * ratio, controllers=exits - 1, jumps=exits, heads=exits + 1 - usage.jumps)


def _asked_once(usage: Usage, ratio: float) -> Usage:
    """Of ``mole``."""
    return Usage(usage.layers * ratio, controllers=1.0, jumps=1.0)


def module_params(workload: Workload, own: SkipSizes | None) -> ModuleParams:
    """Parameters of an adapter and a controller at the workload's size: the bundle's, or the paper's for that size."""
    return _pair_params(workload, own, dysl_sizes(workload.hidden_size), SkippingController)


def _pair_params(
    workload: Workload, own: SkipSizes | None, published: SkipSizes, controller: type[Controller]
) -> ModuleParams:
    hidden_size = workload.hidden_size
    sizes = own if own is not None and own.hidden_size == hidden_size else published
    with torch.device("meta"):
        pair = Adapter(hidden_size, sizes.adapter_rank), controller(hidden_size, sizes.controller_width)
    return ModuleParams(*map(_count, pair))


def exit_params(workload: Workload, own: ExitSizes, exits: int) -> ModuleParams:
    """The same for exits; the planner takes the controller's place."""
    width = workload.hidden_size
    sizes = own if own.hidden_size == width else replace(own, hidden_size=width, adapter_rank=default_rank(width))
    with torch.device("meta"):
        adapter, planner = ExitAdapter(sizes), ExitPlanner(sizes, exits)
    return ModuleParams(_count(adapter), _count(planner))


def _skip_params(bundle: SkipAssets | None, size: Workload) -> ModuleParams:
    return module_params(size, None if bundle is None else bundle.modules.sizes)


def _routed_params(bundle: RouterAssets | None, size: Workload) -> ModuleParams:
    """Of an adapter and a router, published sizes being FlexiDepth's."""
    own = None if bundle is None else bundle.modules.sizes
    return _pair_params(size, own, dysl_sizes(size.hidden_size, "flexi"), Router)


def _exit_params(bundle: AnyExits | None, size: Workload) -> ModuleParams:
    if bundle is None:
        return module_params(size, None)
    return exit_params(size, bundle.modules.sizes, len(bundle.modules.exits))


def _unplanned_params(bundle: AnyExits | None, size: Workload) -> ModuleParams:
    """Without the planner, which nobody asks."""
    params = _exit_params(bundle, size)
    return params if bundle is None else replace(params, controller=0)


def _router_params(_: MixtureAssets | None, size: Workload) -> ModuleParams:
    """Of the size that is usual there."""
    with torch.device("meta"):
        router = LayerRouter(MixtureSizes.default(size.hidden_size, size.num_layers))
    return ModuleParams(_count(router), 0)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


PLANNED = Charge[ExitAssets](partial(scaled, once=True), _exit_params)
AGREED = Charge[ConsistencyAssets](_tried, _unplanned_params)
CONTROLLED = Charge[SkipAssets](scaled, _skip_params)
ROUTED = Charge[RouterAssets](scaled, _routed_params)
MIXED = Charge[MixtureAssets](_asked_once, _router_params)
