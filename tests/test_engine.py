"""The loop serves every kind of method: each is proved with the smallest schedule that needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.engine import (
    EXIT,
    RUN,
    FullSchedule,
    Jump,
    LayerSchedule,
    Run,
    Step,
    forward,
    forward_together,
    stack,
    stackable,
)
from dyslctl.types import LayerInputs, LayerState, Observation, Ran, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


class At(LayerSchedule):
    """One chosen step before one layer."""

    def __init__(self, layer: int, step: Step) -> None:
        self.layer, self.step = layer, step

    def before(self, layer: int, state: LayerState) -> Step:
        return self.step if layer == self.layer else RUN


class KeepTokens(LayerSchedule):
    """Goes on with some tokens after one layer."""

    def __init__(self, layer: int, keep: torch.Tensor) -> None:
        self.layer, self.keep = layer, keep

    def after(self, layer: int, state: LayerState) -> None:
        if layer == self.layer:
            state.select(self.keep)


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def inputs(backbone: TinyBackbone) -> LayerInputs:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    words = ("reach red", "go and reach blue")
    return backbone.encode(
        [
            Observation({"agent": image}, text, rng.random(2, np.float32))
            for image, text in zip(images, words, strict=True)
        ]
    )


def by_hand(backbone: TinyBackbone, inputs: LayerInputs, layers: range) -> torch.Tensor:
    state = LayerState.of(inputs)
    for layer in layers:
        state.hidden = backbone.run_layer(layer, state)
    return state.hidden


def test_the_full_schedule_is_the_model_bit_for_bit(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    state = LayerState.of(inputs)
    trace = forward(backbone, state, FullSchedule())
    assert torch.equal(state.hidden, by_hand(backbone, inputs, range(8)))
    assert trace.layers_run == list(range(8))
    assert trace.tokens == [inputs.hidden.shape[1]] * 8
    assert (trace.jumps, trace.resume_layer, trace.resume_state) == ([], None, None)


def test_tokens_are_told_with_padding_and_without(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    state = LayerState.of(inputs)
    assert state.padding > 0
    trace = forward(backbone, state, At(1, Jump(7)))
    assert trace.tokens_without(state.padding) == [inputs.hidden.shape[1] - state.padding] * 2


def test_a_pass_leaves_its_inputs_alone(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    before = inputs.hidden.clone()
    forward(backbone, LayerState.of(inputs), At(2, Jump(5, lambda hidden: hidden * 2)))
    assert torch.equal(inputs.hidden, before)


def test_a_jump_goes_through_its_adapter(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    state = LayerState.of(inputs)
    trace = forward(backbone, state, At(2, Jump(6, lambda hidden: 0.5 * hidden)))
    expected = LayerState.of(inputs)
    expected.hidden = 0.5 * by_hand(backbone, inputs, range(2))
    for layer in (6, 7):
        expected.hidden = backbone.run_layer(layer, expected)
    assert torch.equal(state.hidden, expected.hidden)
    assert trace.layers_run == [0, 1, 6, 7]
    assert trace.jumps == [(2, 6)]


def test_a_plain_jump_to_the_head_is_an_early_exit(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    jumped, left = LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, jumped, At(5, Jump(8)))
    trace = forward(backbone, left, At(5, EXIT))
    assert torch.equal(jumped.hidden, left.hidden)
    assert torch.equal(left.hidden, by_hand(backbone, inputs, range(5)))
    assert (trace.resume_layer, trace.layers_run, trace.jumps) == (5, [0, 1, 2, 3, 4], [])


@pytest.mark.parametrize("step", [Jump(4, lambda hidden: hidden + 1), EXIT])
@pytest.mark.parametrize("layer", [0, 3])
def test_resuming_completes_the_full_pass_bit_for_bit(
    backbone: TinyBackbone, inputs: LayerInputs, layer: int, step: Step
) -> None:
    trace = forward(backbone, LayerState.of(inputs), At(layer, step))
    assert trace.resume_layer == layer and trace.resume_state is not None
    rest = forward(backbone, trace.resume_state, FullSchedule(), first=layer)
    assert rest.layers_run == list(range(layer, 8))
    assert torch.equal(trace.resume_state.hidden, by_hand(backbone, inputs, range(8)))


def test_a_jump_may_leave_tokens_behind(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    """The head sees the kept ones, adapted; who resumes sees them all."""
    keep, state = torch.tensor([[5, 10, 11]]).expand(len(inputs.kinds), -1), LayerState.of(inputs)
    trace = forward(backbone, state, At(3, Jump(8, lambda hidden: hidden + 1, keep=keep)))
    before = by_hand(backbone, inputs, range(3))
    assert torch.equal(state.hidden, before[:, keep[0]] + 1)
    assert torch.equal(state.kinds, inputs.kinds[:, keep[0]]) and torch.equal(state.positions, keep)
    assert trace.resume_state is not None and torch.equal(trace.resume_state.hidden, before)


def test_resume_is_the_first_of_several_jumps(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    class Twice(LayerSchedule):
        def before(self, layer: int, state: LayerState) -> Step:
            return {1: Jump(3), 5: Jump(7)}.get(layer, RUN)

    trace = forward(backbone, LayerState.of(inputs), Twice())
    assert trace.jumps == [(1, 3), (5, 7)]
    assert trace.resume_layer == 1


def test_a_schedule_that_runs_a_layer_for_some_tokens_says_for_how_many(
    backbone: TinyBackbone, inputs: LayerInputs
) -> None:
    trace = forward(backbone, LayerState.of(inputs), At(3, Run(by=lambda layer, state: state.hidden, tokens=5)))
    tokens = inputs.hidden.shape[1]
    assert trace.layers_run == list(range(8)) and trace.tokens == [tokens] * 3 + [5] + [tokens] * 4


def test_gathered_tokens_keep_their_original_positions(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    """Dropping tokens must equal masking them out, which it does only if positions and masks travel along."""
    tokens = inputs.hidden.shape[1]
    kept = [t for t in range(tokens) if t not in (2, 3)]
    state = LayerState.of(inputs)
    trace = forward(backbone, state, KeepTokens(3, torch.tensor([kept, kept])))
    masked = LayerState.of(inputs)
    for layer in range(8):
        if layer == 4:
            masked.mask = (
                torch.ones_like(inputs.kinds, dtype=torch.bool) if inputs.mask is None else inputs.mask.clone()
            )
            masked.mask[:, [2, 3]] = False
            masked.context = None
        masked.hidden = backbone.run_layer(layer, masked)
    assert state.positions.tolist() == [kept, kept]
    assert trace.tokens == [tokens] * 4 + [tokens - 2] * 4
    torch.testing.assert_close(state.hidden, masked.hidden[:, kept])
    assert bool((state.kinds == TokenKind.ACTION).sum(1).eq(backbone.spec.chunk_length).all())


@pytest.mark.parametrize("to", [3, 9])
def test_a_jump_backwards_or_past_the_head_is_refused(backbone: TinyBackbone, inputs: LayerInputs, to: int) -> None:
    with pytest.raises(ValueError, match=f"from layer 3 to {to}"):
        forward(backbone, LayerState.of(inputs), At(3, Jump(to)))


def test_padding_does_not_change_the_real_tokens(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    """The fixture's first instruction is padded; garbage in its padding must not reach the action."""
    assert inputs.mask is not None and not bool(inputs.mask.all())
    dirty = inputs.hidden.masked_fill(~inputs.mask[..., None], 7.0)
    clean_state = LayerState.of(inputs)
    dirty_state = LayerState.of(LayerInputs(dirty, inputs.positions, inputs.kinds, inputs.mask))
    forward(backbone, clean_state, FullSchedule())
    forward(backbone, dirty_state, FullSchedule())
    torch.testing.assert_close(backbone.predict(clean_state), backbone.predict(dirty_state))


