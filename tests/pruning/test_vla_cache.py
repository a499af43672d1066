from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.policy import full_policy
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.pruning.vla_cache import Remembered, Reuse, VLACachePolicy, VLACacheSchedule, shares
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

EVERYTHING = PruningSettings(static_tokens=256, relevant_tokens=1)
"""Of four patches all but one may be reused."""


def observation(number: int, words: str = "go and reach blue") -> Observation:
    rng = np.random.default_rng(number)
    return Observation({"agent": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)}, words, rng.random(2, np.float32))


def test_shares_by_hand() -> None:
    """Entropies 3, 1, 2, 1 and 3: shares 0, 1, .5, 1 and 0; a rise counts .55, from the damped value on."""
    found = shares(torch.tensor([3.0, 1.0, 2.0, 1.0, 3.0]))
    expected = [0.0, 0.55, 0.5, 0.5 + 0.55 * 0.5, 0.0]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_layers_that_are_all_alike_reuse_everything() -> None:
    assert shares(torch.ones(3)).tolist() == [1, 1, 1]


@given(st.lists(st.floats(0, 5, width=32), min_size=1, max_size=12))
def test_a_share_is_a_share(entropies: list[float]) -> None:
    found = shares(torch.tensor(entropies)).tolist()
    assert all(-1e-6 <= share <= 1 + 1e-6 for share in found)


def test_the_first_inference_computes_everything_and_a_reset_forgets(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    policy, full = VLACachePolicy(backbone, EVERYTHING, 2), full_policy(backbone, 2)
    for _ in range(2):
        policy.reset()
        first = policy.select_action(observation(0))
        assert np.array_equal(first.actions, full.select_action(observation(0)).actions)
        assert policy.last.tokens == full.last.tokens
        policy.select_action(observation(0))
        assert sum(policy.last.tokens) < sum(full.last.tokens)


def test_what_looks_exactly_as_before_gives_what_it_gave_before(tiny_backbone: type[TinyBackbone]) -> None:
    """Reused keys and values are those that would be computed: fewer tokens, the same action."""
    backbone = tiny_backbone()
    policy, full = VLACachePolicy(backbone, EVERYTHING, 2), full_policy(backbone, 2)
    policy.reset()
    expected = full.select_action(observation(0))
    for step in range(4):
        found = policy.select_action(observation(0))
        np.testing.assert_allclose(found.actions, expected.actions, atol=1e-5)
        assert (policy.last.tokens == full.last.tokens) == (step == 0)


def test_an_old_picture_shows(tiny_backbone: type[TinyBackbone]) -> None:
    """All are reused though the picture is another: the action is a mixture, or the test before could not fail."""
    backbone = tiny_backbone()
    policy, full = (
        VLACachePolicy(backbone, PruningSettings(static_similarity=-1, static_tokens=256), 2),
        full_policy(backbone, 2),
    )
    policy.reset()
    policy.select_action(observation(0))
    found = policy.select_action(observation(1))
    assert np.abs(found.actions - full.select_action(observation(1)).actions).max() > 1e-5


def test_what_changed_is_computed_from_the_last_frame_on(tiny_backbone: type[TinyBackbone]) -> None:
    """One patch turns red and stays red: it is computed once more, and then it looks as before."""
    policy = VLACachePolicy(tiny_backbone(), EVERYTHING, 2)
    policy.reset()
    blue = np.full((8, 8, 3), (0, 0, 200), np.uint8)
    red = blue.copy()
    red[4:, 4:] = (200, 0, 0)
    reusable = []
    for image in (blue, red, red):
        policy.select_action(Observation({"agent": image}, "reach red", np.zeros(2, np.float32)))
        reuse = policy.schedule.reuse
        reusable.append(None if reuse is None else {int(p) for layer in reuse.leaving.values() for p in layer})
    assert reusable[0] is None
    assert reusable[1] is not None and 4 not in reusable[1]


def remembered(backbone: TinyBackbone, state: LayerState) -> Remembered:
    schedule = VLACacheSchedule(backbone.attention_rows, backbone.run_layer_beside, 8)
    forward(backbone, state, schedule)
    assert schedule.remembered is not None
    return schedule.remembered


def test_tokens_leave_where_they_are_told_to(tiny_backbone: type[TinyBackbone]) -> None:
    """Two before layer 2, a third before layer 5; what is remembered is still all of them, in every layer."""
    backbone = tiny_backbone()
    inputs = backbone.encode([observation(0)])
    past = remembered(backbone, LayerState.of(inputs))
    schedule = VLACacheSchedule(backbone.attention_rows, backbone.run_layer_beside, 8)
    schedule.reuse = Reuse(past, {2: torch.tensor([1, 3]), 5: torch.tensor([1, 3, 4])})
    state = LayerState.of(inputs)
    trace = forward(backbone, state, schedule)
    assert trace.tokens == [15] * 2 + [13] * 3 + [12] * 3
    assert state.positions[0, :3].tolist() == [0, 2, 5]
    later = schedule.remembered
    assert later is not None
    for layer, found in later.cache.items():
        assert sorted(found.positions[0].tolist()) == [1, 2, 3, 4]
        order = found.positions[0].argsort()
        torch.testing.assert_close(found.keys[:, :, order], past.cache[layer].keys, atol=1e-5, rtol=0)
    assert later.relevance[1] == past.relevance[1], "a reused token keeps what it got"


def test_the_most_relevant_are_computed(tiny_backbone: type[TinyBackbone]) -> None:
    """The prompt attends to patch 2 alone in the layer that counts, of eight the fourth."""

    class Staring(tiny_backbone):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
            wanted = {3: 2}.get(layer, 1)
            return (state.positions == wanted).float()[:, None, None].expand(-1, 1, queries.shape[1], -1)

    policy = VLACachePolicy(Staring(), EVERYTHING, 2)
    policy.reset()
    for _ in range(2):
        policy.select_action(observation(0))
    assert policy.schedule.reuse is not None
    assert set(policy.schedule.reuse.leaving) == {1, 2, 3}
    assert all(left.tolist() == [1, 3, 4] for left in policy.schedule.reuse.leaving.values())


def test_side_by_side_as_if_alone(tiny_backbone: type[TinyBackbone]) -> None:
    def lane(policy: VLACachePolicy, first: int) -> Coroutine[tuple[int, list[Any]]]:
        policy.reset()
        seen = []
        for number in (first, first, first + 1):
            chunk = yield from policy.plan(observation(number))
            seen.append((number, chunk, policy.last.tokens))
        return first, seen

    policy = VLACachePolicy(tiny_backbone(), EVERYTHING, 2)
    begin: list[Callable[[int], Any]] = [partial(lane, policy.twin()) for _ in range(3)]
    for _, together in run_together(begin, [0, 10, 20, 30]):
        policy.reset()
        for number, chunk, tokens in together:
            alone = policy.select_action(observation(number))
            np.testing.assert_allclose(chunk.actions, alone.actions, atol=1e-5)
            assert tokens == policy.last.tokens


def test_a_backbone_that_keeps_none_is_refused(tiny_backbone: type[TinyBackbone]) -> None:
    class Forgetful(tiny_backbone):  # type: ignore[misc, valid-type]
        run_layer_beside = Backbone.run_layer_beside

    policy = VLACachePolicy(Forgetful(), PRUNING, 2)
    with pytest.raises(ConfigError, match="Forgetful keeps no keys and values to reuse"):
        policy.select_action(observation(0))
