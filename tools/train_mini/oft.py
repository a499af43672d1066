"""What the trainings of a mini OpenVLA-OFT share: sizes, first weights, its layers, its checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.prismatic import RotaryTables
from dyslctl_openvla_oft.statistics import Statistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer
from dyslctl_openvla_oft.writer import write_checkpoint
from learner import Learner
from torch import Tensor, nn

from dyslctl.types import LayerInputs

MIDDLE = 5 / 12
"""Where the grounding probes read, as a share of the depth: the layers before must have understood the instruction."""
SHARD = 15_000_000
"""Bytes of a weight file: some ways to carry files take small ones only."""


def model_config(sizes: Mapping[str, Any], tokenizer: PromptTokenizer, num_layers: int) -> OFTConfig:
    """``config.json`` from ``sizes``, which has its form, with the tokenizer's ids and the depth."""
    text = {"num_hidden_layers": num_layers, "vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}
    text |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.stop_id}
    merged = {**sizes, "pad_token_id": tokenizer.pad_id, "text_config": {**sizes["text_config"], **text}}
    return OFTConfig.model_validate(merged)


def initialise(model: OFTModel) -> None:
    """Residual branches start small, everything else at unit gain."""
    depth = 2 * model.num_layers
    for name, weight in model.language_model.layers.named_parameters():
        if weight.ndim == 2:
            gain = 0.7 / depth**0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.7
            nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)
    nn.init.normal_(model.language_model.embed_tokens.weight, std=0.5)
    nn.init.zeros_(model.action_head.model.fc2.weight)


class OFTLearner(Learner[OFTModel]):
    """A learner that runs the layers of its model, compiled if it may.

    Args:
        model: Trained in place.
        heads: Likewise.
        tokenizer: Goes into the checkpoint.
        statistics: Likewise.
        args: The options of :func:`learner.add_options`.
    """

    def __init__(
        self,
        model: OFTModel,
        heads: nn.Module,
        tokenizer: PromptTokenizer,
        statistics: Statistics,
        args: argparse.Namespace,
    ) -> None:
        def write(folder: Path, average: OFTModel, step: int) -> None:
            write_checkpoint(folder, average, tokenizer, statistics, step=step, max_shard_size=SHARD)

        blocks = [*model.language_model.layers.parameters(), *model.vision_backbone.parameters()]
        super().__init__(model, heads, [p for p in blocks if p.ndim == 2], write, args)
        self._layers = torch.compile(self._run_layers, dynamic=False) if args.compile else self._run_layers

    def layers(self, inputs: LayerInputs) -> tuple[Tensor, Tensor]:
        """``[B, T, H]`` after a middle layer, and after the last."""
        context = self.model.context(inputs.hidden, inputs.positions[:1], inputs.mask)
        middle, last = self._layers(inputs.hidden, context.rotary, context.attention_mask)
        return middle, last

    def _run_layers(self, hidden: Tensor, rotary: RotaryTables, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        middle, tap = hidden, round(MIDDLE * self.model.num_layers) - 1
        for index, layer in enumerate(self.model.language_model.layers):
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, is_causal=False)
            middle = hidden if index == tap else middle
        return middle, hidden
