from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyslctl.data.of_suite import SuiteSource
from dyslctl.dysl.exit_training import exit_views
from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import MAX_BYTES, Frame, collect, collect_recorded, encode, sample_states, stratify, visit
from dyslctl.jobs.dataset import WHOLE, Dataset, Part, Unencoded
from dyslctl.jobs.trajectories import roll_out
from dyslctl.policy import full_policy
from dyslctl.types import LayerState, Observation

HALF = Part(1, 2)


class Log:
    """Records what a job tells about its progress."""

    def __init__(self) -> None:
        self.stretches: list[list[object]] = []

    def start(self, total: int, description: str) -> None:
        self.stretches.append([description, total, 0])

    def advance(self, amount: int = 1, **fields: float) -> None:
        self.stretches[-1][2] += amount

    def close(self) -> None:
        pass


def frames(near: int, free: int) -> list[Frame]:
    return [Frame(Observation({}, ""), i, None, near_flip=i < near, remembered=None) for i in range(near + free)]


@pytest.mark.parametrize(
    ("near", "free", "count", "expected_near"),
    [(50, 50, 20, 10), (3, 50, 20, 3), (50, 3, 20, 17), (5, 5, 100, 5), (0, 9, 4, 0), (7, 0, 4, 4)],
)
def test_half_of_a_stratified_sample_is_near_a_flip(near: int, free: int, count: int, expected_near: int) -> None:
    chosen = stratify(frames(near, free), count, np.random.default_rng(0))
    assert len(chosen) == min(count, near + free)
    assert sum(frame.near_flip for frame in chosen) == expected_near
    assert len({frame.episode for frame in chosen}) == len(chosen), "a frame was chosen twice"


def full_prediction(backbone, inputs) -> torch.Tensor:
    state = LayerState.of(inputs)
    forward(backbone, state, FullSchedule())
    return backbone.predict(state)


