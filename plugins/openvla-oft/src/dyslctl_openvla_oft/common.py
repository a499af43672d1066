"""What both backbones of the plugin share: how a checkpoint is loaded, and what its actions mean."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone, BackboneSpec
from dyslctl.types import ActionChunk, KeysValues, LayerInputs, LayerState
from dyslctl_openvla_oft.actions import decode, normalize
from dyslctl_openvla_oft.checkpoint import Checkpoint, fingerprint, read_checkpoint
from dyslctl_openvla_oft.config import Head
from dyslctl_openvla_oft.hub import locate
from dyslctl_openvla_oft.options import CheckpointOptions, choose_statistics, parse_options
from dyslctl_openvla_oft.prismatic import PrismaticModel
from dyslctl_openvla_oft.probe import probe_normalization
from dyslctl_openvla_oft.weights import load_model

LIBERO = re.compile(r"libero-(spatial|object|goal|10)\b")
NOMINAL_INSTRUCTION = "put the red cube in the purple bin"


class PrismaticBackbone(Backbone):
    """A model without memory, its checkpoint, and the data set it was trained on."""

    Options: ClassVar[type[CheckpointOptions]]
    default_suite: ClassVar[str] = "tabletop_object"
    head: ClassVar[Head]
    model: PrismaticModel

    def __init__(
        self, model: PrismaticModel, checkpoint: Checkpoint, unnorm_key: str | None = None, commit: str | None = None
    ) -> None:
        config = checkpoint.config.oft
        self.model = model
        self.checkpoint = checkpoint
        self.config = config
        self.statistics = choose_statistics(checkpoint.statistics, unnorm_key)
        probe_normalization(self.statistics, checkpoint.preprocessor, config)
        self.probe()
        self.spec = BackboneSpec(
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            chunk_length=config.chunk_length,
            action_dim=config.action_dim,
            last_live_layer=model.num_layers - 1,
            gripper_dim=config.action_dim - 1 if config.gripper == "libero" else None,
            fingerprint=fingerprint(checkpoint.folder),
            commit=commit,
            generates=config.head == "tokens",
            views=config.views,
            proprio_dim=config.proprio_dim if config.use_proprio else 0,
        )

    @classmethod
    def suite_of(cls, checkpoint: str) -> str:
        """LIBERO's suite if the checkpoint is named after one, as the released ones are; else the table top."""
        named = LIBERO.search(Path(checkpoint).name)
        return f"libero_{named[1]}" if named else cls.default_suite

    @abstractmethod
    def probe(self) -> None:
        """Ask the loaded model what ``probe.py`` knows the answer to.

        Raises:
            EnvironmentMismatch: If the installed ``transformers`` does not run the layers as the model needs.
        """

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
        """Load a folder or Hub repository ``OWNER/NAME[@REVISION]`` in the published layout.

        See :meth:`Backbone.load`; moreover:

        Raises:
            ArtifactError: If it is a variant that is not supported (FiLM, diffusion), or the other backbone's.
            EnvironmentMismatch: If the installed ``transformers`` does not run the layers as the model needs.
        """
        checked = parse_options(options or {}, cls.Options)
        location = locate(checkpoint, revision, cls.head)
        files = read_checkpoint(location.folder, checked)
        choose_statistics(files.statistics, checked.unnorm_key)  # refused before 15 GB are read
        model = load_model(files.folder, files.config, device=device, dtype=dtype)
        return cls(model, files, checked.unnorm_key, location.commit)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and hidden states."""
        return self.model.projector.fc1.weight.dtype

    @property
    def prompt_length(self) -> int:
        """Tokens of a usual instruction's prompt."""
        return len(self.checkpoint.tokenizer.encode(NOMINAL_INSTRUCTION)) - 1

    def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
        """From the layer's own norm and projections, beside the fused kernel."""
        if state.context is None:
            state.context = self.model.context(state.hidden, state.positions, state.mask)
        return self.model.attention_rows(layer, state.hidden, state.context, queries)

    def run_layer_beside(self, layer: int, state: LayerState, beside: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """The same kernel, with keys and values of others before its own."""
        if state.context is None:
            state.context = self.model.context(state.hidden, state.positions, state.mask)
        context = state.context if beside is None else self.model.beside(state, state.context, beside.positions)
        before = () if beside is None else (beside.keys, beside.values)
        hidden, kept = self.model.attend(layer, state.hidden, context, before)
        lent = 0 if beside is None else beside.positions.shape[1]
        return hidden, KeysValues(state.positions, kept[0][:, :, lent:], kept[1][:, :, lent:])

    def keys_values(self, layer: int, state: LayerState) -> KeysValues:
        """The layer's norm and two of its projections."""
        if state.context is None:
            state.context = self.model.context(state.hidden, state.positions, state.mask)
        return KeysValues(state.positions, *self.model.keys_values(layer, state.hidden, state.context))

    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        """Un-normalise with the data set's bounds and decide the gripper."""
        chunks = predicted.detach().float().cpu().numpy()
        return [decode(chunk, self.statistics.action, self.config) for chunk in chunks]

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Executed actions to the head's space; the gripper becomes 1 (open) or 0 (closed)."""
        return normalize(actions, self.statistics.action, self.config)

    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean L1 over the chunk, per sample."""
        return (predicted - target).abs().mean(dim=(1, 2))

    def stock_layers(self) -> Callable[[LayerInputs], Tensor]:
        """``transformers.LlamaModel`` with these weights, causal as it is by itself, and its final norm."""
        llama = self.model.language_model

        def run(inputs: LayerInputs) -> Tensor:
            output: Tensor = llama(
                inputs_embeds=inputs.hidden, position_ids=inputs.positions, use_cache=False
            ).last_hidden_state
            return output

        return run
