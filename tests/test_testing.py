"""The plugin author's kit: a good plugin passes every rule, and each way of breaking one is caught by that rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.errors import ConfigError, PluginError
from dyslctl.suite import Demonstration, Disturb, EpisodeSpec, Split, StepResult
from dyslctl.testing import CheckReport, check_backbone, check_suite
from dyslctl.testing.report import Check, Findings
from dyslctl.types import ActionChunk, KeysValues, LayerInputs, LayerState, Observation, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach, TinyWorld

    Base = type[TinyBackbone]


@pytest.fixture(scope="module")
def observations() -> list[Observation]:
    """Two instructions of different length, so that a batch of both pads."""
    rng = np.random.default_rng(0)
    return [
        Observation({"agent": rng.integers(0, 256, (8, 8, 3), np.uint8)}, words, rng.normal(size=2).astype(np.float32))
        for words in ("reach the red one", "reach blue")
    ]


@pytest.mark.parametrize("memory", [False, True])
def test_a_sound_backbone_keeps_every_rule(tiny_backbone: Base, observations: list[Observation], memory: bool) -> None:
    report = check_backbone(tiny_backbone(memory=memory), observations)
    assert len(report.results) == 18
    assert report.failures == ()
    assert "ok    Encode is pure" in str(report)


def test_a_backbone_that_pads_a_single_observation_is_sound(
    tiny_backbone: Base, observations: list[Observation]
) -> None:
    """Its padding stays padding where tokens are masked out for comparison."""
    assert check_backbone(tiny_backbone(), observations[::-1]).failures == ()


def test_a_backbone_without_vision_tokens_is_sound(tiny_backbone: Base, observations: list[Observation]) -> None:
    class Blended(tiny_backbone):  # type: ignore[misc, valid-type]
        def encode(self, observations: Sequence[Observation]) -> LayerInputs:
            inputs: LayerInputs = super().encode(observations)
            seen = inputs.kinds == TokenKind.VISION
            return replace(inputs, kinds=inputs.kinds.masked_fill(seen, TokenKind.PROPRIO))

    backbone = Blended()
    backbone.spec = replace(backbone.spec, visual_tokens=False)
    assert check_backbone(backbone, observations).failures == ()


def test_one_observation_is_too_few(tiny_backbone: Base, observations: list[Observation]) -> None:
    with pytest.raises(ConfigError, match="two or more observations, found 1"):
        check_backbone(tiny_backbone(), observations[:1])


def no_fingerprint(base: Base) -> TinyBackbone:
    backbone = base()
    backbone.spec = replace(backbone.spec, fingerprint="")
    return backbone


def wrong_last_live_layer(base: Base) -> TinyBackbone:
    return base(last_live_layer=3)


def dead_last_layer(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def run_layer(self, layer: int, state: LayerState) -> Tensor:
            return state.hidden if layer == 7 else super().run_layer(layer, state)

    return Broken()


def unknown_kind(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def encode(self, observations: Sequence[Observation]) -> LayerInputs:
            inputs: LayerInputs = super().encode(observations)
            return replace(inputs, kinds=inputs.kinds.masked_fill(inputs.kinds == TokenKind.BOS, 9))

    return Broken()


def random_encoder(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def encode(self, observations: Sequence[Observation]) -> LayerInputs:
            inputs: LayerInputs = super().encode(observations)
            return replace(inputs, hidden=inputs.hidden + torch.rand(()))

    return Broken()


def deaf_to_bad_images(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def _image_patches(self, observation: Observation) -> Tensor:
            return torch.zeros(4, 48)

    return Broken()


def writes_into_the_input(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def run_layer(self, layer: int, state: LayerState) -> Tensor:
            return state.hidden.copy_(super().run_layer(layer, state))

    return Broken()


def remembers_other_layers(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        calls = 0

        def run_layer(self, layer: int, state: LayerState) -> Tensor:
            self.calls += 1
            return super().run_layer(layer, state) * (1 + 1e-3 * self.calls)  # type: ignore[no-any-return]

    return Broken()


def shares_its_context(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def _context(self, state: LayerState) -> tuple[Tensor, Tensor]:
            self.places, bias = getattr(self, "places", None), super()._context(state)[1]
            fresh = super()._context(state)[0]
            if self.places is None or fresh.shape[1] > self.places.shape[1]:
                self.places = fresh
            self.places[:, : fresh.shape[1]] = fresh
            return self.places[:, : fresh.shape[1]], bias

    return Broken()


def ignores_positions(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def _context(self, state: LayerState) -> tuple[Tensor, Tensor]:
            packed = state.fork()
            packed.positions = torch.arange(state.hidden.shape[1])[None].expand_as(state.positions)
            return super()._context(packed)  # type: ignore[no-any-return]

    return Broken()


def forgets_padding_once_tokens_go(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def _context(self, state: LayerState) -> tuple[Tensor, Tensor]:
            gathered = state.fork()
            gathered.mask = state.mask if state.hidden.shape[1] == 15 else None
            return super()._context(gathered)  # type: ignore[no-any-return]

    return Broken()


def forgets_the_mask(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def encode(self, observations: Sequence[Observation]) -> LayerInputs:
            longest = max(len(observation.instruction.split()) for observation in observations)
            padded = [replace(o, instruction=f"{o.instruction}{' pad' * longest}") for o in observations]
            return super().encode(padded if len(observations) > 1 else observations)  # type: ignore[no-any-return]

    return Broken()


def attends_to_padding(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
            unmasked = replace(state, mask=None, context=None)
            return super().attention_rows(layer, unmasked, queries)  # type: ignore[no-any-return]

    return Broken()


def rows_of_the_whole_batch(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
            rows: Tensor = super().attention_rows(layer, state, queries)
            shared = rows.mean(0, keepdim=True) * (rows > 0)
            return shared / shared.sum(-1, keepdim=True)

    return Broken()


def raw_scores(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
            return super().attention_rows(layer, state, queries).log()  # type: ignore[no-any-return]

    return Broken()


def whole_map(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
            everything = torch.arange(state.hidden.shape[1]).expand(len(queries), -1)
            return super().attention_rows(layer, state, everything)  # type: ignore[no-any-return]

    return Broken()


def shows_rows_of_another_layer(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def run_layer_with_rows(self, layer: int, state: LayerState, queries: Tensor) -> tuple[Tensor, Tensor]:
            return self.run_layer(layer, state), self.attention_rows(layer + 1, state, queries)

    return Broken()


def changes_what_shows_rows(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def run_layer_with_rows(self, layer: int, state: LayerState, queries: Tensor) -> tuple[Tensor, Tensor]:
            return self.run_layer(layer, state) * 1.001, self.attention_rows(layer, state, queries)

    return Broken()


def hands_back_everything(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def run_layer_beside(self, layer: int, state: LayerState, beside: KeysValues | None) -> Any:
            hidden, own = super().run_layer_beside(layer, state, beside)
            return hidden, own if beside is None else own.and_(beside)

    return Broken()


def alone_beside_others(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def run_layer_beside(self, layer: int, state: LayerState, beside: KeysValues | None) -> Any:
            return super().run_layer_beside(layer, state, None)

    return Broken()


def makes_keys_without_their_place(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def keys_values(self, layer: int, state: LayerState) -> KeysValues:
            found: KeysValues = super().keys_values(layer, state)
            return replace(found, keys=found.keys - self._context(state)[0][:, None])

    return Broken()


def trainable(base: Base) -> TinyBackbone:
    backbone = base()
    backbone.out.requires_grad_(True)
    return backbone


def detached(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def predict(self, state: LayerState) -> Tensor:
            return super().predict(state).detach()  # type: ignore[no-any-return]

    return Broken()


def squeezed_prediction(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def predict(self, state: LayerState) -> Tensor:
            return super().predict(state)[:, :1]  # type: ignore[no-any-return]

    return Broken()


def reads_everything(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def predict(self, state: LayerState) -> Tensor:
            return super().predict(state) + state.hidden.mean((1, 2))[:, None, None]  # type: ignore[no-any-return]

    return Broken()


def no_snapshot(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def restore(self, memory: object) -> None:
            """Keep what predict changed."""

    return Broken(memory=True)


def forgotten_window(base: Base) -> TinyBackbone:
    broken = base(memory=True)
    broken.spec = replace(broken.spec, window=1)
    return broken


def shared_snapshot(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def snapshot(self) -> object:
            return [self._carried, self._window]

        def restore(self, memory: Any) -> None:
            self._carried, self._window = memory  # the very list predict appends to

    return Broken(memory=True)


def decodes_in_place(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
            return super().decode_action(predicted.mul_(0.5))  # type: ignore[no-any-return]

    return Broken()


def another_normalisation(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def normalize(self, actions: np.ndarray) -> np.ndarray:
            return np.asarray(actions, np.float32)

    return Broken()


def undecided_gripper(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
            chunks = super().decode_action(predicted)
            return [replace(chunk, normalized=predicted[0].numpy()) for chunk in chunks]

    return Broken()


def scalar_loss(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
            return (predicted - target).abs().mean()

    return Broken()


def negative_loss(base: Base) -> TinyBackbone:
    class Broken(base):  # type: ignore[misc, valid-type]
        def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
            return -super().task_loss(predicted, target)  # type: ignore[no-any-return]

    return Broken()


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (no_fingerprint, "Spec and workload"),
        (wrong_last_live_layer, "The head reads last_live_layer"),
        (dead_last_layer, "The head reads last_live_layer"),
        (unknown_kind, "Encode returns hidden states"),
        (random_encoder, "Encode is pure"),
        (deaf_to_bad_images, "Encode refuses a bad observation"),
        (writes_into_the_input, "Each layer takes"),
        (remembers_other_layers, "resume bit for bit"),
        (shares_its_context, "Forks of one state"),
        (ignores_positions, "Tokens can be gathered"),
        (forgets_padding_once_tokens_go, "Tokens can be gathered"),
        (attends_to_padding, "Attention rows"),
        (rows_of_the_whole_batch, "Attention rows"),
        (raw_scores, "Attention rows"),
        (whole_map, "Attention rows"),
        (shows_rows_of_another_layer, "Attention rows"),
        (changes_what_shows_rows, "Attention rows"),
        (hands_back_everything, "A layer beside"),
        (makes_keys_without_their_place, "A layer beside"),
        (alone_beside_others, "A layer beside"),
        (forgets_the_mask, "A batch of two"),
        (trainable, "Gradients reach"),
        (detached, "Gradients reach"),
        (squeezed_prediction, "The prediction is"),
        (reads_everything, "The head reads proprio"),
        (no_snapshot, "Snapshot, restore and reset"),
        (shared_snapshot, "Snapshot, restore and reset"),
        (forgotten_window, "Snapshot, restore and reset"),
        (decodes_in_place, "Decoding is pure"),
        (another_normalisation, "Decoding is pure"),
        (undecided_gripper, "Decoding is pure"),
        (scalar_loss, "The task loss"),
        (negative_loss, "The task loss"),
    ],
)
def test_each_broken_rule_is_named(
    tiny_backbone: Base, observations: list[Observation], make: Callable[[Base], TinyBackbone], rule: str
) -> None:
    with pytest.raises(PluginError) as caught:
        check_backbone(make(tiny_backbone), observations)
    listed = [line for line in caught.value.message.splitlines() if line.startswith("FAIL")]
    assert any(rule in line for line in listed), caught.value.message
    assert caught.value.message.count("fix: ") == len(listed)


@pytest.mark.parametrize("chain", [1, 2])
def test_a_sound_suite_keeps_every_rule(tiny_suite: type[TinyReach], chain: int) -> None:
    assert check_suite(tiny_suite(chain), episodes=3).failures == ()


def test_one_episode_is_too_few(tiny_suite: type[TinyReach]) -> None:
    with pytest.raises(ConfigError, match="two or more episodes, found 1"):
        check_suite(tiny_suite(), episodes=1)


class Overlapping:
    """Suite mix-in: the test split begins with the training episodes."""

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        train: list[EpisodeSpec] = super().episodes("train", count)  # type: ignore[misc]
        return [replace(spec, split=split) for spec in train]


class HalfTheTasks:
    """Suite mix-in: the first episodes all do one task."""

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        specs: list[EpisodeSpec] = super().episodes(split, count)  # type: ignore[misc]
        return [replace(spec, task="reach_red") for spec in specs]


class LateHorizon:
    """Suite mix-in: more actions a chunk than an episode has."""

    execute_horizon = 99


class LyingExpert:
    """Suite mix-in: the expert claims a success that its actions do not have."""

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        true: Demonstration = super().demonstrate(spec)  # type: ignore[misc]
        return replace(true, actions=np.zeros_like(true.actions))


class UnknownSkill:
    """Suite mix-in: the expert can do what is no task."""

    demonstrated_tasks = ("reach_green",)


class PoorExpert:
    """Suite mix-in: an honest expert that never moves."""

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        true: Demonstration = super().demonstrate(spec)  # type: ignore[misc]
        return replace(true, actions=np.zeros_like(true.actions), score=0)


class TiredExpert:
    """Suite mix-in: the expert breaks down after its first episode."""

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        if spec.index:
            raise PluginError("the action is not finite")
        true: Demonstration = super().demonstrate(spec)  # type: ignore[misc]
        return true


class ForgetfulExpert:
    """Suite mix-in: a disturbed demonstration holds what was executed."""

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        executed: list[np.ndarray] = []

        def remember(action: np.ndarray, observation: Observation) -> np.ndarray:
            executed.append(disturb(action, observation))
            return executed[-1]

        true: Demonstration = super().demonstrate_disturbed(spec, remember)  # type: ignore[misc]
        return replace(true, actions=np.stack(executed))


class BlindfoldedExpert:
    """Suite mix-in: disturb is shown the first observation again and again."""

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        first: list[Observation] = []

        def show(action: np.ndarray, observation: Observation) -> np.ndarray:
            first.append(observation)
            return disturb(action, first[0])

        true: Demonstration = super().demonstrate_disturbed(spec, show)  # type: ignore[misc]
        return true


class StubbornExpert:
    """Suite mix-in: what is executed is not what disturb says."""

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        def obey(action: np.ndarray, observation: Observation) -> np.ndarray:
            disturb(action, observation)
            return action

        true: Demonstration = super().demonstrate_disturbed(spec, obey)  # type: ignore[misc]
        return true


@pytest.mark.parametrize(
    ("flaw", "rule"),
    [
        (ForgetfulExpert, "A disturbed demonstration"),
        (BlindfoldedExpert, "A disturbed demonstration"),
        (StubbornExpert, "A disturbed demonstration"),
        (Overlapping, "Splits never overlap"),
        (HalfTheTasks, "Episodes are a fixed list"),
        (LateHorizon, "The numbers of the suite"),
        (LyingExpert, "The expert's demonstrations"),
        (PoorExpert, "The expert's demonstrations"),
        (TiredExpert, "The expert's demonstrations"),
        (UnknownSkill, "The expert's demonstrations"),
    ],
)
def test_each_broken_suite_rule_is_named(tiny_suite: type[TinyReach], flaw: type, rule: str) -> None:
    broken = type("Broken", (flaw, tiny_suite), {})
    with pytest.raises(PluginError, match=rule):
        check_suite(broken(), episodes=2)


def unseeded_reset(world: TinyWorld, spec: EpisodeSpec) -> Observation:
    return type(world).reset(world, replace(spec, seed=int(np.random.default_rng().integers(1 << 30))))


def deaf_to_the_seed(world: TinyWorld, spec: EpisodeSpec) -> Observation:
    return type(world).reset(world, replace(spec, seed=spec.index))


def float_pixels(world: TinyWorld, spec: EpisodeSpec) -> Observation:
    seen = type(world).reset(world, spec)
    return replace(seen, images={"agent": seen.images["agent"] / 255})


def careless_step(world: TinyWorld, action: np.ndarray) -> StepResult:
    return type(world).step(world, np.nan_to_num(action[:3]))


def noisy_step(world: TinyWorld, action: np.ndarray) -> StepResult:
    return type(world).step(world, action + np.random.default_rng().normal(0, 0.1, 3))


def endless_step(world: TinyWorld, action: np.ndarray) -> StepResult:
    return replace(type(world).step(world, action), done=False)


@pytest.mark.parametrize(
    ("method", "flaw", "rule"),
    [
        ("reset", unseeded_reset, "Equal specs begin equal episodes"),
        ("reset", deaf_to_the_seed, "Splits never overlap"),
        ("reset", float_pixels, "Observations are uint8"),
        ("step", careless_step, "Step refuses a bad action"),
        ("step", noisy_step, "Equal actions lead"),
        ("step", endless_step, "Every episode ends"),
    ],
)
def test_each_broken_simulator_rule_is_named(
    tiny_suite: type[TinyReach], method: str, flaw: Callable[..., Any], rule: str
) -> None:
    class Broken(tiny_suite):  # type: ignore[misc, valid-type]
        def make(self) -> TinyWorld:
            world: TinyWorld = super().make()
            setattr(world, method, lambda argument: flaw(world, argument))
            return world

    with pytest.raises(PluginError, match=rule):
        check_suite(Broken(), episodes=2)


def test_a_chain_that_keeps_its_progress_to_itself_is_named(tiny_suite: type[TinyReach]) -> None:
    class Silent(tiny_suite):  # type: ignore[misc, valid-type]
        def make(self) -> TinyWorld:
            world: TinyWorld = super().make()
            step = world.step
            world.step = lambda action: replace(step(action), new_instruction=False)  # type: ignore[method-assign]
            return world

    with pytest.raises(PluginError, match="a subtask is solved, and no new instruction begins"):
        check_suite(Silent(2), episodes=2)


def test_a_suite_without_an_expert_is_sound(tiny_suite: type[TinyReach]) -> None:
    class Inexpert(tiny_suite):  # type: ignore[misc, valid-type]
        def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
            raise PluginError("tiny_reach has no expert")

    assert check_suite(Inexpert(), episodes=2).failures == ()


def test_a_report_lists_what_was_found_before_an_exception() -> None:
    def rule(subject: int) -> Findings:
        """Numbers are even."""
        if subject % 2:
            yield f"{subject} is odd"
        raise ZeroDivisionError("and then it broke")

    report = CheckReport.of("numbers", 3, [Check(rule, "add one")])
    assert report.results[0].problems == ("3 is odd", "raised ZeroDivisionError: and then it broke")
    with pytest.raises(
        PluginError, match=r"numbers breaks 1 of 1 rules(.|\n)*FAIL  Numbers are even\n(.|\n)*fix: add one"
    ):
        report.require()
