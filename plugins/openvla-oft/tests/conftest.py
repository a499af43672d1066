"""A tiny OpenVLA-OFT with random weights, in memory and on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.actions import statistics_of
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.statistics import DatasetStatistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer, build_tokenizer
from dyslctl_openvla_oft.writer import write_checkpoint
from hypothesis import settings

from dyslctl.types import Observation

settings.register_profile("any-machine", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("any-machine")

INSTRUCTIONS = ["put the red cube in the purple bin", "stack the blue cube on the green block", "lift it"]


@pytest.fixture(scope="session")
def tokenizer() -> PromptTokenizer:
    return build_tokenizer(INSTRUCTIONS)


@pytest.fixture(scope="session")
def config(tokenizer: PromptTokenizer) -> OFTConfig:
    return OFTConfig.model_validate(
        {
            "image_sizes": [28, 28],
            "pad_token_id": tokenizer.pad_id,
            "text_config": {
                "vocab_size": -(-tokenizer.vocab_size // 64) * 64,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "pad_token_id": tokenizer.pad_id,
            },
            "vision_config": {
                "dino": {"width": 16, "depth": 3, "heads": 2, "mlp": 24},
                "siglip": {"width": 24, "depth": 4, "heads": 3, "mlp": 20},
            },
            "oft": {"chunk_length": 3, "action_dim": 7, "proprio_dim": 5, "center_crop": False},
        }
    )


@pytest.fixture(scope="session")
def model(config: OFTConfig) -> OFTModel:
    """Every parameter random, norms and biases too: nothing is hidden by a one or a zero."""
    generator = torch.Generator().manual_seed(0)
    model = OFTModel(config)
    for name, parameter in model.named_parameters():
        center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = center + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def statistics(config: OFTConfig) -> DatasetStatistics:
    rng = np.random.default_rng(0)
    actions = np.concatenate([rng.normal(size=(200, 6)), rng.choice([-1.0, 1.0], size=(200, 1))], axis=1)
    return statistics_of(actions, rng.normal(size=(200, 5)), trajectories=4, config=config.oft)


@pytest.fixture
def write(
    tmp_path: Path, model: OFTModel, tokenizer: PromptTokenizer, statistics: DatasetStatistics
) -> Callable[[], Path]:
    """Writes the tiny model, float32 and in several shards, for a test to damage; returns the folder."""

    def write() -> Path:
        folder = tmp_path / "checkpoint"
        write_checkpoint(
            folder, model, tokenizer, {"tabletop": statistics}, 7, dtype=torch.float32, max_shard_size=60_000
        )
        return folder

    return write


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    model: OFTModel,
    tokenizer: PromptTokenizer,
    statistics: DatasetStatistics,
) -> Path:
    """The same on disk, shared by the tests that only read it."""
    path = tmp_path_factory.mktemp("oft") / "checkpoint"
    write_checkpoint(path, model, tokenizer, {"tabletop": statistics}, 7, dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def backbone(folder: Path) -> OpenVLAOFT:
    return OpenVLAOFT.load(folder)


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """``observe(instruction, seed=0)``: random images of the model's size."""

    def observe(instruction: str = INSTRUCTIONS[0], seed: int = 0) -> Observation:
        rng = np.random.default_rng(seed)
        images = {view: rng.integers(0, 256, (28, 28, 3), dtype=np.uint8) for view in ("agent", "wrist")}
        return Observation(images, instruction, rng.normal(size=5).astype(np.float32))

    return observe
