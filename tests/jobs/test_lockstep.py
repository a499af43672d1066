from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dyslctl.engine import RUN, FullSchedule, Jump, LayerSchedule, Step
from dyslctl.errors import ConfigError
from dyslctl.jobs.lockstep import Coroutine, answer_together, run_together
from dyslctl.policy import Encode, Plan, Predict, Prediction, SchedulePolicy, StepReport, full_policy
from dyslctl.types import ActionChunk, LayerInputs, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


def observation(number: int, words: str = "go and reach blue") -> Observation:
    rng = np.random.default_rng(number)
    return Observation({"agent": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)}, words, rng.random(2, np.float32))


@pytest.fixture
def watched(tiny_backbone: type[TinyBackbone]) -> Any:
    """A tiny backbone that writes down its calls: ``("encode", B)``, ``(layer, B)``, ``("predict", B)``."""

    class Watched(tiny_backbone):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[object, int]] = []

        def encode(self, observations: list[Observation]) -> LayerInputs:
            self.calls.append(("encode", len(observations)))
            inputs: LayerInputs = super().encode(observations)
            return inputs

        def run_layer(self, layer: int, state: LayerState) -> torch.Tensor:
            self.calls.append((layer, len(state.hidden)))
            hidden: torch.Tensor = super().run_layer(layer, state)
            return hidden

        def predict(self, state: LayerState) -> torch.Tensor:
            self.calls.append(("predict", len(state.hidden)))
            predicted: torch.Tensor = super().predict(state)
            return predicted

    return Watched


def steps(policy: SchedulePolicy, task: tuple[int, int]) -> Coroutine[tuple[int, list[ActionChunk]]]:
    """``count`` control steps from observation ``first`` on."""
    first, count = task
    chunks = []
    for number in range(first, first + count):
        chunks.append((yield from policy.plan(observation(number))))
    return first, chunks


def lanes(
    backbone: TinyBackbone, count: int
) -> list[Callable[[tuple[int, int]], Coroutine[tuple[int, list[ActionChunk]]]]]:
    return [partial(steps, full_policy(backbone, 2)) for _ in range(count)]


def test_every_task_runs_once_and_comes_back_when_it_ends(tiny_backbone: type[TinyBackbone]) -> None:
    """Two lanes: task 0 takes three rounds; meanwhile the other lane runs 10 (one round) and 20 (one round)."""
    backbone = tiny_backbone()
    results = list(run_together(lanes(backbone, 2), [(0, 3), (10, 1), (20, 1), (30, 2)]))
    assert [first for first, _ in results] == [10, 20, 0, 30]
    policy = full_policy(backbone, 2)
    for first, chunks in results:
        for number, chunk in enumerate(chunks, first):
            np.testing.assert_allclose(chunk.actions, policy.select_action(observation(number)).actions, atol=1e-6)


def test_a_round_is_one_batch(watched: Any) -> None:
    backbone = watched()
    list(run_together(lanes(backbone, 3), [(0, 1), (1, 1), (2, 1)]))
    assert backbone.calls == [("encode", 3), *((layer, 3) for layer in range(8)), ("predict", 3)]


def test_a_lane_without_a_task_stays_idle(tiny_backbone: type[TinyBackbone]) -> None:
    assert [first for first, _ in run_together(lanes(tiny_backbone(), 4), [(5, 1)])] == [5]
    assert list(run_together(lanes(tiny_backbone(), 4), [])) == []


def test_results_come_as_they_are_made_even_if_nothing_is_asked() -> None:
    """A policy that acts alone asks nothing; its results must not wait for the last task."""
    begun: list[int] = []

    def at_once(task: int) -> Coroutine[int]:
        begun.append(task)
        return task
        yield

    results = run_together([at_once], [1, 2, 3])
    assert next(results) == 1 and begun == [1]
    assert list(results) == [2, 3]


class Twice(SchedulePolicy):
    """Jumps, and then predicts again with every layer, as a verification does."""

    def plan(self, observation: Observation) -> Plan:
        state: LayerState = yield Encode(self.backbone, observation)
        first: Prediction = yield Predict(self.backbone, state, self.schedule)
        assert first.trace.resume_state is not None and first.trace.resume_layer == 3
        second: Prediction = yield Predict(self.backbone, first.trace.resume_state, FullSchedule(), 3)
        self.last = StepReport((*first.trace.layers_run, *second.trace.layers_run))
        return second.chunk


class JumpAtThree(LayerSchedule):
    def before(self, layer: int, state: LayerState) -> Step:
        return Jump(7) if layer == 3 else RUN


