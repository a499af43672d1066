"""OpenVLA as dyslctl sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dyslctl.backbone import Workload
from dyslctl.types import KeysValues, LayerInputs, LayerState, Observation, Ran
from dyslctl_openvla_oft import workload
from dyslctl_openvla_oft.autoregressive import OpenVLAModel
from dyslctl_openvla_oft.common import PrismaticBackbone
from dyslctl_openvla_oft.config import Head
from dyslctl_openvla_oft.options import CheckpointOptions, OpenVLAOptions
from dyslctl_openvla_oft.probe import probe_generation
from dyslctl_openvla_oft.processing import pixels, views_of


class OpenVLA(PrismaticBackbone):
    """OpenVLA: causal LLaMA layers, one action, a token for each of its dimensions.

    ``encode`` and ``run_layer`` are the prefill. ``predict`` generates: the first token from the prefill's output, the
    others through the layers that the prefill ran.
    """

    Options: ClassVar[type[CheckpointOptions]] = OpenVLAOptions
    head: ClassVar[Head] = "tokens"
    model: OpenVLAModel

    @classmethod
    def default_checkpoint(cls) -> Path | str:
        """A released one, fine-tuned on LIBERO-Spatial."""
        return "openvla/openvla-7b-finetuned-libero-spatial"

    def probe(self) -> None:
        """Causal attention, with and without cache."""
        probe_generation(self.model)

    def workloads(self) -> Mapping[str, Workload]:
        """The released size."""
        return {"openvla-ar-7b": workload.published_generation()}

    def workload(self) -> Workload:
        """This model, with an instruction of usual length."""
        prefix = 1 + self.config.num_images * self.checkpoint.config.num_patches
        return workload.generation(self.model, prefix + self.prompt_length)

    @torch.no_grad()
    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        """The first camera view and the prompt to the sequence that enters layer 0."""
        size, views = self.checkpoint.preprocessor.size, self.config.views
        images = np.stack([views_of(o, views, size, self.config.jpeg) for o in observations])
        ids, lengths = self.checkpoint.tokenizer.encode_batch([observation.instruction for observation in observations])
        seen = pixels(images, self.checkpoint.preprocessor, self.config.center_crop, self.device)
        return self.model.embed(seen.to(self.dtype), ids.to(self.device), lengths)

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """One LLaMA layer of the prefill; its keys and values are added to ``state.past``."""
        if state.context is None:
            state.context = self.model.context(state.hidden, state.positions, state.mask)
        hidden, ran = self.model.prefill(layer, state, state.context)
        state.past = (*state.past, ran)
        return hidden

    def run_layer_beside(self, layer: int, state: LayerState, beside: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """Likewise of the prefill; the tokens to be generated attend to ``beside`` too."""
        hidden, own = super().run_layer_beside(layer, state, beside)
        every, lent = (own, 0) if beside is None else (own.and_(beside), beside.positions.shape[1])
        real = [] if state.mask is None else [F.pad(state.mask, (0, lent), value=True)]
        state.past = (*state.past, Ran(layer, (every.keys, every.values, *real)))
        return hidden, own

    def predict(self, state: LayerState) -> Tensor:
        """Greedy decoding: ``[B, 1, A]`` float32, the centres of the generated intervals.

        To have a gradient, they take that of the mean over the action tokens (:meth:`ActionTokens.decode`).
        """
        return self.model.generate(state)[1][:, None]
