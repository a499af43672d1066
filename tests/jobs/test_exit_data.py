from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dyslctl.baselines.random_skip import RandomExits
from dyslctl.data.of_suite import SuiteSource
from dyslctl.data.replay import RecordedSuite
from dyslctl.dysl.distillation import full_actions
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.jobs import exit_data
from dyslctl.jobs.data import Frame, encode
from dyslctl.jobs.data import collect as really_collect
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.exit_data import Perturbed, Rounds
from dyslctl.jobs.exit_samples import ExitSamples
from dyslctl.jobs.training import Precision
from dyslctl.policy import full_policy
from dyslctl.types import ActionChunk, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


@pytest.fixture(scope="module")
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def rounds(backbone: TinyBackbone, tiny_suite: type[TinyReach]) -> Rounds:
    return Rounds(backbone, [tiny_suite()], episodes=3, lanes=2)


@pytest.fixture
def exits() -> ExitModules:
    return ExitModules(LayerPartition(8, (0, 1)), (2, 3, 5), ExitSizes(16, 4, 3, adapter_rank=4)).eval()


def at_random(exits: ExitModules, seed: int) -> RandomExits:
    return RandomExits(ExitLadder(exits), 0.5, seed=seed)


def chunks(backbone: TinyBackbone, suite: TinyReach, episodes: float, seed: int = 0) -> list[ActionChunk]:
    policy = Perturbed(full_policy(backbone, 2), episodes, seed=0)
    observation = suite.make().reset(suite.episodes("train", 1)[0])
    policy.reset(seed)
    return [policy.select_action(observation) for _ in range(30)]


def test_actions_go_astray_in_some_episodes_only(backbone: TinyBackbone, tiny_suite: type[TinyReach]) -> None:
    suite = tiny_suite()
    plain = full_policy(backbone, 2).select_action(suite.make().reset(suite.episodes("train", 1)[0]))
    calm = chunks(backbone, suite, episodes=0.0)
    assert all(np.array_equal(chunk.actions, plain.actions) for chunk in calm)
    wild = np.concatenate([chunk.normalized for chunk in chunks(backbone, suite, episodes=1.0)])
    moved = ~np.isclose(wild, np.tile(plain.normalized, (30, 1)), atol=1e-5).all(1)
    assert 0.1 < moved.mean() < 0.4
    assert np.abs(wild).max() <= 1 and np.array_equal(np.unique(wild[:, 2]), np.unique(plain.normalized[:, 2]))
    assert [chunk.actions.tolist() for chunk in chunks(backbone, suite, 1.0, seed=1)] == [
        chunk.actions.tolist() for chunk in chunks(backbone, suite, 1.0, seed=1)
    ]


def episodes(data: Dataset) -> list[set[int]]:
    """The initial states of each group; a group holds one token count."""
    return [set(group.episodes.tolist()) for group in data.groups]


def test_the_full_model_labels_all_rounds(rounds: Rounds, exits: ExitModules) -> None:
    for data in (rounds.explored, rounds.on_policy(1, at_random(exits, 1)), rounds.on_policy(2, at_random(exits, 2))):
        (batch,) = data.groups
        torch.testing.assert_close(batch.target, full_actions(rounds.backbone, batch.inputs))
    assert rounds.explored is rounds.explored


def test_no_initial_state_is_in_two_rounds(rounds: Rounds, exits: ExitModules) -> None:
    found = [rounds.explored, *(rounds.on_policy(number, at_random(exits, number)) for number in (1, 2))]
    assert [episodes(data) for data in found] == [[{0, 1, 2}], [{3, 4, 5}], [{6, 7, 8}]]


def test_later_rounds_begin_behind_what_an_expert_that_cannot_do_all_has_shown(
    backbone: TinyBackbone, tiny_suite: type[TinyReach], exits: ExitModules
) -> None:
    """It shows every other episode: 0, 2 and 4."""

    class Half(tiny_suite):  # type: ignore[misc, valid-type]
        demonstrated_tasks = tiny_suite().tasks[:1]

    rounds = Rounds(backbone, [Half()], episodes=3, lanes=2, source="expert")
    assert [episodes(data) for data in (rounds.explored, rounds.on_policy(1, at_random(exits, 1)))] == [
        [{0, 2, 4}],
        [{5, 6, 7}],
    ]


