"""The training of the embedded model: how a deeper one grows from it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.checkpoint import read_checkpoint
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.weights import load_model

TOOLS = Path(__file__).parents[2] / "tools/train_mini"
EMBEDDED = Path(OpenVLAOFT.default_checkpoint())


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("train")


def deeper(layers: int) -> OFTModel:
    config = read_checkpoint(EMBEDDED).config
    text = {**config.text_config, "num_hidden_layers": layers}
    return OFTModel(config.model_copy(update={"text_config": text}))


def run_layers(model: OFTModel, hidden: torch.Tensor) -> torch.Tensor:
    context = model.context(hidden, torch.arange(hidden.shape[1])[None], None)
    for layer in model.language_model.layers:
        hidden = layer(hidden, attention_mask=None, position_embeddings=context.rotary, is_causal=False)
    return hidden


@torch.no_grad()
def test_a_model_grown_to_twice_its_depth_is_the_same_function(train: ModuleType) -> None:
    trained = load_model(EMBEDDED, read_checkpoint(EMBEDDED).config, device="cpu", dtype=torch.float32)
    grown = deeper(24)
    train.grow(grown, EMBEDDED)
    hidden = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run_layers(grown, hidden), run_layers(trained, hidden))
    head = [name for name in trained.state_dict() if not name.startswith("language_model.layers.")]
    assert all(torch.equal(grown.state_dict()[name], trained.state_dict()[name]) for name in head)


def test_the_copies_can_learn(train: ModuleType) -> None:
    """A copy whose inner weights were zero too would get no gradient."""
    grown = deeper(24)
    train.grow(grown, EMBEDDED)
    run_layers(grown, torch.randn(1, 5, 128)).square().mean().backward()
    for layer in grown.language_model.layers[1::2]:
        assert layer.mlp.down_proj.weight.grad.abs().sum() > 0
        assert layer.self_attn.o_proj.weight.grad.abs().sum() > 0


def test_only_a_multiple_of_the_depth_grows(train: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"--layers 18: expected a multiple of the 12 of"):
        train.grow(deeper(18), EMBEDDED)
