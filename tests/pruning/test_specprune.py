from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.engine import EXIT, ForwardTrace, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.policy import full_policy
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.pruning.specprune import Budgets, Depths, Found, Outlook, SpecPruneSchedule
from dyslctl.pruning.specprune_policy import SpecPrunePolicy
from dyslctl.types import ActionChunk, LayerState, Observation, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

KINDS = [1, *[16] * 16, *[17] * 16, 3, 3, 4, 5]
"""BOS; a view at 1 .. 16 and one at 17 .. 32; two words, an action, stop."""
OTHERS = {0, 33, 34, 35, 36}
Table = Mapping[int, Mapping[int, float]]
"""Layer -> position -> attention it gets; others get none."""


class Still:
    """32 layers that change nothing, and what their prompt attends to."""

    spec: Any = SimpleNamespace(num_layers=32)

    def __init__(self, table: Table) -> None:
        self.table = table

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        return state.hidden.clone()

    def rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
        assert [KINDS[i] for i in state.positions[0, queries[0]].tolist()] == [3, 3]
        here = self.table.get(layer, {})
        weights = torch.tensor([here.get(position, 0.0) for position in state.positions[0].tolist()])
        return weights.expand(1, 4, queries.shape[1], -1)


def state() -> LayerState:
    return LayerState(torch.zeros(1, 37, 1), torch.arange(37)[None], torch.tensor([KINDS]))


def run(table: Table, settings: PruningSettings, outlook: Outlook | None) -> tuple[LayerState, ForwardTrace, Found]:
    layers, before = Still(table), state()
    schedule = SpecPruneSchedule(layers.rows, settings, Depths.of(32))
    schedule.outlook = outlook
    trace = forward(layers, before, schedule)
    assert schedule.found is not None
    return before, trace, schedule.found


GLOBAL: Table = {14: {3: 1.0, 5: 0.9, 7: 0.5}, 31: {5: 1.0, 9: 0.8, 20: 1.0, 30: 0.5}}
"""Scaled and averaged, 3 has .5, 5 has .95, 7 has .25, 9 has .4; 20 has .5 and 30 has .25."""
LOCAL: Table = {0: {11: 0.6, 5: 0.5, 17: 0.4}, 1: {12: 0.2, 20: 0.3, 25: 0.1}}


def test_where_a_model_of_32_layers_is_pruned() -> None:
    found = Depths.of(32)
    assert (found.local, found.global_, found.pruned) == ((0, 1), (14, 31), (9, 14, 19, 24))
    assert found.updated == (*range(2, 9), *range(10, 14), *range(15, 19), *range(20, 24))


def test_where_smaller_ones_are() -> None:
    assert Depths.of(12) == Depths((0, 1), (5, 11), (3, 5, 7), (2, 4, 6))
    assert Depths.of(3) == Depths((0, 1), (0, 2), (), ())
    assert Depths.of(1) == Depths((0,), (0,), (), ())


@given(st.integers(1, 64))
def test_importance_is_learnt_before_each_pruning(num_layers: int) -> None:
    found = Depths.of(num_layers)
    borders = [found.local[-1], *found.pruned]
    for before, after in zip(borders, found.pruned, strict=False):
        assert any(before < layer < after for layer in found.updated)
    assert all(0 <= layer < num_layers - 1 for layer in found.pruned)
    assert found.global_[-1] == num_layers - 1


def test_budgets_of_the_paper() -> None:
    assert Budgets.of(PRUNING, "coarse", 256) == Budgets(24, 19, 16)
    assert Budgets.of(PRUNING, "fine", 256) == Budgets(24, 32, 8)
    coarse = Budgets.of(PRUNING, "coarse", 256)
    assert 2 * (coarse.global_ + 2 * coarse.local + coarse.dynamic) == 156, "the paper reports 152 retained"


def test_the_first_inference_prunes_nothing_and_finds_what_the_deep_layers_attend_to() -> None:
    _, trace, found = run(GLOBAL, PRUNING, None)
    assert trace.tokens == [37] * 32
    assert [positions.tolist() for positions in found.important] == [[5, 3], [20, 30]]
    assert found.layout == (tuple(range(1, 17)), tuple(range(17, 33)))


def test_a_stand_in_counts_until_a_global_layer_is_heard() -> None:
    """Position 3 is important in the stand-in, 5 in layer 14; a pass that leaves between them knows the first."""
    table: Table = {3: {3: 1.0, 20: 1.0}, 14: {5: 1.0, 20: 1.0}, 31: {5: 1.0, 20: 1.0}}
    assert found_by_passes(table, (3, 14, 31), 3, (8, 31)) == {8: [[3], [20]], 31: [[5], [20]]}


