"""Write a checkpoint of exactly the published layout with random weights: to test loading, memory and latency.

    python -m dyslctl_openvla_oft.random_checkpoint FOLDER                  # the released size, 15.5 GB
    python -m dyslctl_openvla_oft.random_checkpoint FOLDER --values zeros   # likewise, in files with holes: 0.4 GB
    python -m dyslctl_openvla_oft.random_checkpoint FOLDER --size tiny      # 5 MB, the same files and kinds of tensors
    python -m dyslctl_openvla_oft.random_checkpoint FOLDER --head tokens    # OpenVLA instead of OpenVLA-OFT

Never more than one tensor is in memory, so the released size needs no large machine.
"""

from __future__ import annotations

import argparse
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from dyslctl.artifacts.document import explain
from dyslctl.artifacts.files import read_text, writing
from dyslctl.errors import ConfigError, DyslctlError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.action_tokens import ActionTokens
from dyslctl_openvla_oft.actions import statistics_of
from dyslctl_openvla_oft.config import RELEASED, ActionConfig, Head, OFTConfig
from dyslctl_openvla_oft.models import new_model
from dyslctl_openvla_oft.shards import Shape, Source
from dyslctl_openvla_oft.statistics import DatasetStatistics
from dyslctl_openvla_oft.tokenizer import PUBLISHED_PAD_ID, build_tokenizer
from dyslctl_openvla_oft.writer import MAX_SHARD_SIZE, write_files

_log = logging.getLogger(__name__)
Size = Literal["7b", "tiny"]

INSTRUCTIONS = (
    "pick up the black bowl between the plate and the ramekin and place it on the plate",
    "pick up the alphabet soup and place it in the basket",
    "put the red cube in the purple bin",
)
VOCABULARY = 32064
_BASE_STATISTICS = {"q01": [-9.0] * 7, "q99": [9.0] * 7}
_TINY: dict[str, Any] = {
    "image_sizes": [28, 28],
    "vision_config": {
        "dino": {"width": 16, "depth": 3, "heads": 2, "mlp": 24},
        "siglip": {"width": 24, "depth": 4, "heads": 3, "mlp": 20},
    },
}
_TINY_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,  # four of them are static by default
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def published_config(size: Size = "7b", head: Head = "l1", **action: Any) -> OFTConfig:
    """``config.json`` as released, or of a small model with all parts of the large one.

    Args:
        size: The released one, or one for tests.
        head: That of OpenVLA-OFT, or of OpenVLA.
        action: Fields of :class:`ActionConfig` that differ from LIBERO's.
    """
    llama = {"model_type": "llama", "pad_token_id": PUBLISHED_PAD_ID, "torch_dtype": "bfloat16"}
    values = {
        "image_resize_strategy": "resize-naive",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "n_action_bins": 256,
        "norm_stats": {"bridge_orig": {"action": _BASE_STATISTICS}},  # of the base model, in the released files too
        "pad_to_multiple_of": 64,
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "torch_dtype": "bfloat16",
        "text_config": {**llama, "vocab_size": VOCABULARY, **(_TINY_LLAMA if size == "tiny" else {})},
        **(_TINY if size == "tiny" else {}),
        "oft": {**RELEASED[head].model_dump(), **action},
    }
    return OFTConfig.model_validate(values)


