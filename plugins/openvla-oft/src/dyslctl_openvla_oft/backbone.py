"""OpenVLA-OFT as dyslctl sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import PackedLayer, PackLinear, Workload, embedded_checkpoint
from dyslctl.runtime.llama import LlamaLayer, LlamaTables
from dyslctl.types import LayerInputs, LayerState, Observation
from dyslctl_openvla_oft import workload
from dyslctl_openvla_oft.common import PrismaticBackbone
from dyslctl_openvla_oft.config import Head
from dyslctl_openvla_oft.hub import EMBEDDED
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.options import CheckpointOptions, OFTOptions
from dyslctl_openvla_oft.probe import probe_model
from dyslctl_openvla_oft.processing import pixels, proprio_of, views_of

DEFAULT = EMBEDDED / "mini-tabletop"


class OpenVLAOFT(PrismaticBackbone):
    """OpenVLA-OFT: bidirectional LLaMA layers, one prefill, an L1 head without memory."""

    Options: ClassVar[type[CheckpointOptions]] = OFTOptions
    head: ClassVar[Head] = "l1"
    model: OFTModel

    @classmethod
    def default_checkpoint(cls) -> Path | str:
        """The embedded mini model."""
        return embedded_checkpoint(DEFAULT, "dyslctl-openvla-oft")

    def probe(self) -> None:
        """Attention in both directions."""
        probe_model(self.model)

    def workloads(self) -> Mapping[str, Workload]:
        """The released size."""
        return {"openvla-7b": workload.published()}

    def workload(self) -> Workload:
        """This model, with an instruction of usual length."""
        prefix = 1 + self.config.num_images * self.checkpoint.config.num_patches + int(self.config.use_proprio)
        return workload.workload_of(self.model, prefix + self.prompt_length + self.config.num_action_tokens + 1)

    @torch.no_grad()
    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        """Images, prompt and proprioception to the sequence that enters layer 0."""
        size, jpeg = self.checkpoint.preprocessor.size, self.config.jpeg
        images = np.stack([views_of(observation, self.config.views, size, jpeg) for observation in observations])
        ids, lengths = self.checkpoint.tokenizer.encode_batch([observation.instruction for observation in observations])
        return self.model.embed(
            pixels(images, self.checkpoint.preprocessor, self.config.center_crop, self.device).to(self.dtype),
            self._proprio(observations),
            ids.to(self.device),
            lengths,
        )

    def _proprio(self, observations: Sequence[Observation]) -> Tensor | None:
        statistics, config = self.statistics.proprio, self.config
        if statistics is None or not config.use_proprio:
            return None
        values = np.stack([proprio_of(observation, config.proprio_dim) for observation in observations])
        return torch.from_numpy(statistics.normalize(values, config.normalization)).to(self.device, self.dtype)

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """One LLaMA layer; rotary tables and mask are kept in ``state.context`` until tokens are gathered."""
        if state.context is None:
            state.context = self.model.context(state.hidden, state.positions, state.mask)
        return self.model.run_layer(layer, state.hidden, state.context)

    def run_layer_with_rows(self, layer: int, state: LayerState, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's own keys serve the rows: to project them again would cost a twelfth of a layer."""
        hidden, own = self.run_layer_beside(layer, state, None)
        return hidden, self.model.rows_of(layer, state.hidden, state.context, queries, own.keys)

    def predict(self, state: LayerState) -> Tensor:
        """Final norm and action head."""
        return self.model.predict(state.hidden, state.kinds)

    def packed_layers(self, pack: PackLinear, *, keep: bool) -> Sequence[PackedLayer]:
        """The LLaMA layers; unless they are to ``keep`` them, each gives up its own weights as it is packed."""
        return [self._packed(layer, pack, keep=keep) for layer in range(self.model.num_layers)]

    def _packed(self, index: int, pack: PackLinear, *, keep: bool) -> PackedLayer:
        layer = LlamaLayer(self.model.layer_weights(index), pack)
        if not keep:
            self.model.layers(index).to("meta")  # names, shapes and sizes stay

        def run(state: LayerState) -> Tensor:
            if state.context is None:
                context = self.model.context(state.hidden, state.positions, state.mask)
                state.context = LlamaTables.of(context.rotary, context.attention_mask)
            return layer(state.hidden, state.context)

        return run