def test_a_stand_in_behind_a_global_layer_counts_beside_it_and_then_no_more() -> None:
    """Position 3 leads by the stand-in, 17, alone; by layers 14 and 31, of which one names it, 5 does."""
    table: Table = {
        14: {3: 1.0, 5: 0.9, 20: 1.0}, 17: {3: 1.0, 20: 1.0}, 31: {5: 1.0, 20: 1.0},
    }  # fmt: skip
    assert found_by_passes(table, (14, 17, 31), 17, (20, 31)) == {20: [[3], [20]], 31: [[5], [20]]}


def found_by_passes(
    table: Table, heard: tuple[int, ...], stand_in: int, lasts: tuple[int, ...]
) -> dict[int, list[list[int]]]:
    """The most important token of each view, by the last layer of a pass."""
    depths = replace(Depths.of(32), global_=heard, stand_ins=(stand_in,))
    found = {}
    for last in lasts:

        class Leaving(SpecPruneSchedule):
            def before(self, layer: int, state: LayerState, last: int = last) -> Step:
                return EXIT if layer > last else super().before(layer, state)

        layers = Still(table)
        schedule = Leaving(layers.rows, replace(PRUNING, global_tokens=1), depths)
        forward(layers, state(), schedule)
        assert schedule.found is not None
        found[last] = [positions.tolist() for positions in schedule.found.important]
    return found


def test_entropy_is_measured_at_once_and_reused() -> None:
    """Layer 4: as much on two keys, ln 2 = .693; layer 5: all on one; other layers: nothing on any."""
    _, _, found = run({**GLOBAL, 4: {1: 0.2, 32: 0.2}, 5: {8: 1.0}}, PRUNING, None)
    assert sorted(found.trust) == list(Depths.of(32).updated)
    assert found.trust[4].item() == pytest.approx(1 / 0.693148, rel=1e-4)
    assert found.trust[5].item() == pytest.approx(1e6, rel=1e-3)
    outlook = Outlook(found, "coarse", (np.array([], int),) * 2)
    _, _, later = run({**GLOBAL, **LOCAL, 4: {8: 1.0}}, PRUNING, outlook)
    assert later.trust[4] is found.trust[4]


def test_what_stays_by_hand() -> None:
    """Of 16 tokens a view two are global, one in each layer is local, one may have changed; then .6 of those."""
    settings = PruningSettings(layer_share=0.6)
    ranked: Table = {
        layer: {3: 0.9, 1: 0.8, 12: 0.7, 5: 0.6, 11: 0.5, 30: 0.9, 17: 0.8, 20: 0.7, 8: 1.0} for layer in range(2, 24)
    }
    _, _, found = run(GLOBAL, settings, None)
    outlook = Outlook(found, "coarse", (np.array([0]), np.array([], int)))
    after, trace, _ = run({**ranked, **GLOBAL, **LOCAL}, settings, outlook)
    # static: {5, 3} + {11} + {12} + patch 0 and {20, 30} + {17} + {20}; of 5 and 3 stay 3 and 2, then 2 and 1, 1 and 1
    assert trace.tokens == [37] * 2 + [5 + 8] * 8 + [5 + 5] * 5 + [5 + 3] * 5 + [5 + 2] * 12
    assert set(after.positions[0].tolist()) == OTHERS | {3, 30}


def test_budgets_follow_the_mode() -> None:
    """Fine: two a layer are local (.8 x 40 of 256, of 16: 2), and no more have changed than before (8 of 256: one)."""
    _, _, found = run(GLOBAL, PRUNING, None)
    local: Table = {0: {10: 0.9, 11: 0.8, 17: 0.5, 18: 0.4}, 1: {10: 0.9, 12: 0.8, 18: 0.5, 19: 0.4}}
    counts = {}
    for mode in ("coarse", "fine"):
        outlook = Outlook(found, mode, (np.array([], int),) * 2)  # type: ignore[arg-type]
        counts[mode] = run({**GLOBAL, **local}, PruningSettings(layer_share=1.0), outlook)[1].tokens[-1] - len(OTHERS)
    assert counts == {"coarse": (2 + 1) + (2 + 2), "fine": (2 + 3) + (2 + 3)}


def test_a_pruned_token_cannot_become_important_but_a_kept_one_stays_so() -> None:
    """The deep layers would attend to 7 and 9, which went; they are asked among those that stayed."""
    _, _, found = run(GLOBAL, PRUNING, None)
    outlook = Outlook(found, "coarse", (np.array([], int),) * 2)
    _, _, later = run({14: {7: 1.0, 5: 0.5}, 31: {9: 1.0, 11: 0.5}, **LOCAL}, PruningSettings(layer_share=1.0), outlook)
    # kept of the first view: 3, 5, 11, 12; scaled, 5 has .5 and 11 has .5
    assert later.important[0].tolist() == [5, 11]