def test_suites_share_the_episodes_and_a_chain_counts_as_its_instructions(
    backbone: TinyBackbone, tiny_suite: type[TinyReach], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight episodes of two suites: four single ones, and two chains of three (four instructions, rounded up)."""
    asked: list[tuple[int, int, int]] = []

    def collect(backbone: TinyBackbone, suite: TinyReach, **how: Any) -> Dataset:
        asked.append((suite.max_score, how["skip"], how["episodes"]))
        return really_collect(backbone, suite, **how)

    monkeypatch.setattr(exit_data, "collect", collect)
    both = Rounds(backbone, [tiny_suite(), tiny_suite(chain=3)], episodes=8, lanes=4)
    exits = ExitModules(LayerPartition(8, (0, 1)), (2, 5), ExitSizes(16, 4, 3, adapter_rank=4)).eval()
    found = [both.explored, both.on_policy(1, at_random(exits, 1)), both.on_policy(2, at_random(exits, 2))]
    assert asked == [(1, 0, 4), (3, 0, 2), (1, 4, 4), (3, 2, 2), (1, 8, 4), (3, 4, 2)]
    assert [set[int]().union(*episodes(data)) for data in found] == [
        {0, 1, 2, 3},
        {4, 5, 6, 7, 2, 3},
        {8, 9, 10, 11, 4, 5},
    ]


def test_suites_with_different_horizons_are_refused(backbone: TinyBackbone, tiny_suite: type[TinyReach]) -> None:
    other = tiny_suite()
    other.execute_horizon = 3
    assert Rounds(backbone, [other], 1).execute_horizon == 3
    with pytest.raises(ConfigError, match="equally many actions") as caught:
        Rounds(backbone, [tiny_suite(), other], 1).explored  # noqa: B018 - the look collects
    assert caught.value.hint is not None and "--set execute_horizon=N" in caught.value.hint


def test_a_later_round_remembers_what_the_exits_predicted(rounds: Rounds, exits: ExitModules) -> None:
    """Not what was executed of it: actions that went astray are not what was meant."""
    (batch,) = rounds.on_policy(1, at_random(exits, 1)).groups
    begins = torch.cat([torch.tensor([True]), batch.episodes.diff() != 0])
    assert not batch.memory[begins].any() and (batch.memory[~begins, -1] == 1).all()
    first = batch.inputs.hidden[begins]
    ladder, predicted = ExitLadder(exits), []
    for layer in (2, 3, 5, 8):
        leave = FixedExit(ladder, layer)
        leave.memory = torch.zeros(len(first), 13)
        state = LayerState(first, batch.inputs.positions[begins], batch.inputs.kinds[begins])
        forward(rounds.backbone, state, leave)
        chunks = rounds.backbone.decode_action(rounds.backbone.predict(state))
        predicted.append(np.stack([chunk.normalized.flatten() for chunk in chunks]))
    seconds = batch.memory[begins.nonzero()[:, 0] + 1, :-1].numpy()
    distance = np.abs(np.stack(predicted) - seconds).max(-1).min(0)
    assert distance.max() < 1e-4, "every second memory is a first chunk of some exit"


def test_rounds_are_the_same_for_the_same_seed(rounds: Rounds, exits: ExitModules) -> None:
    again = Rounds(rounds.backbone, rounds.suites, 3, lanes=2)
    assert again.explored.digest() == rounds.explored.digest()
    assert again.on_policy(1, at_random(exits, 1)).digest() == rounds.on_policy(1, at_random(exits, 1)).digest()
    other = Rounds(rounds.backbone, rounds.suites, 3, seed=1, lanes=2)
    assert other.on_policy(1, at_random(exits, 2)).digest() != rounds.on_policy(1, at_random(exits, 1)).digest()


def test_the_expert_can_visit_the_first_round(rounds: Rounds) -> None:
    expert = Rounds(rounds.backbone, rounds.suites, 3, source="expert", lanes=2).explored
    assert expert.digest() != rounds.explored.digest()
    (batch,) = expert.groups
    torch.testing.assert_close(batch.target, full_actions(rounds.backbone, batch.inputs))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_or_computed_anew_the_batches_are_the_same(rounds: Rounds, precision: Precision) -> None:
    data, layers = rounds.explored, (2, 5)
    kept = ExitSamples(rounds.backbone, data, layers, max_bytes=2**20, precision=precision)
    anew = ExitSamples(rounds.backbone, data, layers, max_bytes=1000, precision=precision)
    assert kept.kept and not anew.kept
    for step in range(3):
        (views, target), (same, labels) = (samples.batch(7, step, 5) for samples in (kept, anew))
        torch.testing.assert_close(views.hidden, same.hidden)
        assert torch.equal(views.memory, same.memory) and views.memory.any()
        assert torch.equal(views.kinds, same.kinds) and torch.equal(target, labels)
    both = [torch.cat([views.hidden for views, _ in samples.batches(4)]) for samples in (kept, anew)]
    assert len(both[0]) == len(data)
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("max_bytes", [2**20, 1000])
def test_with_subsets_every_sample_is_there_twice_with_one_target(rounds: Rounds, max_bytes: int) -> None:
    """Kept or computed anew: first as without subsets, then the same samples on fewer tokens."""
    data = rounds.explored
    plain = ExitSamples(rounds.backbone, data, (2, 5), max_bytes)
    both = ExitSamples(rounds.backbone, data, (2, 5), max_bytes, subset_seed=3)
    assert both.kept == plain.kept == (max_bytes > 1000) and len(both) == 2 * len(plain) == 2 * len(data)
    hidden, positions, kinds, memory, target = columns(plain)
    twice = columns(both)
    for found, expected in zip(twice[1:], (positions, kinds, memory, target), strict=True):
        assert torch.equal(found, torch.cat([expected, expected]))
    full, fewer = twice[0].split(len(data))
    assert torch.equal(full, hidden)
    assert ((fewer - hidden).abs().amax((1, 2, 3)) > 1e-3).float().mean() > 0.8, "seldom do all four tokens stay"


def test_a_batch_draws_from_both_halves(rounds: Rounds) -> None:
    data, drawn = rounds.explored, list[int]()
    both = ExitSamples(rounds.backbone, data, (2, 5), 2**20, subset_seed=3)
    every = columns(both)[0]
    for step in range(4):
        views, _ = both.batch(7, step, 16)
        distance = (views.hidden[:, None] - every[None]).abs().amax((2, 3, 4))
        subset = distance.argmin(1) >= len(data)
        assert distance.amin(1).max() == 0 and 0 < int(subset.sum()) < 16
        drawn.append(int(subset.sum()))
    assert 20 <= sum(drawn) <= 44, "about half of 64"


def test_subsets_are_the_same_for_the_same_seed_and_others_for_every_data_set(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four tokens one or all: between the alphas that are drawn from, so few make no difference."""
    monkeypatch.setattr("dyslctl.joint.subsets.ALPHAS", (0.6, 20.0))

    def of(seed: int, max_bytes: int = 2**20) -> ExitSamples:
        return ExitSamples(rounds.backbone, rounds.explored, (2, 5), max_bytes, subset_seed=seed)

    one = of(3)
    assert torch.equal(columns(one)[0], columns(of(3))[0])
    assert not torch.equal(columns(one)[0], columns(of(4))[0])
    for step in range(3):
        (views, target), (same, labels) = (samples.batch(7, step, 5) for samples in (one, of(3, max_bytes=1000)))
        torch.testing.assert_close(views.hidden, same.hidden)
        assert torch.equal(target, labels)
    _, first, _, second = columns(one.plus(rounds.explored))[0].split(len(rounds.explored))
    assert not torch.equal(first, second), "the same samples, drawn once more"


def columns(samples: ExitSamples) -> list[torch.Tensor]:
    """Everything that a training reads, group by group."""
    return [
        column
        for views, target in samples.batches(10_000)
        for column in (views.hidden, views.positions, views.kinds, views.memory, target)
    ]


@pytest.fixture(scope="module")
def parts(backbone: TinyBackbone, tiny_suite: type[TinyReach]) -> list[Dataset]:
    """The first with one token count, the second with that one and a longer one."""
    base = Rounds(backbone, [tiny_suite()], episodes=2, lanes=2).explored
    rng = np.random.default_rng(0)
    frames = [
        Frame(
            Observation({"agent": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)}, words, rng.random(2, np.float32)),
            number,
            None,
            near_flip=False,
            remembered=None if number == 0 else rng.random((4, 3), np.float32),
        )
        for number, words in enumerate(
            ["go and reach blue", "reach red", "go and reach red", "reach blue", "reach red"]
        )
    ]
    return [base, encode(backbone, frames)]


