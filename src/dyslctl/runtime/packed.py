"""A backbone whose decoder layers are packed for this machine's CPU: another ``run_layer`` under the same loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone, Linear, PackLinear, Workload
from dyslctl.errors import ConfigError
from dyslctl.runtime import linear
from dyslctl.types import ActionChunk, LayerInputs, LayerState, Observation

EAGER, PACKED, INT8 = "eager", "packed", "packed-int8"
BACKENDS = (EAGER, PACKED, INT8)
"""What may run the layers: the plugin as it stands; packed weights; packed int8 weights, which change the action."""


def with_backend(backbone: Backbone, backend: str, *, keep: bool = False) -> Backbone:
    """``backbone``, its layers run by ``backend``.

    Of what is packed the original weights are given up, unless they are to be kept: then ``backbone`` itself runs too,
    and all but the layers is in memory once.

    Raises:
        ConfigError: If there is no such backend, or the backbone cannot run on it.
        EnvironmentMismatch: If this build of torch cannot.
    """
    if backend == EAGER:
        return backbone
    if backend not in BACKENDS:
        raise ConfigError(
            f"no backend named '{backend}': expected one of {', '.join(BACKENDS)}",
            hint=f"backend='{EAGER}' runs the layers as the plugin has them",
        )
    return PackedBackbone(backbone, linear.int8 if backend == INT8 else linear.best(backbone.dtype), keep=keep)


class PackedBackbone(Backbone):
    """Another backbone, with packed layers; all else is that backbone's own. For inference: there are no gradients.

    Args:
        backbone: Loaded, on the CPU. Its layers are of no use by themselves afterwards, unless they are kept.
        pack: How a matrix of the layers is laid out.
        keep: Keep its layers beside the packed ones.

    Raises:
        ConfigError: If it is not on the CPU, generates tokens through its layers, or offers no layers to pack.
    """

    def __init__(self, backbone: Backbone, pack: PackLinear, *, keep: bool = False) -> None:
        if backbone.device.type != "cpu":
            raise ConfigError(f"expected a backbone on the CPU to pack, found one on {backbone.device}", _HINT)
        if backbone.spec.generates:
            raise ConfigError("this backbone's head takes tokens through its layers: packed layers keep none", _HINT)
        self.spec, self._backbone = backbone.spec, backbone
        with torch.no_grad():
            self._layers = tuple(backbone.packed_layers(pack, keep=keep))

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """One packed layer.

        Raises:
            ConfigError: If a gradient is asked for: the kernels have none, and would silently lose it.
        """
        if state.hidden.requires_grad and torch.is_grad_enabled():
            raise ConfigError("packed layers have no gradient", _HINT)
        return self._layers[layer](state)

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Adapters too are packed, in the dtype they have: what was trained is not quantised."""
        return linear.best(weight.dtype)(weight, bias)

    @classmethod
    def default_checkpoint(cls) -> None:
        """None: it is made of a loaded backbone."""

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Not loaded: made of a loaded backbone by :func:`with_backend`."""
        raise ConfigError("a packed backbone is made of a loaded one", hint="load the plugin's, then with_backend")

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self._backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden state."""
        return self._backbone.dtype

    def workloads(self) -> Mapping[str, Workload]:
        """The wrapped backbone's."""
        return self._backbone.workloads()

    def workload(self) -> Workload:
        """The wrapped backbone's."""
        return self._backbone.workload()

    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        """As the wrapped backbone does."""
        return self._backbone.encode(observations)

    def predict(self, state: LayerState) -> Tensor:
        """As the wrapped backbone does."""
        return self._backbone.predict(state)

    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        """As the wrapped backbone does."""
        return self._backbone.decode_action(predicted)

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """As the wrapped backbone does."""
        return self._backbone.normalize(actions)

    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """As the wrapped backbone does."""
        return self._backbone.task_loss(predicted, target)

    def history(self) -> Tensor | None:
        """As the wrapped backbone does."""
        return self._backbone.history()

    def snapshot(self) -> object:
        """Of the wrapped backbone's head."""
        return self._backbone.snapshot()

    def restore(self, memory: object) -> None:
        """To the wrapped backbone's head."""
        self._backbone.restore(memory)

    def reset(self) -> None:
        """The wrapped backbone's head."""
        self._backbone.reset()


_HINT = "--set model.backend=eager"
