"""The two traps that fail nothing: which patches, and which activation."""

from __future__ import annotations

import pytest
import torch
from dyslctl_roboflamingo.config import Settings, Vision
from dyslctl_roboflamingo.vision import VisionTower

TINY = Vision(image_size=28, width=24, layers=2, heads=2, mlp=40)


def tower(config: Vision = TINY) -> VisionTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VisionTower(config)
        for name, parameter in made.named_parameters():
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.data = center + 0.3 * torch.randn(parameter.shape)
    return made.eval().requires_grad_(False)


def test_patches_come_before_the_last_norm() -> None:
    """``ln_post`` may be anything: it is CLIP's for the class token, and moves no patch."""
    made, pixels = tower(), torch.randn(1, 3, 28, 28)
    patches = made(pixels)
    assert patches.shape == (1, 4, 24), "without the class token"
    for name, parameter in made.named_parameters():
        if "post_layernorm" in name:
            parameter.data.fill_(7.0)
    assert torch.equal(made(pixels), patches)


def test_quick_gelu_is_the_default_and_not_gelu(settings: Settings) -> None:
    assert settings.vision.quick_gelu
    pixels = torch.randn(1, 3, 28, 28)
    other = tower(TINY.model_copy(update={"quick_gelu": False}))
    assert (tower()(pixels) - other(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize("quick", [True, False])
def test_activation_by_hand(quick: bool) -> None:
    made = tower(TINY.model_copy(update={"quick_gelu": quick}))
    (mlp,) = [module for name, module in made.named_modules() if name.endswith("layers.1.mlp")]
    x = torch.tensor([-1.0, 0.5, 2.0])
    expected = x * torch.sigmoid(1.702 * x) if quick else x * 0.5 * (1 + torch.erf(x / 2**0.5))
    torch.testing.assert_close(mlp.activation_fn(x), expected)


def test_positions_of_a_model_made_on_meta() -> None:
    with torch.device("meta"):
        made = VisionTower(TINY)
    made.load_state_dict(tower().state_dict(), assign=True)
    made.number_positions()
    pixels = torch.randn(1, 3, 28, 28)
    assert torch.equal(made.eval()(pixels), tower()(pixels))