def kept_bytes(backbone: TinyBackbone, data: Dataset) -> int:
    """What :class:`ExitSamples` reckons that two exits of ``data`` need: as many as its shortest sample, each."""
    views, _ = next(ExitSamples(backbone, data, (2, 5), 0).batches(1))
    return views.hidden.nbytes * len(data)


@pytest.mark.parametrize("room", ["both", "neither", "first"])
def test_samples_are_added_as_if_the_data_were_one(backbone: TinyBackbone, parts: list[Dataset], room: str) -> None:
    first = kept_bytes(backbone, parts[0])
    one = ExitSamples(backbone, parts[0], (2, 5), {"both": 2**20, "neither": 0, "first": first}[room])
    both, built = one.plus(parts[1]), ExitSamples(backbone, parts[0].merge(parts[1]), (2, 5), 2**20)
    assert (one.kept, both.kept) == (room != "neither", room == "both")
    assert len(both) == len(built) == len(parts[0]) + 5
    found, expected = columns(both), columns(built)
    assert len(found) == 2 * 5, "two token counts"
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
    for step in range(4):
        (views, target), (same, labels) = (samples.batch(3, step, 4) for samples in (both, built))
        torch.testing.assert_close(views.hidden, same.hidden, atol=1e-6, rtol=1e-5)
        assert torch.equal(views.memory, same.memory) and torch.equal(target, labels)
    assert len(one) == len(parts[0]), "adding leaves the first as it was"