def test_expert_states_carry_the_experts_chunks(tiny_backbone, tiny_suite) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    data = collect(backbone, suite, episodes=3, batch_size=4)
    inferences = sum(-(-len(suite.demonstrate(spec).actions) // 2) for spec in suite.episodes("train", 3))
    assert len(data) == inferences
    (group,) = data.groups
    assert group.inputs.mask is None
    chunk = backbone.normalize(suite.demonstrate(suite.episodes("train", 1)[0]).chunk(0, 4))
    np.testing.assert_allclose(group.target[0], chunk)
    assert sorted(set(group.episodes.tolist())) == [0, 1, 2]


@pytest.mark.parametrize("how", [{"source": "policy"}, {"label": "teacher"}])
def test_other_states_are_labelled_by_the_full_model(tiny_backbone, tiny_suite, how) -> None:
    backbone = tiny_backbone()
    (group,) = collect(backbone, tiny_suite(), episodes=2, batch_size=8, **how).groups
    torch.testing.assert_close(group.target, full_prediction(backbone, group.inputs))


def test_an_expert_that_fails_shows_nothing(tiny_backbone, tiny_suite, monkeypatch) -> None:
    suite, real = tiny_suite(), tiny_suite.demonstrate
    monkeypatch.setattr(
        tiny_suite, "demonstrate", lambda self, spec: replace(real(self, spec), score=int(spec.index != 1))
    )
    with closing(visit(tiny_backbone(), suite, episodes=3, source="expert")) as shown:
        assert [trajectory.spec.index for trajectory in shown] == [0, 2]


def test_frames_with_and_without_a_chunk_may_share_a_batch(tiny_backbone, tiny_suite) -> None:
    backbone = tiny_backbone()
    observation = tiny_suite().make().reset(tiny_suite().episodes("train", 1)[0])
    chunk = np.full((4, 3), 0.5, np.float32)
    frames = [Frame(observation, 0, each, near_flip=False, remembered=None) for each in (chunk, None)]
    (group,) = encode(backbone, frames).groups
    assert (group.target[0] == 0.5).all()
    torch.testing.assert_close(group.target[1], full_prediction(backbone, group.inputs)[1])


def test_each_frame_carries_its_memory(tiny_backbone, tiny_suite) -> None:
    """Twelve numbers of the chunk before, and 1; thirteen zeros where there was none."""
    observation = tiny_suite().make().reset(tiny_suite().episodes("train", 1)[0])
    before = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    frames = [Frame(observation, 0, None, near_flip=False, remembered=each) for each in (None, before)]
    (group,) = encode(tiny_backbone(), frames).groups
    assert group.memory.tolist() == [[0.0] * 13, [*before.flatten().tolist(), 1.0]]


def test_a_policys_memory_is_what_it_predicted_before(tiny_backbone, tiny_suite) -> None:
    """The full model acts, so the memory is the label of the sample before; the gripper is decided."""
    backbone, suite = tiny_backbone(), tiny_suite()
    (group,) = collect(backbone, suite, episodes=2, source="policy", batch_size=2).groups
    decided = torch.from_numpy(np.stack([chunk.normalized for chunk in backbone.decode_action(group.target)]))
    begins = torch.cat([torch.tensor([True]), group.episodes.diff() != 0])
    assert begins.sum() == 2 and not group.memory[begins].any()
    (later,) = (~begins).nonzero(as_tuple=True)
    torch.testing.assert_close(group.memory[later, :-1], decided[later - 1].flatten(1), atol=1e-5, rtol=0)
    assert (group.memory[later, -1] == 1).all()


def test_a_few_samples_are_from_many_episodes(tiny_backbone, tiny_suite) -> None:
    """Twice as many frames as needed are looked at, in four episodes; two of each at most."""
    few = sample_states(tiny_backbone(), tiny_suite(), samples=4, per_episode=2)
    assert len(few) == 4
    counts = np.bincount(few.groups[0].episodes)
    assert len(counts) <= 4 and max(counts) <= 2


def test_the_seed_decides_the_choice_of_frames(tiny_backbone, tiny_suite) -> None:
    digests = [
        sample_states(tiny_backbone(), tiny_suite(), samples=4, per_episode=2, seed=seed).digest() for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_samples_are_predicted_as_if_they_began_an_episode(tiny_backbone, tiny_suite) -> None:
    backbone = tiny_backbone(memory=True)
    data = [
        collect(backbone, tiny_suite(), episodes=2, batch_size=size, label="teacher").groups[0].target
        for size in (1, 16)
    ]
    torch.testing.assert_close(data[0], data[1])


def test_progress_tells_episodes_then_samples(tiny_backbone, tiny_suite) -> None:
    log = Log()
    sample_states(tiny_backbone(), tiny_suite(), samples=7, per_episode=5, batch_size=4, progress=log)
    assert log.stretches == [["expert episodes", 3, 3], ["encoding", 7, 7]]
    log = Log()
    frames = len(collect(tiny_backbone(), tiny_suite(), episodes=2, progress=log))
    assert log.stretches == [["expert episodes", 2, 2], ["encoding", frames, frames]]


def check_same_batches(drawn: Dataset, kept: Dataset) -> None:
    """No embedding in memory, and the same groups, draws and rows."""
    assert all(isinstance(group, Unencoded) for group in drawn.groups)
    assert [(group.tokens, len(group)) for group in drawn.groups] == [(g.tokens, len(g)) for g in kept.groups]
    pairs = [(data.batch(3, step, 6, part) for data in (drawn, kept)) for step in range(4) for part in (WHOLE, HALF)]
    for ours, theirs in [*pairs, *zip(drawn.batches(4), kept.batches(4), strict=True)]:
        assert ours.inputs.mask is None
        torch.testing.assert_close(ours.inputs.hidden, theirs.inputs.hidden)
        for name in ("positions", "kinds"):
            assert torch.equal(getattr(ours.inputs, name), getattr(theirs.inputs, name)), name
        for name in ("target", "episodes", "memory"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("how", [{}, {"source": "policy"}])
def test_what_does_not_fit_is_encoded_when_it_is_drawn(tiny_backbone, tiny_suite, how, tmp_path) -> None:
    kept, drawn = (
        collect(tiny_backbone(), tiny_suite(chain=2), episodes=3, batch_size=4, max_bytes=room, folder=tmp_path, **how)
        for room in (MAX_BYTES, 2_000)
    )
    check_same_batches(drawn, kept)
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_samples_that_do_not_fit_are_encoded_when_they_are_drawn(tiny_backbone, tiny_suite) -> None:
    kept, drawn = (
        sample_states(tiny_backbone(), tiny_suite(chain=2), samples=11, per_episode=8, batch_size=4, max_bytes=room)
        for room in (MAX_BYTES, 2_000)
    )
    check_same_batches(drawn, kept)


def test_samples_of_two_token_counts_that_do_not_fit(tiny_backbone, tiny_suite) -> None:
    """Here and there: in one batch of the encoding, in neighbouring ones, and in the data sets of two rounds."""
    observation = tiny_suite().make().reset(tiny_suite().episodes("train", 1)[0])
    words = ["reach red", "go and reach red", "reach blue", "reach red", "go and reach blue", "reach red", "reach it"]
    frames = [
        Frame(replace(observation, instruction=said), number, None, near_flip=False, remembered=None)
        for number, said in enumerate(words)
    ]
    kept, drawn = (encode(tiny_backbone(), frames, batch_size=3, max_bytes=room) for room in (MAX_BYTES, 0))
    assert [group.episodes.tolist() for group in drawn.groups] == [[0, 2, 3, 5, 6], [1, 4]]
    check_same_batches(drawn, kept)
    check_same_batches(drawn.merge(drawn), kept.merge(kept))
    both = drawn.merge(kept)
    assert [len(group) for group in both.groups] == [5, 2, 5, 2], "what is encoded is by itself"
    assert len(list(both.batches(9))) == 4


def test_what_was_encoded_in_bf16_is_so_when_drawn_elsewhere(tiny_backbone, tiny_suite) -> None:
    """The training decides the precision, not whatever stands around a draw."""
    kept, drawn = (
        collect(tiny_backbone(), tiny_suite(), episodes=1, max_bytes=room, precision="bf16") for room in (MAX_BYTES, 0)
    )
    plain = collect(tiny_backbone(), tiny_suite(), episodes=1)
    with torch.autocast("cpu", torch.bfloat16):
        exact = collect(tiny_backbone(), tiny_suite(), episodes=1, max_bytes=0).batch(0, 0, 4)
    found = [data.batch(0, 0, 4).inputs.hidden.float() for data in (kept, drawn, plain)]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(exact.inputs.hidden, found[2])
    assert not torch.equal(found[0], found[2]), "this test needs a backbone that rounds"


def test_the_digest_of_what_is_not_encoded_knows_labels_and_words(tiny_backbone, tiny_suite) -> None:
    (group,) = collect(tiny_backbone(), tiny_suite(), episodes=1, max_bytes=0).groups
    said = [replace(seen, instruction="something else") for seen in group.observations]
    others = [replace(group, target=group.target + 1), replace(group, observations=said), group]
    digests = [Dataset((each,)).digest() for each in (group, *others)]
    assert len(set(digests)) == 3 and digests[0] == digests[3]


def test_no_frames_is_an_error(tiny_backbone) -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        encode(tiny_backbone(), [])


def test_an_image_that_is_not_finite_is_the_backbones_error(tiny_backbone, tiny_suite) -> None:
    observation = tiny_suite().make().reset(tiny_suite().episodes("train", 1)[0])
    damaged = replace(observation, images={"agent": np.full((8, 8, 3), np.nan)})
    with pytest.raises(ConfigError, match="finite"):
        encode(tiny_backbone(), [Frame(damaged, 0, None, near_flip=False, remembered=None)])


def test_recorded_frames_carry_the_recorded_actions(tiny_backbone, tiny_suite) -> None:
    """The held-out episode is left alone, the memory is empty, and near flips fill half of the samples."""
    backbone, source = tiny_backbone(), SuiteSource(tiny_suite(), episodes=6)
    data = collect_recorded(backbone, source, samples=12, per_episode=4, seed=0)
    assert len(data) == 12
    (batch,) = data.groups
    assert 5 not in batch.episodes and not batch.memory.any()
    for episode, target in zip(batch.episodes.tolist(), batch.target.numpy(), strict=True):
        shown = source.episode(episode)
        chunks = [backbone.normalize(shown.chunk(step, 4)) for step in range(len(shown.actions))]
        assert any(np.allclose(target, chunk, atol=1e-6) for chunk in chunks)


def test_the_expert_is_asked_for_what_it_can_do_alone(tiny_backbone, tiny_suite, monkeypatch) -> None:
    """Episodes are drawn among its tasks; a policy visits all of them."""
    monkeypatch.setattr(tiny_suite, "demonstrated_tasks", ("reach_blue",))
    for source, indices in (("expert", {1, 3}), ("policy", {0, 1})):
        data = collect(tiny_backbone(), tiny_suite(), episodes=2, source=source)
        assert set(torch.cat([group.episodes for group in data.groups]).tolist()) == indices


def test_a_heads_history_lies_beside_every_sample(tiny_backbone, tiny_suite) -> None:
    """The teacher's labels are what it said as it acted, after 12 inferences too; an exit's head sees the same past."""
    backbone = tiny_backbone(memory=True)
    suite = tiny_suite()
    suite.max_steps = 40
    data = collect(backbone, suite, episodes=2, source="policy", label="teacher", batch_size=16)
    trajectories = list(roll_out(full_policy(backbone, suite.execute_horizon), suite, suite.episodes("train", 2)))
    said = torch.from_numpy(np.stack([chunk for t in trajectories for chunk in t.predicted]))
    (group,) = data.groups
    pose = [0, 1]
    torch.testing.assert_close(group.target[..., pose], said[..., pose], atol=1e-5, rtol=0)
    assert group.inputs.history is not None
    counts = [min(index, 11) for t in trajectories for index in range(len(t))]
    assert group.inputs.history[:, 0].tolist() == counts
    views = exit_views(backbone, group.inputs, group.memory, (2, 3))
    assert torch.equal(views.rows(torch.tensor([3])).at(1).history, group.inputs.history[3:4])


def test_an_experts_state_has_the_history_of_a_model_that_watched(tiny_backbone, tiny_suite) -> None:
    backbone, suite = tiny_backbone(memory=True), tiny_suite()
    shown = suite.demonstrate(suite.demonstrated_episodes("train", 1)[0])
    (group,) = collect(backbone, suite, episodes=1).groups
    backbone.reset()
    for row, observation in enumerate(shown.observations[:: suite.execute_horizon]):
        assert torch.equal(group.inputs.history[row], backbone.history())
        state = LayerState.of(backbone.encode([observation]))
        forward(backbone, state, FullSchedule())
        backbone.predict(state)


def test_nobody_watches_where_a_few_samples_are_enough(tiny_backbone, tiny_suite) -> None:
    (group,) = sample_states(tiny_backbone(memory=True), tiny_suite(), samples=4, per_episode=4).groups
    assert group.inputs.history is None


def test_samples_that_wait_keep_their_history(tiny_backbone, tiny_suite) -> None:
    backbone = tiny_backbone(memory=True)
    kept, drawn = (collect(backbone, tiny_suite(), episodes=2, max_bytes=size) for size in (2**30, 0))
    rows = torch.tensor([2, 0])
    assert torch.equal(drawn.groups[0].rows(rows).inputs.history, kept.groups[0].rows(rows).inputs.history)
    assert drawn.merge(drawn).groups[0].history.shape == (2 * len(drawn), kept.groups[0].inputs.history.shape[1])
