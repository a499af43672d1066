from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch
from dyslctl_roboflamingo.config import CrossAttention, Perceiver
from dyslctl_roboflamingo.flamingo import GatedCrossAttention, PerceiverResampler, attend
from torch import nn

MISSING = "NOT RUN: it needs open_flamingo: pip install --no-deps open_flamingo==2.0.1 einops einops-exts"


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def test_attention_by_hand() -> None:
    """One head, two keys: the scores are 1 / sqrt(4) and 0."""
    query = torch.tensor([[[1.0, 0, 0, 0]]])
    key_value = torch.tensor([[[1.0, 0, 0, 0, 8, 0, 0, 0], [0, 1, 0, 0, 0, 4, 0, 0]]])
    weight = math.exp(0.5) / (math.exp(0.5) + 1)
    expected = torch.tensor([[[8 * weight, 4 * (1 - weight), 0, 0]]])
    torch.testing.assert_close(attend(query, key_value, 1), expected)


def test_heads_are_consecutive_columns() -> None:
    query, key_value = torch.randn(2, 3, 8), torch.randn(2, 5, 16)
    halves = [attend(query[..., h], torch.cat([key_value[..., :8][..., h], key_value[..., 8:][..., h]], -1), 1)
              for h in (slice(0, 4), slice(4, 8))]  # fmt: skip
    torch.testing.assert_close(attend(query, key_value, 2), torch.cat(halves, -1))


def test_closed_gates_do_nothing() -> None:
    """As training begins: the language model answers as if there were no images."""
    block, hidden = GatedCrossAttention(16, 8, CrossAttention(heads=2, head_width=4)), torch.randn(1, 3, 16)
    assert torch.equal(block(hidden, torch.randn(1, 4, 8)), hidden)
    block.attn_gate.data.fill_(0.5)
    assert not torch.equal(block(hidden, torch.randn(1, 4, 8)), hidden)


def test_a_view_becomes_its_latents() -> None:
    resampler = randomise(PerceiverResampler(8, Perceiver(latents=3, layers=2, heads=2, head_width=4)))
    patches = torch.randn(2, 5, 8)
    assert resampler(patches).shape == (2, 3, 8)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(resampler(patches[:, order]), resampler(patches), atol=1e-5, rtol=1e-5)


def test_published_sizes() -> None:
    """As counted in the released code; 24 cross-attentions of the 3B model, 8 of the 9B one."""
    with torch.device("meta"):
        resampler = PerceiverResampler(1024, Perceiver())
        small, large = (GatedCrossAttention(width, 1024, CrossAttention()) for width in (2048, 4096))
    counts = [sum(p.numel() for p in module.parameters()) for module in (resampler, small, large)]
    assert counts == [63_019_008, 36_708_354, 139_476_994]


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_equal_to_open_flamingo_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Imported on the way, for what is not compared here; it wants a torchvision of just this torch.
    monkeypatch.setitem(sys.modules, "open_clip", ModuleType("open_clip"))
    helpers = pytest.importorskip("open_flamingo.src.helpers", reason=MISSING, exc_type=ImportError)
    resampler = randomise(PerceiverResampler(32, Perceiver()))
    upstream = helpers.PerceiverResampler(dim=32)
    upstream.load_state_dict(resampler.state_dict())
    patches = torch.randn(2, 9, 32)
    assert torch.equal(resampler(patches), upstream(patches[:, None, None])[:, 0])

    block = randomise(GatedCrossAttention(48, 32, CrossAttention()))
    original = helpers.GatedCrossAttentionBlock(dim=48, dim_visual=32)
    original.load_state_dict(block.state_dict())
    hidden, media, first = torch.randn(2, 7, 48), torch.randn(2, 10, 32), torch.arange(7).expand(2, -1) == 0
    assert torch.equal(block(hidden, media), original(hidden, media[:, None], media_locations=first))