def test_the_digest_knows_every_data_set(backbone: TinyBackbone, parts: list[Dataset]) -> None:
    one, other = (ExitSamples(backbone, data, (2, 5), 0) for data in parts)
    digests = {one.digest(), other.digest(), one.plus(parts[1]).digest(), other.plus(parts[0]).digest()}
    assert len(digests) == 4
    assert ExitSamples(backbone, parts[0], (2, 5), 2**20).plus(parts[1]).digest() == one.plus(parts[1]).digest()


def test_what_is_kept_is_not_computed_again_and_needs_no_embeddings(
    backbone: TinyBackbone, parts: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [Dataset.of(part.groups) for part in parts]
    embeddings = [weakref.ref(group.inputs.hidden) for each in data for group in each.groups]
    both = ExitSamples(backbone, data.pop(0), (2, 5), 2**20).plus(data.pop(0))
    monkeypatch.setattr(backbone, "run_layer", None)
    assert len(columns(both)) == 2 * 5
    assert all(reference() is None for reference in embeddings)


@pytest.mark.parametrize("max_bytes", [2**20, 0])
def test_exits_that_do_not_remember_learn_without_a_memory(rounds: Rounds, max_bytes: int) -> None:
    samples = ExitSamples(rounds.backbone, rounds.explored, (2, 5), max_bytes, remembers=False)
    assert rounds.explored.groups[0].memory.any()
    assert not any(views.memory.any() for views, _ in samples.plus(rounds.explored).batches())


def test_on_recorded_episodes_only_the_memory_is_the_policys_own(
    backbone: TinyBackbone, tiny_suite: type[TinyReach], exits: ExitModules
) -> None:
    """Round 0 remembers what the full model predicted one inference before; round 1 what the exits did."""
    recorded = RecordedSuite(SuiteSource(tiny_suite(), episodes=5), execute_horizon=2)
    played = Rounds(backbone, [recorded], episodes=1, lanes=1)
    (explored,) = played.explored.groups
    torch.testing.assert_close(explored.target, full_actions(backbone, explored.inputs))
    assert not explored.memory[0].any() and bool((explored.memory[1:, -1] == 1).all())
    recalled = explored.memory[1:, :-1].reshape(-1, 4, 3)
    torch.testing.assert_close(recalled[..., :2], explored.target[:-1, :, :2])  # the gripper is remembered as executed

    both = RecordedSuite(SuiteSource(tiny_suite(), episodes=2), execute_horizon=2)  # one to learn from: both rounds
    played = Rounds(backbone, [both], episodes=1, lanes=1)
    (again,) = played.on_policy(2, RandomExits(ExitLadder(exits), 1.0)).groups
    torch.testing.assert_close(again.target, full_actions(backbone, again.inputs))
    (explored,) = played.explored.groups
    torch.testing.assert_close(again.inputs.hidden, explored.inputs.hidden)  # two passes later: the same frames again
    assert not torch.allclose(again.memory[1:], explored.memory[1:], atol=1e-3)
