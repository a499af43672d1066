"""Actions as tokens, by hand: 32000 tokens, of which the last 256 stand for 255 intervals between -1 and 1."""

from __future__ import annotations

import pytest
import torch
from dyslctl_openvla_oft.action_tokens import ActionTokens
from dyslctl_openvla_oft.random_checkpoint import published_config

TOKENS = ActionTokens(32_000, 256)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        (31_999, -1 + 1 / 255),  # the lowest interval is the last token
        (31_998, -1 + 3 / 255),
        (31_872, 0.0),
        (31_746, 1 - 3 / 255),
        (31_745, 1 - 1 / 255),
        (31_744, 1 - 1 / 255),  # 256 tokens, 255 intervals
        (31_743, 1 - 1 / 255),  # no action: the nearest end
        (2, 1 - 1 / 255),
        (32_063, -1 + 1 / 255),
    ],
)
def test_values(token: int, value: float) -> None:
    assert TOKENS.values(torch.tensor(token)).item() == pytest.approx(value, abs=1e-7)


def test_rows_that_are_no_token_do_not_count() -> None:
    """Released tables have 32064 rows for 32000 tokens."""
    assert ActionTokens.of(published_config(head="tokens")) == TOKENS
    assert TOKENS.slice == slice(31_744, 32_000)


def test_the_likeliest_of_all_tokens() -> None:
    logits = torch.zeros(2, 32_064)
    logits[0, 31_872] = 1
    logits[1, 2], logits[1, 31_872] = 2, 1
    ids, values = TOKENS.decode(logits)
    assert ids.tolist() == [31_872, 2]
    torch.testing.assert_close(values, torch.tensor([0.0, 1 - 1 / 255]))


def test_the_gradient_is_that_of_the_mean_over_action_tokens() -> None:
    """Five tokens; the last three stand for the intervals (-1, 0) and (0, 1): centres 0.5, 0.5, -0.5."""
    tokens = ActionTokens(5, 3)
    logits = torch.tensor([9.0, 0.0, 0.3, -0.2, 1.1], requires_grad=True)
    _, value = tokens.decode(logits)
    assert value.item() == 0.5  # what token 0 is taken for
    (gradient,) = torch.autograd.grad(value, logits)
    share = logits.detach()[2:].softmax(0)
    centers = torch.tensor([0.5, 0.5, -0.5])
    expected = share * (centers - (share * centers).sum())
    torch.testing.assert_close(gradient, torch.cat([torch.zeros(2), expected]))