def write_random_checkpoint(
    folder: Path,
    config: OFTConfig,
    *,
    keys: Sequence[str] = ("libero_spatial_no_noops",),
    step: int | str = 150_000,
    seed: int = 0,
    values: Literal["random", "zeros"] = "random",
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Write a checkpoint of the model that ``config`` describes, all files or none.

    Args:
        folder: Where to.
        config: Sizes; its padding id must be the published one.
        keys: Data sets in ``dataset_statistics.json``.
        step: Part of the ``.pt`` files' names.
        seed: Of the values. A tensor depends on it and on its own name alone.
        values: ``zeros`` writes files with holes, for looking at names and shapes.
        dtype: Of the stored weights; the proprioception projector's are float32.
        max_shard_size: Bytes of the largest safetensors file.

    Raises:
        ConfigError: If there is something at ``folder`` that is no checkpoint.
    """
    source = None if values == "zeros" else random_source(seed)
    if source is not None and config.oft.head == "tokens":
        source = _likely_actions(source, ActionTokens.of(config))
    tokenizer = build_tokenizer(INSTRUCTIONS, published_ids=True)
    statistics = {key: random_statistics(config.oft, seed + number) for number, key in enumerate(keys)}
    write_files(folder, config, source, tokenizer, statistics, step, dtype, max_shard_size)


def random_source(seed: int) -> Source:
    """Scales about 1, matrices with ``0.5 / sqrt(fan in)``: residual branches stay smaller than what they add to."""

    def source(name: str, shape: Shape) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            return values.mul_(0.1).add_(1.0 if name.endswith(("weight", "scale_factor")) else 0.0)
        return values.mul_(0.5 / math.sqrt(math.prod(shape[1:])))

    return source


def _likely_actions(source: Source, tokens: ActionTokens) -> Source:
    """Generated tokens are nearly always actions: their rows of the language model's head are larger."""

    def louder(name: str, shape: Shape) -> Tensor:
        values = source(name, shape)
        if name == layout.published_name(layout.LM_HEAD):
            values[tokens.slice] *= 8
        return values

    return louder


def random_statistics(config: ActionConfig, seed: int) -> DatasetStatistics:
    """Statistics of made-up demonstrations."""
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(200, config.action_dim)) * rng.uniform(0.1, 1, config.action_dim)
    if config.gripper == "libero":
        actions[:, -1] = rng.choice([-1.0, 1.0], 200)
    proprio = rng.normal(size=(200, config.proprio_dim)) + rng.uniform(-1, 1, config.proprio_dim)
    return statistics_of(actions, proprio, trajectories=4, config=config)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    given = parser.parse_args(arguments)
    keys = given.key or ["libero_spatial_no_noops"]
    try:
        config = _config_of(given)
        with writing(given.folder):
            write_random_checkpoint(
                given.folder,
                config,
                keys=keys,
                seed=given.seed,
                values=given.values,
                max_shard_size=given.max_shard_size,
            )
    except DyslctlError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    _log.warning("wrote %s", given.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dyslctl_openvla_oft.random_checkpoint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="a checkpoint that is there is replaced")
    parser.add_argument("--size", choices=["7b", "tiny"], default="7b")
    parser.add_argument("--config", type=Path, help="config.json of another size, instead of --size")
    parser.add_argument("--head", choices=["l1", "tokens"], default="l1", help="of OpenVLA-OFT, or of OpenVLA")
    parser.add_argument("--values", choices=["random", "zeros"], default="random")
    parser.add_argument("--num-images", type=int, help="of OpenVLA-OFT; default: 2")
    parser.add_argument("--no-proprio", action="store_true")
    parser.add_argument("--key", action="append", help="data set in dataset_statistics.json; may be repeated")
    parser.add_argument("--seed", type=_at_least(0), default=0)
    parser.add_argument("--max-shard-size", type=_at_least(1), default=MAX_SHARD_SIZE, help="bytes")
    return parser


def _at_least(smallest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < smallest:
            raise argparse.ArgumentTypeError(f"expected at least {smallest}, found {text}")
        return int(text)

    return number


def _config_of(given: argparse.Namespace) -> OFTConfig:
    """The configuration that the command line asks for, if there is a model of those sizes."""
    text = None if given.config is None else read_text(given.config)
    try:
        config = _chosen_config(given) if text is None else OFTConfig.model_validate_json(text)
        with torch.device("meta"):
            new_model(config)
    except ValidationError as error:
        raise ConfigError(f"{given.config or 'the options'}:\n{explain(error, OFTConfig)}") from error
    except Exception as error:  # transformers and torch each raise their own
        raise ConfigError(f"{given.config or 'the options'}: no model has these sizes: {error}") from error
    return config


def _chosen_config(given: argparse.Namespace) -> OFTConfig:
    action = {"num_images": given.num_images, "use_proprio": False if given.no_proprio else None}
    return published_config(
        given.size, given.head, **{name: value for name, value in action.items() if value is not None}
    )


if __name__ == "__main__":
    main()