def test_layers_that_know_what_they_look_at_count_more() -> None:
    """Layers 2 to 7 prefer 5, layer 8 prefers 3. It comes last but alone; focused, it decides."""
    spread = {position: 1 / 32 for position in range(1, 33)}
    scattered = {**spread, 5: 0.9, 3: 0.1}
    _, _, once = run(GLOBAL, PRUNING, None)
    last = {}
    for name, focus in (("scattered", {**spread, 3: 0.9, 5: 0.1}), ("focused", {3: 1.0, 5: 1e-9})):
        table: Table = {**GLOBAL, **dict.fromkeys(range(2, 8), scattered), 8: focus, 0: {5: 1.0}, 1: {5: 1.0}}
        _, _, found = run(table, PRUNING, None)
        outlook = Outlook(replace(found, important=once.important), "coarse", (np.array([], int),) * 2)
        after, _, _ = run(table, PruningSettings(layer_share=0.5), outlook)
        last[name] = [position for position in after.positions[0].tolist() if 1 <= position <= 16]
    assert last == {"scattered": [5], "focused": [3]}


def test_buckets_are_filled_by_the_second_layer() -> None:
    _, _, found = run(GLOBAL, PRUNING, None)
    outlook = Outlook(found, "coarse", (np.array([0]), np.array([], int)))
    settings = PruningSettings(layer_share=1.0, bucket=4)
    local: Table = {0: LOCAL[0], 1: {**LOCAL[1], 14: 0.15, 13: 0.1, 2: 0.05}}
    after, _, _ = run({**GLOBAL, **local}, settings, outlook)
    # five named and three more: 14, 13, 2; three named, {17, 20, 30}, and one more: 25
    assert set(after.positions[0].tolist()) == OTHERS | {1, 3, 5, 11, 12, 14, 13, 2} | {17, 20, 30, 25}


def test_a_past_of_other_views_is_none() -> None:
    _, _, found = run(GLOBAL, PRUNING, None)
    other = replace(found, layout=(found.layout[0],), important=found.important[:1])
    _, trace, later = run(GLOBAL, PRUNING, Outlook(other, "coarse", (np.array([], int),)))
    assert trace.tokens == [37] * 32 and later.layout == found.layout


# With a backbone: 4 patches, so that each source names one of them.


def observation(number: int, words: str = "go and reach blue") -> Observation:
    rng = np.random.default_rng(number)
    return Observation({"agent": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)}, words, rng.random(2, np.float32))


def steps(policy: SpecPrunePolicy, count: int, first: int = 0) -> list[tuple[ActionChunk, tuple[int, ...]]]:
    policy.reset()
    return [(policy.select_action(observation(first + n)), policy.last.tokens) for n in range(count)]


