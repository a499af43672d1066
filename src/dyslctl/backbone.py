"""What a backbone plugin implements: a frozen VLA whose decoder layers run one at a time.

Register the class under the entry-point group ``dyslctl.backbones``::

    [project.entry-points."dyslctl.backbones"]
    openvla-oft = "dyslctl_openvla_oft:OpenVLAOFT"

``dyslctl.testing.check_backbone`` proves the contract below; ``examples/custom_backbone`` is the tutorial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.types import ActionChunk, KeysValues, LayerInputs, LayerState, Observation, TokenKind

Linear = Callable[[Tensor], Tensor]
"""One matrix product, ``[..., in]`` to a new ``[..., out]``, of a weight that stays."""
PackLinear = Callable[[Tensor, Tensor | None], Linear]
"""Lays out a weight ``[out, in]`` and a bias ``[out]`` for its kernel (``runtime/linear.py``)."""
PackedLayer = Callable[[LayerState], Tensor]
"""One decoder layer, as ``run_layer`` of that layer, for inference."""


@dataclass(frozen=True)
class BackboneSpec:
    """The numbers the toolkit needs to know about a loaded backbone.

    Attributes:
        num_layers: ``L``, decoder layers that can be skipped.
        hidden_size: ``H``.
        chunk_length: ``N``, actions predicted per inference.
        action_dim: ``A``.
        last_live_layer: The last layer whose output the head reads; later ones run for nothing.
        gripper_dim: Index of the gripper in an action, or ``None``.
        fingerprint: Hash of the weights and files this backbone was loaded from.
        commit: Of the Hub repository they come from, or ``None``.
        generates: The head takes tokens of its own through the layers, so that ``predict`` reads ``LayerState.past``.
        visual_tokens: The layers see images as tokens. If not (RoboFlamingo: by cross-attention), none can be pruned.
        window: Inferences in a row that the head was trained on; 1: it has no memory.
        views: What each camera view shows, in the order in which ``Observation.images`` holds them; empty: not said.
        proprio_dim: Numbers of ``Observation.proprio`` that are read; 0: none.
    """

    num_layers: int
    hidden_size: int
    chunk_length: int
    action_dim: int
    last_live_layer: int
    gripper_dim: int | None
    fingerprint: str
    commit: str | None = None
    generates: bool = False
    visual_tokens: bool = True
    window: int = 1
    views: tuple[str, ...] = ()
    proprio_dim: int = 0


@dataclass(frozen=True)
class Workload:
    """One inference as the roofline model sees it (``devices/roofline.py``).

    Attributes:
        num_layers: Decoder layers.
        tokens: ``T`` at batch 1.
        hidden_size: ``H``.
        layer_params: Parameters of one decoder layer.
        encode_gflop: Everything before the layers (vision, projectors), GFLOP (1 MAC = 2 FLOP).
        encode_params: Parameters read for it.
        head_gflop: The action head, GFLOP.
        head_params: Parameters read for it.
    """

    num_layers: int
    tokens: int
    hidden_size: int
    layer_params: int
    encode_gflop: float
    encode_params: int
    head_gflop: float
    head_params: int


class BackboneOptions(BaseModel):
    """Plugin settings that ``--set model.options.KEY=VALUE`` accepts. Plugins subclass it; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Backbone(ABC):
    """A vision-language-action model, frozen and in eval mode.

    One control step is ``encode -> run_layer (L times) -> decode_action``; only the middle may be skipped.
    """

    Options: ClassVar[type[BackboneOptions]] = BackboneOptions
    default_suite: ClassVar[str]
    """The task suite to use when the user names none, and a checkpoint that nothing is known of."""
    checkpoint_hint: ClassVar[str] = "name yours: --checkpoint FOLDER"
    """What helps a user who names no checkpoint, where there is no default one."""

    spec: BackboneSpec

    @classmethod
    @abstractmethod
    def default_checkpoint(cls) -> Path | str | None:
        """The checkpoint to use when the user names none: an embedded folder, or a Hub id; ``None``: there is none."""

    @classmethod
    def suite_of(cls, checkpoint: str) -> str:
        """The task suite to use with ``checkpoint`` when the user names none; unless a plugin knows better, its own."""
        return cls.default_suite

    @classmethod
    def checkpoint_at(cls, path: Path) -> Path | None:
        """The checkpoint that ``path`` is or belongs to, for ``dyslctl inspect``; ``None``: none of this backbone's.

        Judged by what lies there, and cheaply: whether it is whole is for ``load`` to say. Unless a plugin knows
        better, a checkpoint is a folder with a ``config.json``, as ``transformers`` writes it.
        """
        return path if (path / "config.json").is_file() else None

    @classmethod
    @abstractmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load published weights, frozen, in eval mode. Never writes to the checkpoint.

        Raises:
            ArtifactError: If a file is missing or damaged, or any tensor is missing, unexpected, misshapen or not
                finite (all listed at once).
            ConfigError: If an option is unknown or has the wrong type.
        """

    def workloads(self) -> Mapping[str, Workload]:
        """Published sizes of this architecture, for ``bench --as NAME``. The first is the default."""
        return {}

    @abstractmethod
    def workload(self) -> Workload:
        """This loaded model's own size."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the hidden state."""

    @abstractmethod
    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        """Vision encoder, tokenizer, embeddings. Pure: may be called, and its result used, any number of times.

        Raises:
            ConfigError: If an observation lacks what the model needs or an image is not finite or of a wrong shape.
        """

    @abstractmethod
    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """One decoder layer on ``state.hidden`` ``[B, T, H]``; the same bits as the upstream model.

        Must not write to ``state``'s tensors. May keep derived tables in ``state.context``, and for a head that
        generates tokens add a :class:`~dyslctl.types.Ran` to ``state.past``, by a new tuple.
        """

    @abstractmethod
    def predict(self, state: LayerState) -> Tensor:
        """Final norm and head: ``[B, N, A]`` normalised actions, differentiable in ``state.hidden``.

        Reads tokens of the kinds PROPRIO, TEXT and ACTION only, found by kind: others may be gone. The only method
        that may change the head's memory; given a ``state.history`` it does not. A head that generates tokens takes
        each through ``state.past``, step by step: the layers that ran, and no other, and the adapters between them.
        The plan is frozen.
        """

    @abstractmethod
    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        """Un-normalise ``predict``'s ``[B, N, A]`` and decide the gripper: one chunk an observation. Pure."""

    @abstractmethod
    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Executed actions ``[..., A]`` (the suite's units) -> the space of ``predict``, for training targets."""

    @abstractmethod
    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The loss this model was trained with, between normalised ``[B, N, A]``s: ``[B]``, one value a sample."""

    def snapshot(self) -> object:
        """A copy of the head's memory; stateless heads have none."""
        return None

    def restore(self, memory: object) -> None:  # noqa: B027 - stateless heads have nothing to restore
        """Bring the head back to ``snapshot``."""

    def reset(self) -> None:  # noqa: B027 - stateless heads have nothing to forget
        """Forget the past: a new episode or instruction begins."""

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """How matrices beside the layers, those of adapters, are multiplied on this backbone: :data:`PackLinear`."""
        return partial(F.linear, weight=weight, bias=bias)

    def history(self) -> Tensor | None:
        """What the head remembers now, ``[Q]`` float32: to be laid beside a sample and learnt with; optional.

        ``Q`` is always the same, and zeros stand for a head that remembers nothing. ``predict`` reads it, one row a
        sample, from ``LayerState.history`` in place of the head's own memory, which stays as it is. Heads without
        memory have none; one that has memory and offers no history learns as if every sample began an episode.
        """
        return None

    def packed_layers(self, pack: PackLinear, *, keep: bool) -> Sequence[PackedLayer]:
        """The decoder layers for ``model.backend=packed``, their matrices laid out by ``pack``; optional.

        Called once, on the CPU, if ``spec.generates`` is false. Unless ``keep`` is set ``run_layer`` is not called
        afterwards, so that the weights may be given up layer by layer: memory then holds them once.
        ``runtime/llama.py`` has LLaMA's layer.

        Raises:
            ConfigError: If this backbone offers none.
        """
        raise ConfigError(
            f"{type(self).__name__} offers no packed layers: expected Backbone.packed_layers",
            hint="--set model.backend=eager",
        )

    def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
        """What a few tokens attend to in ``layer``, for methods that prune tokens; optional.

            softmax(q_rows k^T / sqrt(d) + mask)

        with the rotary embedding of the original positions, and the mask that ``run_layer`` has. The map of all tokens
        is not made, and ``run_layer`` goes on as before: it is computed beside it.

        Args:
            layer: Which one.
            state: The state *before* that layer. Its tensors are not written to; ``context`` may be filled.
            queries: ``[B, Q]`` int64, indices into the current ``T`` tokens.

        Returns:
            ``[B, heads, Q, T]`` float32; each row sums to one.

        Raises:
            ConfigError: If this backbone offers none.
        """
        raise ConfigError(
            f"{type(self).__name__} shows no attention to prune tokens by: expected Backbone.attention_rows",
            hint="divprune prunes without it; packed layers show none: --set model.backend=eager",
        )

    def run_layer_with_rows(self, layer: int, state: LayerState, queries: Tensor) -> tuple[Tensor, Tensor]:
        """``run_layer`` and :meth:`attention_rows` at once: a backbone may give the rows the keys that the layer made.

        The output has the bits of ``run_layer``.

        Raises:
            ConfigError: If this backbone shows no attention.
        """
        rows = self.attention_rows(layer, state, queries)
        return self.run_layer(layer, state), rows

    def run_layer_beside(self, layer: int, state: LayerState, beside: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """``run_layer``, whose tokens also attend to others that are not computed again; optional.

        With ``None`` it gives the bits of ``run_layer``.

        Args:
            layer: Which one.
            state: The state before it, without those tokens.
            beside: Their keys and values in this layer, from another pass with them at the same positions.

        Returns:
            The output ``[B, T, H]``, and the keys and values of ``state``'s own tokens.

        Raises:
            ConfigError: If this backbone offers none.
        """
        raise ConfigError(
            f"{type(self).__name__} keeps no keys and values to reuse: expected Backbone.run_layer_beside",
            hint="--method specprune computes all that stay; packed layers keep none: --set model.backend=eager",
        )

    def keys_values(self, layer: int, state: LayerState) -> KeysValues:
        """What ``layer`` makes for others to attend to, where it is not run itself; goes with ``run_layer_beside``.

        Those that ``run_layer_beside`` hands back of its own tokens, for two of the layer's products. Optional; padding
        is not left out.

        Args:
            layer: Which one.
            state: The state before it. Its tensors are not written to; ``context`` may be filled.

        Raises:
            ConfigError: If this backbone offers none.
        """
        raise ConfigError(
            f"{type(self).__name__} makes no keys and values without running the layer: expected Backbone.keys_values",
            hint="--method flexidepth skips layers for all tokens at once; packed layers make none: "
            "--set model.backend=eager",
        )

    def stock_layers(self) -> Callable[[LayerInputs], Tensor]:
        """The library's own forward through all of these layers, ``[B, T, H]`` out, to be timed beside ours; optional.

        As that library is used by itself, without its cache, with the mask of its own that it has. Its numbers need
        not be ours.

        Raises:
            ConfigError: If there is none.
        """
        raise ConfigError(
            f"{type(self).__name__} names no stock model to compare with: expected Backbone.stock_layers",
            hint="--compare eager",
        )


def embedded_checkpoint(folder: Path, package: str) -> Path:
    """``folder``, a checkpoint that comes with the distribution ``package``: what ``default_checkpoint`` may answer.

    Raises:
        ArtifactError: If it is not there.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"the embedded checkpoint {folder} is missing",
            hint=f"reinstall {package}, or name a checkpoint with --checkpoint",
        )
    return folder


def checked_image(name: str, image: np.ndarray) -> np.ndarray:
    """``image`` itself, the view ``name`` of an observation.

    Raises:
        ConfigError: If it is not ``[height, width, 3]`` uint8, or empty.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ConfigError(f"image '{name}': expected shape [height, width, 3], found {list(image.shape)}")
    if image.dtype != np.uint8:
        broken = image.dtype.kind == "f" and not np.isfinite(image).all()
        raise ConfigError(
            f"image '{name}': expected uint8, found {image.dtype}{' with NaN or infinite values' if broken else ''}"
        )
    return image


def require_attention(backbone: Backbone) -> None:
    """Before work begins that needs :meth:`Backbone.attention_rows`.

    Raises:
        ConfigError: If ``backbone`` shows no attention.
    """
    state = one_token(backbone)
    with torch.no_grad():
        backbone.attention_rows(0, state, torch.zeros_like(state.positions))


def require_layers_beside(backbone: Backbone) -> None:
    """Before work begins that needs :meth:`Backbone.run_layer_beside`.

    Raises:
        ConfigError: If ``backbone`` runs its layers for all tokens only.
    """
    with torch.no_grad():
        backbone.run_layer_beside(0, one_token(backbone), None)


def one_token(backbone: Backbone) -> LayerState:
    """A word that means nothing, before layer 0: enough to try what ``backbone`` offers before work begins."""
    shape, device = (1, 1), backbone.device
    return LayerState(
        hidden=torch.zeros(*shape, backbone.spec.hidden_size, dtype=backbone.dtype, device=device),
        positions=torch.zeros(shape, dtype=torch.int64, device=device),
        kinds=torch.full(shape, int(TokenKind.TEXT), device=device),
    )