def test_a_second_prediction_joins_the_first_ones_of_others(watched: Any) -> None:
    """In round 2 one lane resumes at layer 3 while the other begins its next step: from there on they share batches."""
    backbone = watched()
    twice = partial(steps, Twice(backbone, JumpAtThree(), 2))
    results = list(run_together([twice, partial(steps, full_policy(backbone, 2))], [(0, 1), (1, 2)]))
    shared = [(layer, 2 if layer >= 3 else 1) for layer in range(8)]
    assert backbone.calls[-10:] == [("encode", 1), *shared, ("predict", 2)]
    (chunk,) = dict(results)[0]
    whole = full_policy(backbone, 4).select_action(observation(0))
    np.testing.assert_allclose(chunk.actions, whole.actions, atol=1e-6)


def test_padding_is_taken_out_so_that_equal_lengths_share_a_batch(watched: Any) -> None:
    backbone = watched()
    words = ["go and reach blue", "reach red", "reach blue"]
    requests = [Encode(backbone, observation(number, text)) for number, text in enumerate(words)]
    states = answer_together(requests)
    for state, request in zip(states, requests, strict=True):
        alone = LayerState.of(backbone.encode([request.observation]))
        assert isinstance(state, LayerState)
        real = torch.ones_like(alone.kinds, dtype=torch.bool) if alone.mask is None else alone.mask
        torch.testing.assert_close(state.hidden, alone.hidden[real][None])
        assert torch.equal(state.kinds, alone.kinds[real][None])
        assert state.mask is None
    backbone.calls.clear()
    answer_together([Predict(backbone, state, FullSchedule()) for state in states if isinstance(state, LayerState)])
    assert [size for call, size in backbone.calls if call == 0] == [1, 2]


def test_policies_of_different_backbones_may_run_together(tiny_backbone: type[TinyBackbone]) -> None:
    one, other = tiny_backbone(seed=0), tiny_backbone(seed=1)
    mixed = [partial(steps, full_policy(backbone, 2)) for backbone in (one, other, one)]
    found = dict(run_together(mixed, [(0, 1), (1, 1), (2, 1)]))
    for number, backbone in ((0, one), (1, other), (2, one)):
        expected = full_policy(backbone, 2).select_action(observation(number))
        np.testing.assert_allclose(found[number][0].actions, expected.actions, atol=1e-6)


def test_an_unusable_observation_is_the_error_of_its_lane_alone(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    good, bad = Encode(backbone, observation(0)), Encode(backbone, Observation({}, "go and reach blue"))
    first, error, second = answer_together([good, bad, good])
    assert isinstance(first, LayerState) and isinstance(second, LayerState)
    assert isinstance(error, ConfigError) and "no image" in error.message


def test_an_error_in_the_layers_reaches_every_coroutine_of_the_batch(tiny_backbone: type[TinyBackbone]) -> None:
    class Broken(LayerSchedule):
        def before(self, layer: int, state: LayerState) -> Step:
            raise RuntimeError("a controller is broken")

    def told(policy: SchedulePolicy, number: int) -> Coroutine[str]:
        try:
            yield from policy.plan(observation(number))
        except RuntimeError as error:
            return str(error)
        return "fine"

    backbone = tiny_backbone()
    policies = [SchedulePolicy(backbone, schedule, 2) for schedule in (FullSchedule(), Broken())]
    assert list(run_together([partial(told, policy) for policy in policies], [0, 1])) == ["a controller is broken"] * 2


def test_an_error_that_a_coroutine_does_not_catch_stops_all(tiny_backbone: type[TinyBackbone]) -> None:
    def careless(number: int) -> Coroutine[None]:
        yield Encode(tiny_backbone(), Observation({}, "no image"))

    with pytest.raises(ConfigError, match="no image"):
        list(run_together([careless], [0]))


def test_nothing_is_kept_for_gradients(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    backbone.out.requires_grad_(True)
    (state,) = answer_together([Encode(backbone, observation(0))])
    assert isinstance(state, LayerState) and state.hidden.is_inference()


def test_each_sample_keeps_its_conditioning(tiny_backbone: type[TinyBackbone]) -> None:
    class Conditioned(tiny_backbone):  # type: ignore[valid-type, misc]
        def encode(self, observations: list[Observation]) -> LayerInputs:
            latents = torch.arange(2.0 * len(observations)).reshape(-1, 2)
            return replace(super().encode(observations), conditioning={"latents": latents})

    backbone = Conditioned()
    states = answer_together([Encode(backbone, observation(number)) for number in range(2)])
    found = [state.conditioning["latents"].tolist() for state in states if isinstance(state, LayerState)]
    assert found == [[[0, 1]], [[2, 3]]]