LAYERS = 8


class Script(LayerSchedule):
    """Steps written down before, and tokens to drop after one layer. Adapters scale the hidden state."""

    def __init__(self, steps: dict[int, Step], drop_after: int | None) -> None:
        self.steps, self.drop_after = steps, drop_after

    def before(self, layer: int, state: LayerState) -> Step:
        return self.steps.get(layer, RUN)

    def after(self, layer: int, state: LayerState) -> None:
        if layer == self.drop_after:
            state.select(torch.tensor([[t for t in range(state.hidden.shape[1]) if t not in (2, 3)]]))


def halve(hidden: torch.Tensor) -> torch.Tensor:
    return 0.5 * hidden


@st.composite
def scripts(draw: st.DrawFn) -> tuple[int, Script]:
    """The layer to begin with, and what to do from there on."""
    steps: dict[int, Step] = {}
    for layer in draw(st.sets(st.integers(0, LAYERS - 1), max_size=3)):
        jump = st.builds(Jump, st.integers(layer + 1, LAYERS), st.sampled_from([None, halve]))
        steps[layer] = draw(st.one_of(st.just(EXIT), jump))
    drop_after = draw(st.none() | st.integers(0, LAYERS - 1))
    return draw(st.integers(0, LAYERS)), Script(steps, drop_after)


WORDS = ("reach red", "go and reach blue")


def one_state(backbone: TinyBackbone, number: int, words: str = WORDS[1]) -> LayerState:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return LayerState.of(backbone.encode([Observation({"agent": image}, words, rng.random(2, np.float32))]))


