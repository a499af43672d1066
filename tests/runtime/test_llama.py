from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dyslctl.runtime.linear import plain
from dyslctl.runtime.llama import LlamaLayer, LlamaTables, LlamaWeights, rotate


def tables(angles: Tensor, mask: Tensor | None = None) -> LlamaTables:
    """Of angles ``[T, head_dim / 2]``."""
    both = torch.cat([angles, angles], -1)[None]
    return LlamaTables.of((both.cos(), both.sin()), mask)


def weights(hidden: int, head_dim: int, kv_heads: int, seed: int = 0) -> LlamaWeights:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"q": hidden, "k": kv_heads * head_dim, "v": kv_heads * head_dim, "o": hidden, "gate": 24, "up": 24}
    matrices = {name: torch.randn(rows, hidden, generator=generator) / hidden**0.5 for name, rows in sizes.items()}
    down = torch.randn(hidden, 24, generator=generator) / 5
    norms = [1 + 0.2 * torch.randn(hidden, generator=generator) for _ in range(2)]
    return LlamaWeights(**matrices, down=down, attention_norm=norms[0], mlp_norm=norms[1], head_dim=head_dim, eps=1e-6)


def written_out(w: LlamaWeights, x: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
    """The equations of the layer, head by head."""

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + w.eps).sqrt() * scale

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, w.head_dim))

    def turned(x: Tensor) -> Tensor:
        half = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1).contiguous())
        turned = half * torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.cat([turned.real, turned.imag], -1)

    seen = norm(x, w.attention_norm)
    q, k, v = turned(heads(seen @ w.q.T)), turned(heads(seen @ w.k.T)), heads(seen @ w.v.T)
    group = q.shape[2] // k.shape[2]
    read = []
    for head in range(q.shape[2]):
        scores = q[:, :, head] @ k[:, :, head // group].transpose(1, 2) / math.sqrt(w.head_dim)
        scores = scores if mask is None else scores + mask[:, 0]
        read.append(scores.softmax(-1) @ v[:, :, head // group])
    x = x + torch.cat(read, -1) @ w.o.T
    seen = norm(x, w.mlp_norm)
    gate = seen @ w.gate.T
    return x + (gate * gate.sigmoid() * (seen @ w.up.T)) @ w.down.T


def test_a_quarter_turn() -> None:
    """(a, b) -> (-b, a) by 90 degrees, and nothing by none; all heads of a token alike."""
    heads = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).expand(1, 2, 2, 2)
    found = rotate(heads, tables(torch.tensor([[0.0], [math.pi / 2]])))
    expected = torch.tensor([[[[1.0, 2.0], [-4.0, 3.0]]]]).expand(1, 2, 2, 2)
    torch.testing.assert_close(found, expected)


def test_one_token_by_hand() -> None:
    """Alone, a token reads itself. x = (3, 4) has the mean square 12.5, and what is added has its direction.

    n = x / sqrt(12.5), h = x + n, norm(h) = n, y = h + silu(n) n.
    """
    eye, ones = torch.eye(2), torch.ones(2)
    layer = LlamaLayer(LlamaWeights(eye, eye, eye, eye, eye, eye, eye, ones, ones, head_dim=2, eps=0.0), plain)
    n = [3 / 12.5**0.5, 4 / 12.5**0.5]
    expected = [x + a + a * a / (1 + math.exp(-a)) for x, a in zip((3, 4), n, strict=True)]
    found = layer(torch.tensor([[[3.0, 4.0]]]), tables(torch.tensor([[0.7]])))
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_the_equations(kv_heads: int, masked: bool) -> None:
    one, angles = weights(16, 4, kv_heads), torch.linspace(0, 7, 12).reshape(6, 2)
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, 6, 6) if masked else None
    if mask is not None:
        mask[1, ..., 4:] = torch.finfo(torch.float32).min
    before = x.clone()
    found = LlamaLayer(one, plain)(x, tables(angles, mask))
    torch.testing.assert_close(found, written_out(one, x, angles, mask), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)
