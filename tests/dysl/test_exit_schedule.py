from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.dysl.exit_schedule import ExitLadder, ExitSchedule, FixedExit, PlannedExit, worthwhile
from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.query_layout import QueryLayout
from dyslctl.engine import FullSchedule, forward
from dyslctl.policy import Consultation
from dyslctl.types import LayerState, Observation, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


MEMORY = torch.linspace(-1, 1, 13)[None]
"""A chunk of 4 actions with 3 dimensions."""


def remembering(schedule: ExitSchedule) -> ExitSchedule:
    schedule.memory = MEMORY
    return schedule


def fixed(answer: Sequence[float]) -> Callable[[Tensor], Tensor]:
    return lambda features: torch.tensor([answer])


def ran(backbone: TinyBackbone, schedule: ExitSchedule, observation: Observation) -> list[int]:
    with torch.inference_mode():
        return forward(backbone, LayerState.of(backbone.encode([observation])), remembering(schedule)).layers_run


@pytest.mark.parametrize(
    ("tolerance", "layers"),
    [(-9.0, 8), (-1.02, 8), (-1.0, 5), (0.11, 5), (0.13, 3), (1.34, 3), (1.36, 2), (9.0, 2)],
)
def test_damage_is_weighed_against_layers(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation], tolerance: float, layers: int
) -> None:
    """Squared damages 2.2255, 0.3679, 0.0498 and 0 for exits 2, 3, 5 and the eight layers.

    5 pays from t^2 3/8 > 0.0498 on, log t = -1.009; 3 from t^2 2/8 > 0.3181, 0.120; 2 from t^2 1/8 > 1.8577, 1.349.
    """
    schedule = PlannedExit(ExitLadder(exits), fixed([0.4, -0.5, -1.5]), tolerance)
    assert ran(backbone, schedule, observations[0]) == list(range(layers))
    assert [asked.layer for asked in schedule.consulted] == [2]
    assert schedule.consulted[0].answer == pytest.approx(0.4)
    assert schedule.exit == layers


DAMAGES = st.lists(st.floats(-5, 2), min_size=3, max_size=3)


@given(DAMAGES, st.floats(-5, 3), st.floats(0, 5))
def test_a_higher_tolerance_never_runs_more(damages: list[float], tolerance: float, more: float) -> None:
    layers = [worthwhile(damages, limit, (2, 3, 5), 8) for limit in (-10.0, tolerance, tolerance + more, 10.0)]
    assert layers[0] == 8 and layers[-1] == 2
    assert layers == sorted(layers, reverse=True)


@given(st.lists(DAMAGES, min_size=1, max_size=3), st.floats(-5, 3))
def test_no_choice_of_as_few_layers_does_less_damage(inferences: list[list[float]], tolerance: float) -> None:
    """All choices for up to three inferences are tried; and what is taken is below the tolerance."""
    places = (2, 3, 5, 8)
    squared = [[*(math.exp(2 * damage) for damage in damages), 0.0] for damages in inferences]

    def taken(chosen: Sequence[int]) -> list[float]:
        return [row[places.index(layer)] for row, layer in zip(squared, chosen, strict=True)]

    chosen = [worthwhile(damages, tolerance, places[:3], 8) for damages in inferences]
    for other in product(places, repeat=len(inferences)):
        assert sum(other) > sum(chosen) or sum(taken(other)) >= sum(taken(chosen)) - 1e-9
    assert max(taken(chosen)) <= math.exp(2 * tolerance)


@pytest.mark.parametrize(("damages", "layer"), [([math.nan, -5.0, -5.0], 3), ([math.nan] * 3, 8), ([900.0] * 3, 8)])
def test_what_is_no_damage_to_speak_of_is_not_taken(damages: list[float], layer: int) -> None:
    assert worthwhile(damages, 0.0, (2, 3, 5), 8) == layer


@pytest.mark.parametrize(("tolerance", "layer"), [(math.inf, 2), (500.0, 2), (-500.0, 8), (-math.inf, 8)])
def test_a_tolerance_may_be_as_large_as_one_likes(tolerance: float, layer: int) -> None:
    assert worthwhile([-3.0, -4.0, -5.0], tolerance, (2, 3, 5), 8) == layer


def test_the_head_reads_what_the_adapter_made_of_the_query_tokens(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    inputs = backbone.encode([observations[0]])
    prefix, state = LayerState.of(inputs), LayerState.of(inputs)
    for layer in range(3):
        prefix.hidden = backbone.run_layer(layer, prefix)
    trace = forward(backbone, state, remembering(FixedExit(ExitLadder(exits), 3)))
    assert trace.jumps == [(3, 8)]
    layout = QueryLayout.of(prefix, 4)
    kept = prefix.hidden[:, layout.keep[0]]
    expected = exits.adapter(3)(kept, MEMORY, layout.slots)
    torch.testing.assert_close(state.hidden, expected)
    without = exits.adapter(3)(kept, torch.zeros_like(MEMORY), layout.slots)
    assert (state.hidden - without).abs().max() > 0.01, "the memory counts"
    assert set(state.kinds[0].tolist()) == {TokenKind.PROPRIO, TokenKind.TEXT, TokenKind.ACTION}
    assert state.positions.tolist() == layout.keep.tolist()


def test_resuming_from_an_exit_is_the_full_pass_bit_for_bit(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    """Instructions of two lengths: with padding and without."""
    for observation in observations[:2]:
        inputs, ladder = backbone.encode([observation]), ExitLadder(exits)
        full = LayerState.of(inputs)
        forward(backbone, full, FullSchedule())
        trace = forward(backbone, LayerState.of(inputs), remembering(FixedExit(ladder, 2)))
        assert trace.resume_state is not None and trace.resume_layer == 2
        deeper = forward(backbone, trace.resume_state, remembering(FixedExit(ladder, 5)), first=2)
        assert (deeper.layers_run, deeper.jumps) == ([2, 3, 4], [(5, 8)])
        assert deeper.resume_state is not None
        rest = forward(backbone, deeper.resume_state, remembering(FixedExit(ladder, 8)), first=5)
        assert rest.layers_run == [5, 6, 7] and rest.resume_state is None
        assert torch.equal(deeper.resume_state.hidden, full.hidden)
        assert torch.equal(backbone.predict(deeper.resume_state), backbone.predict(full))


def test_the_planner_is_asked_once_before_the_first_exit(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    asked: list[Tensor] = []

    def planner(features: Tensor) -> Tensor:
        asked.append(features)
        return torch.tensor([[1.0, 1.0, 1.0]])

    assert ran(backbone, PlannedExit(ExitLadder(exits), planner, -9.0), observations[0]) == list(range(8))
    prefix = LayerState.of(backbone.encode([observations[0]]))
    for layer in range(2):
        prefix.hidden = backbone.run_layer(layer, prefix)
    (features,) = asked
    assert torch.equal(features, QueryLayout.of(prefix, 4).features(prefix.hidden, MEMORY))
    assert torch.equal(features[:, -13:], MEMORY)


def test_a_new_inference_chooses_anew(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    answers = iter([[1.0, -2.0, -2.0], [-2.0, -2.0, -2.0]])
    schedule = PlannedExit(ExitLadder(exits), lambda features: torch.tensor([next(answers)]), 0.0)
    assert [len(ran(backbone, schedule, observations[0])) for _ in range(2)] == [3, 2]
    assert schedule.consulted == [Consultation(2, -2.0)]
