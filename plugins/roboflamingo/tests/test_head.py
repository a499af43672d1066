from __future__ import annotations

import pytest
import torch
from dyslctl_roboflamingo.config import Head
from dyslctl_roboflamingo.head import HeadMemory, RecurrentHead, pooled
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.errors import ConfigError

CONFIG = Head(window=12, width=10, layers=2, mlp=(8, 6, 5))


def head(config: Head = CONFIG) -> RecurrentHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RecurrentHead(6, config).eval().requires_grad_(False)


HEAD = head()
FEATURES = torch.randn(40, 1, 6, generator=torch.Generator().manual_seed(1))


def actions(steps: int) -> list[Tensor]:
    memory, found = HeadMemory(), []
    for feature in FEATURES[:steps]:
        action, memory = HEAD(feature, memory)
        found.append(action)
    return found


def by_hand(out: Tensor) -> Tensor:
    return torch.cat([HEAD.actions(out), HEAD.gripper(out)], -1)


def test_twelve_steps_carry_the_state_on() -> None:
    found, state = actions(12), None
    for step in range(12):
        out, state = HEAD.rnn(FEATURES[step][:, None], state)
        assert torch.equal(found[step], by_hand(out[:, -1])), step


def test_from_the_thirteenth_on_the_window_is_replayed_from_zero() -> None:
    found = actions(20)
    for step in range(12, 20):
        window = FEATURES[step - 11 : step + 1].transpose(0, 1)
        assert window.shape == (1, 12, 6)
        out, _ = HEAD.rnn(window)
        assert torch.equal(found[step], by_hand(out[:, -1])), step


def test_carrying_on_would_give_another_thirteenth_action() -> None:
    out, _ = HEAD.rnn(FEATURES[:13].transpose(0, 1))
    assert (by_hand(out[:, -1]) - actions(13)[12]).abs().max() > 1e-6


def test_what_is_remembered() -> None:
    memory = HeadMemory()
    for step in range(14):
        _, memory = HEAD(FEATURES[step], memory)
        assert len(memory.features) == min(step + 1, 12)
        assert (memory.carried is None) == (step >= 12)
        assert torch.equal(memory.features[-1], FEATURES[step])
    assert torch.equal(memory.features[0], FEATURES[2])


@given(st.lists(st.sampled_from(["step", "keep", "back", "reset"]), max_size=60))
def test_any_walk_of_steps_and_rewinds(walk: list[str]) -> None:
    """A rewound head goes on as one that only took the steps that count."""
    memory, taken, kept = HeadMemory(), list[int](), (HeadMemory(), list[int]())
    for number, move in enumerate(walk):
        if move == "keep":
            kept = (memory, list(taken))
        elif move == "back":
            memory, taken = kept[0], list(kept[1])
        elif move == "reset":
            memory, taken = HeadMemory(), []
        else:
            action, memory = HEAD(FEATURES[number % 40], memory)
            taken.append(number % 40)
            fresh = HeadMemory()
            for step in taken:
                expected, fresh = HEAD(FEATURES[step], fresh)
            assert torch.equal(action, expected)


@pytest.mark.parametrize("steps", [2, 12, 15])
def test_gradients_go_back_through_what_is_remembered(steps: int) -> None:
    """While the state is carried on, and where the window is replayed: to its first feature, and no further."""
    features = FEATURES[:steps].clone().requires_grad_()
    memory = HeadMemory()
    for feature in features:
        action, memory = HEAD(feature, memory)
    (gradient,) = torch.autograd.grad(action.sum(), features)
    assert [bool(row.any()) for row in gradient] == [step >= steps - 12 for step in range(steps)]


def test_another_number_of_samples_is_refused() -> None:
    _, memory = HEAD(FEATURES[0], HeadMemory())
    with pytest.raises(ConfigError, match="remembers 1 episodes side by side, and is given 2"):
        HEAD(FEATURES[:2, 0], memory)


def test_pooling_is_a_maximum_over_real_tokens() -> None:
    hidden = torch.tensor([[[1.0, -5], [3, -7], [9, 9]]])
    assert pooled(hidden, torch.tensor([[True, True, False]])).tolist() == [[3, -5]]


def test_published_sizes() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in RecurrentHead(width, Head()).parameters()) for width in (2048, 4096)]
    assert sizes == [41_194_759, 49_583_367]


@pytest.mark.parametrize("past", [0, 1, 11, 12, 13, 25])
def test_a_history_stands_for_the_memory(past: int) -> None:
    """In both regimes; carrying the state on from zero is going over the window from zero."""
    memory = HeadMemory()
    for feature in FEATURES[:past]:
        _, memory = HEAD(feature, memory)
    row = HEAD.history(memory)
    assert row.shape == (2 * HEAD.rnn.num_layers * HEAD.rnn.hidden_size,) and row.any() == bool(past)
    expected, _ = HEAD(FEATURES[past], memory)
    torch.testing.assert_close(HEAD.after(FEATURES[past], row[None]), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("past", [0, 1, 3])
def test_a_window_of_one_remembers_nothing_once_it_is_full(past: int) -> None:
    short, memory = head(CONFIG.model_copy(update={"window": 1})), HeadMemory()
    for feature in FEATURES[:past]:
        _, memory = short(feature, memory)
    expected, _ = short(FEATURES[past], memory)
    torch.testing.assert_close(short.after(FEATURES[past], short.history(memory)[None]), expected)


def test_pasts_of_different_lengths_side_by_side() -> None:
    rows, expected = [], []
    for past in (3, 0, 20):
        memory = HeadMemory()
        for feature in FEATURES[:past]:
            _, memory = HEAD(feature, memory)
        rows.append(HEAD.history(memory))
        expected.append(HEAD(FEATURES[30], memory)[0])
    feature = FEATURES[30].expand(3, -1).clone().requires_grad_()
    found = HEAD.after(feature, torch.stack(rows))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), feature)
    assert (gradient.abs().amax(1) > 0).all()