@given(samples=st.lists(st.tuples(scripts(), st.sampled_from(WORDS)), min_size=1, max_size=5))
def test_together_every_sample_goes_its_own_way(
    tiny_backbone: type[TinyBackbone], samples: list[tuple[tuple[int, Script], str]]
) -> None:
    backbone = tiny_backbone()
    states = [one_state(backbone, number, words) for number, (_, words) in enumerate(samples)]
    alone = [state.fork() for state in states]
    firsts, schedules = zip(*(script for script, _ in samples), strict=True)
    traces = forward_together(backbone, states, schedules, firsts)
    for state, other, trace, (first, schedule) in zip(
        alone, states, traces, (script for script, _ in samples), strict=True
    ):
        expected = forward(backbone, state, schedule, first)
        torch.testing.assert_close(other.hidden, state.hidden)
        assert torch.equal(other.positions, state.positions) and torch.equal(other.kinds, state.kinds)
        assert (trace.layers_run, trace.jumps, trace.tokens) == (expected.layers_run, expected.jumps, expected.tokens)
        assert trace.resume_layer == expected.resume_layer
        if trace.resume_state is not None and expected.resume_state is not None:
            torch.testing.assert_close(trace.resume_state.hidden, expected.resume_state.hidden)


def test_those_at_a_layer_run_it_as_one_batch(tiny_backbone: type[TinyBackbone]) -> None:
    """One jumps over layer 2, one drops two of its 15 tokens after layer 5, one joins at layer 4."""
    batches: list[tuple[int, int, int]] = []

    class Watched(tiny_backbone):  # type: ignore[valid-type, misc]
        def run_layer(self, layer: int, state: LayerState) -> torch.Tensor:
            batches.append((layer, *state.hidden.shape[:2]))
            output: torch.Tensor = super().run_layer(layer, state)
            return output

    backbone = Watched()
    states = [one_state(backbone, number) for number in range(3)]
    forward_together(backbone, states, [Script({2: Jump(3)}, None), Script({}, 5), Script({}, None)], [0, 0, 4])
    assert batches == [
        (0, 2, 15), (1, 2, 15), (2, 1, 15), (3, 2, 15), (4, 3, 15), (5, 3, 15),
        (6, 2, 15), (6, 1, 13), (7, 2, 15), (7, 1, 13),
    ]  # fmt: skip