def test_budgets_that_cover_everything_are_the_full_model_bit_for_bit(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    covering = SpecPrunePolicy(backbone, PruningSettings(alpha=20, layer_share=1.0), 2)
    full = full_policy(backbone, 2)
    for number, (chunk, tokens) in enumerate(steps(covering, 6)):
        assert np.array_equal(chunk.actions, full.select_action(observation(number)).actions)
        assert tokens == full.last.tokens


def test_an_empty_history_prunes_nothing_and_a_reset_empties_it(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    policy, full = SpecPrunePolicy(backbone, PRUNING, 2), full_policy(backbone, 2)
    for _ in range(2):
        (first, tokens), *later = steps(policy, 4)
        assert np.array_equal(first.actions, full.select_action(observation(0)).actions)
        assert tokens == full.last.tokens
        assert all(seen[0] == seen[1] == tokens[0] > seen[2] for _, seen in later), "static pruning is after layer 2"
    policy.reset()
    assert policy.history.found is None and policy.history.frames.frames == () and policy.history.last is None


def test_nothing_but_visual_tokens_goes(tiny_backbone: type[TinyBackbone]) -> None:
    """BOS and the last word too; counted where the head reads."""

    class Watched(tiny_backbone):  # type: ignore[misc, valid-type]
        def predict(self, state: LayerState) -> Tensor:
            self.kinds = state.kinds[0].tolist()
            return super().predict(state)  # type: ignore[no-any-return]

    backbone = Watched()
    policy = SpecPrunePolicy(backbone, PruningSettings(layer_share=0.1), 2)
    steps(policy, 5)
    assert sum(kind >= TokenKind.VISION for kind in backbone.kinds) == 1, "no view goes blind"
    assert [kind for kind in backbone.kinds if kind < TokenKind.VISION] == [1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5]


def test_the_same_past_gives_the_same_prediction(tiny_backbone: type[TinyBackbone]) -> None:
    """Its history is a value: put back, a step is repeated; the step itself does not change it."""
    policy = SpecPrunePolicy(tiny_backbone(), PRUNING, 2)
    steps(policy, 3)
    before = policy.history
    found = []
    for _ in range(2):
        policy.history = before
        found.append((policy.select_action(observation(3)).actions.tolist(), policy.last.tokens))
        policy.select_action(observation(9))
    assert found[0] == found[1]


def test_what_moves_is_kept(tiny_backbone: type[TinyBackbone]) -> None:
    """One patch changes its colour. Compared is the frame of the right inference, not the current one."""
    backbone = tiny_backbone()
    policy = SpecPrunePolicy(backbone, PruningSettings(layer_share=1.0), 12)
    still, red = np.full((8, 8, 3), (0, 0, 200), np.uint8), np.full((8, 8, 3), (0, 0, 200), np.uint8)
    red[4:, 4:] = (200, 0, 0)
    kept = {}
    for name, second in (("still", still), ("red", red)):
        policy.reset()
        for image in (still, second):
            policy.select_action(Observation({"agent": image}, "reach red", np.zeros(2, np.float32)))
        outlook = policy.schedule.outlook
        assert outlook is not None
        kept[name] = outlook.changed[0].tolist()
    assert kept == {"still": [], "red": [3]}


def test_a_camera_of_another_size_is_no_past(tiny_backbone: type[TinyBackbone]) -> None:
    class Zooming(tiny_backbone):  # type: ignore[misc, valid-type]
        def _image_patches(self, observation: Observation) -> Tensor:
            image = observation.images["agent"][:8, :8]
            return super()._image_patches(replace(observation, images={"agent": image}))  # type: ignore[no-any-return]

    policy = SpecPrunePolicy(Zooming(), PRUNING, 2)
    policy.select_action(observation(0))
    policy.select_action(replace(observation(1), images={"agent": np.zeros((9, 9, 3), np.uint8)}))
    assert set(policy.last.tokens) == {15}


def test_modes_are_told_by_the_executed_action(tiny_backbone: type[TinyBackbone]) -> None:
    """Of four predicted actions two are executed; the second of them was slow, the fourth is not asked."""

    class Slowing(tiny_backbone):  # type: ignore[misc, valid-type]
        def predict(self, state: LayerState) -> Tensor:
            return torch.tensor([[[0.9, 0, 1], [0.1, 0, 1], [0.9, 0, 1], [0.9, 0, 1.0]]])

    policy = SpecPrunePolicy(Slowing(), PRUNING, 2)
    modes = []
    for number in range(2):
        policy.select_action(observation(number))
        modes.append(policy.history.mode)
    assert modes == ["coarse", "fine"]
    assert policy.history.last is not None and policy.history.last.translation == pytest.approx(0.1)


def test_side_by_side_as_if_alone(tiny_backbone: type[TinyBackbone]) -> None:
    """Each twin has a past of its own, and its passes shrink at their own pace."""

    def lane(policy: SpecPrunePolicy, first: int) -> Coroutine[tuple[int, list[Any]]]:
        policy.reset()
        seen = []
        for number in range(first, first + 4):
            chunk = yield from policy.plan(observation(number, "reach blue" if first % 2 else "go and reach blue"))
            seen.append((chunk, policy.last.tokens))
        return first, seen

    policy = SpecPrunePolicy(tiny_backbone(), PRUNING, 2)
    twins = [policy.twin() for _ in range(3)]
    assert twins[0].backbone is policy.backbone and twins[0].schedule is not policy.schedule
    begin: list[Callable[[int], Any]] = [partial(lane, twin) for twin in twins]
    for first, together in run_together(begin, [0, 1, 10, 21, 30]):
        policy.reset()
        for number, (chunk, tokens) in enumerate(together, first):
            words = "reach blue" if first % 2 else "go and reach blue"
            alone = policy.select_action(observation(number, words))
            np.testing.assert_allclose(chunk.actions, alone.actions, atol=1e-5)
            assert tokens == policy.last.tokens


def test_two_arms_are_refused(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    backbone.spec = replace(backbone.spec, action_dim=14)
    with pytest.raises(ConfigError, match="expected at most 7 action dimensions, found 14"):
        SpecPrunePolicy(backbone, PRUNING, 2)