def test_tables_are_made_once_for_a_group_that_stays_together(
    tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    made, make = list[int](), backbone._context

    def count(state: LayerState) -> tuple[torch.Tensor, torch.Tensor]:
        made.append(len(state.hidden))
        return make(state)

    monkeypatch.setattr(backbone, "_context", count)
    states = [one_state(backbone, number) for number in range(3)]
    forward_together(backbone, states, [FullSchedule(), FullSchedule(), At(4, Jump(6))], [0, 0, 0])
    assert made == [3, 2]


def test_padding_and_conditioning_of_another_shape_are_not_stacked(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    plain, padded, conditioned = one_state(backbone, 0), LayerState.of(inputs), one_state(backbone, 1)
    conditioned.conditioning = torch.zeros(1, 1)
    assert stackable([plain, padded, conditioned, one_state(backbone, 2)]) == [[0, 3], [1], [2]]


def test_a_layer_sees_the_conditioning_of_each_sample_of_its_batch(tiny_backbone: type[TinyBackbone]) -> None:
    """One has more of it, and runs alone."""
    batches: list[list[float]] = []

    class Shifted(tiny_backbone):  # type: ignore[valid-type, misc]
        def run_layer(self, layer: int, state: LayerState) -> torch.Tensor:
            shift = state.conditioning["shift"].mean(1)
            batches.append(shift.tolist())
            output: torch.Tensor = super().run_layer(layer, state) + shift[:, None, None]
            return output

    def states() -> list[LayerState]:
        found = [one_state(backbone, number) for number in range(3)]
        for number, (state, count) in enumerate(zip(found, (1, 2, 1), strict=True)):
            state.conditioning = {"shift": torch.full((1, count), float(number))}
        return found

    backbone = Shifted()
    together, alone = states(), states()
    forward_together(backbone, together, [FullSchedule() for _ in together], [0, 0, 0])
    assert batches[:2] == [[0, 2], [1]]
    for one, other in zip(together, alone, strict=True):
        forward(backbone, other, FullSchedule())
        torch.testing.assert_close(one.hidden, other.hidden)


class Remembering:
    """Layers that keep what entered them, as those of a head that generates tokens do."""

    def __init__(self, backbone: TinyBackbone) -> None:
        self.backbone, self.spec = backbone, backbone.spec

    def run_layer(self, layer: int, state: LayerState) -> torch.Tensor:
        state.past = (*state.past, Ran(layer, (state.hidden,)))
        return self.backbone.run_layer(layer, state)


def steps_of(state: LayerState) -> list[object]:
    return [step.layer if isinstance(step, Ran) else step for step in state.past]


def test_the_past_is_what_the_state_went_through(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    state = LayerState.of(inputs)
    trace = forward(Remembering(backbone), state, Script({1: Jump(3), 4: Jump(6, halve)}, None))
    assert steps_of(state) == [0, 3, halve, 6, 7]
    assert trace.resume_state is not None and steps_of(trace.resume_state) == [0]


def test_together_each_has_its_own_past(backbone: TinyBackbone) -> None:
    """Also where several ran a layer as one batch, whatever they went through before."""
    layers, scripts = Remembering(backbone), [Script({2: Jump(4, halve)}, None), Script({}, None), Script({}, None)]
    states = [one_state(backbone, number) for number in range(3)]
    alone = [state.fork() for state in states]
    forward_together(layers, states, scripts, [0, 0, 0])  # type: ignore[arg-type]
    for state, other, script in zip(alone, states, scripts, strict=True):
        forward(layers, state, script)
        assert steps_of(other) == steps_of(state)
        for step, expected in zip(other.past, state.past, strict=True):
            if isinstance(step, Ran) and isinstance(expected, Ran):
                torch.testing.assert_close(step.kept, expected.kept)


def test_a_head_that_reads_the_past_shares_a_batch_with_equal_ones_only(backbone: TinyBackbone) -> None:
    ran = [(Ran(0, (torch.full((1, length), float(length)),)),) for length in (2, 2, 3)]
    states = [one_state(backbone, number) for number in range(5)]
    for state, past in zip(states, [ran[0], (*ran[0], halve), ran[1], ran[2], (*ran[1], halve)], strict=True):
        state.past = past
    assert stackable(states) == [[0, 2], [1, 4], [3]]
    batch = stack([states[1], states[4]])
    assert steps_of(batch) == [0, halve]
    assert isinstance(batch.past[0], Ran) and batch.past[0].kept[0].shape == (2, 2)


def test_adapters_alone_do_not_separate_heads(backbone: TinyBackbone) -> None:
    """A head that reads hidden states does not ask how they came about."""
    states = [one_state(backbone, 0), one_state(backbone, 1)]
    states[1].apply(halve)
    assert stackable(states) == [[0, 1]]


def test_nothing_together_is_nothing(backbone: TinyBackbone) -> None:
    assert forward_together(backbone, [], [], []) == []


def test_a_sample_without_a_schedule_is_refused(backbone: TinyBackbone) -> None:
    with pytest.raises(ValueError, match="zip"):
        forward_together(backbone, [one_state(backbone, 0)], [], [0])


def test_a_schedule_may_run_a_layer_by_itself(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    """Layer 2 is run by the schedule, alone in both cases; it counts as run."""
    backbone, suite = tiny_backbone(), tiny_suite()
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    asked: list[tuple[int, int]] = []

    class ByItself(LayerSchedule):
        def before(self, layer: int, state: LayerState) -> Step:
            return Run(by=self.run) if layer == 2 else RUN

        def run(self, layer: int, state: LayerState) -> Tensor:
            asked.append((layer, len(state.hidden)))
            return backbone.run_layer(layer, state) + 1

    alone, plain, *pair = (LayerState.of(inputs) for _ in range(4))
    trace = forward(backbone, alone, ByItself())
    forward(backbone, plain, FullSchedule())
    traces = forward_together(backbone, pair, [ByItself(), ByItself()], [0, 0])
    assert asked == [(2, 1)] * 3 and trace.layers_run == traces[0].layers_run == list(range(8))
    assert not torch.allclose(alone.hidden, plain.hidden)
    for state in pair:
        torch.testing.assert_close(state.hidden, alone.hidden, atol=1e-5, rtol=1e-5)


def test_a_layer_that_shares_runs_by_itself_only_alone(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    """In a batch, or with others that lockstep might batch, ``run_layer`` runs it."""
    backbone, suite = tiny_backbone(), tiny_suite()
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    asked: list[int] = []

    class Sharing(LayerSchedule):
        def before(self, layer: int, state: LayerState) -> Step:
            return Run(by=self.run, shares=True) if layer == 2 else RUN

        def run(self, layer: int, state: LayerState) -> Tensor:
            asked.append(layer)
            return backbone.run_layer(layer, state)

    alone, plain, *pair = (LayerState.of(inputs) for _ in range(4))
    forward(backbone, alone, Sharing())
    forward(backbone, plain, FullSchedule())
    assert torch.equal(alone.hidden, plain.hidden) and asked == [2]
    traces = forward_together(backbone, pair, [Sharing(), Sharing()], [0, 0])
    assert asked == [2] and traces[1].layers_run == list(range(8))
