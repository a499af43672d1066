from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ConfigError, PluginError
from dyslctl.jobs.dataset import Batch, Dataset, Part
from dyslctl.types import LayerInputs, LayerState


def samples(first: int, count: int, tokens: int, conditioning: object = None) -> Batch:
    """``count`` samples numbered from ``first``: every number in a sample is its own."""
    number = torch.arange(first, first + count).float()
    inputs = LayerInputs(
        hidden=number[:, None, None].expand(-1, tokens, 2).clone(),
        positions=torch.arange(tokens).expand(count, -1),
        kinds=torch.full((count, tokens), 3),
        conditioning=conditioning,
    )
    label = number[:, None, None].clone()
    return Batch(inputs, label, number.long(), memory=number[:, None] + 0.5)


def numbers(batch: Batch) -> list[int]:
    return [int(n) for n in batch.target[:, 0, 0]]


def test_padding_is_taken_out_and_rows_keep_their_labels() -> None:
    batch = samples(0, 3, tokens=4)
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1]], dtype=torch.bool)
    inputs = LayerInputs(batch.inputs.hidden, batch.inputs.positions, batch.inputs.kinds, mask)
    parts = Batch(inputs, batch.target, batch.episodes, batch.memory).without_padding()
    assert [part.inputs.hidden.shape[1] for part in parts] == [3, 4]
    assert [numbers(part) for part in parts] == [[0, 2], [1]]
    assert [part.memory.tolist() for part in parts] == [[[0.5], [2.5]], [[1.5]]]
    assert parts[0].inputs.positions.tolist() == [[0, 1, 3], [0, 2, 3]]
    assert all(part.inputs.mask is None for part in parts)


def test_a_stripped_row_gives_the_full_models_action(tiny_backbone, tiny_suite) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    observation = suite.make().reset(suite.episodes("train", 1)[0])
    inputs = backbone.encode([observation])
    assert inputs.mask is not None, "this test needs padding"

    def predict(given: LayerInputs) -> torch.Tensor:
        state = LayerState.of(given)
        forward(backbone, state, FullSchedule())
        return backbone.predict(state)

    label = torch.zeros(1, 1, 1)
    (stripped,) = Batch(inputs, label, torch.zeros(1).long(), torch.zeros(1, 1)).without_padding()
    torch.testing.assert_close(predict(stripped.inputs), predict(inputs))


def test_groups_hold_one_length_each() -> None:
    data = Dataset.of([samples(0, 2, 5), samples(2, 1, 3), samples(3, 2, 5)])
    assert len(data) == 5
    assert [numbers(group) for group in data.groups] == [[2], [0, 1, 3, 4]]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    data = Dataset.of([samples(0, 50, 3), samples(50, 50, 4)])
    first = numbers(data.batch(seed=1, step=7, size=8))
    numbers(data.batch(seed=1, step=8, size=8))
    assert numbers(data.batch(seed=1, step=7, size=8)) == first
    assert numbers(data.batch(seed=2, step=7, size=8)) != first
    assert len(set(first)) == 8


def test_every_group_is_drawn_in_proportion_to_its_size() -> None:
    data = Dataset.of([samples(0, 30, 3), samples(30, 10, 4)])
    small = sum(data.batch(0, step, 2).inputs.hidden.shape[1] == 4 for step in range(1000))
    assert 190 < small < 310  # 250 expected, standard deviation 14


def test_a_batch_larger_than_its_group_repeats_samples() -> None:
    assert len(Dataset.of([samples(0, 3, 3)]).batch(0, 0, 10)) == 10


def test_batches_visits_every_sample_once() -> None:
    data = Dataset.of([samples(0, 5, 3), samples(5, 2, 4)])
    assert [numbers(batch) for batch in data.batches(2)] == [[0, 1], [2, 3], [4], [5, 6]]


def instructions(*lengths: int) -> Batch:
    """Numbered samples of instructions so long, all of one token count."""
    batch = samples(0, sum(lengths), 3)
    fresh = torch.cat([torch.arange(length) == 0 for length in lengths])
    return replace(batch, memory=torch.stack([batch.memory[:, 0], (~fresh).float()], 1))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 7), st.integers(0, 99))
def test_windows_never_reach_into_another_instruction(lengths: list[int], window: int, step: int) -> None:
    data = Dataset.of([instructions(*lengths)])
    if max(lengths) < window:
        with pytest.raises(ConfigError, match=f"instruction has, found {window}"):
            data.batch(0, step, 3, window=window)
        return
    drawn = torch.tensor(numbers(data.batch(0, step, 3, window=window))).view(3, window)
    instruction = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(window))
    assert torch.equal(instruction[drawn[:, 0]], instruction[drawn[:, -1]])


def test_every_window_is_as_likely_and_windows_of_one_are_samples() -> None:
    data = Dataset.of([instructions(3, 1, 4)])
    drawn = {numbers(data.batch(0, step, 1, window=3))[0] for step in range(50)}
    assert drawn == {0, 4, 5}
    assert numbers(data.batch(3, 4, 8, window=1)) == numbers(data.batch(3, 4, 8))


def test_parts_of_a_step_share_no_window() -> None:
    data = Dataset.of([instructions(40)])
    whole = numbers(data.batch(0, 0, 4, window=5))
    assert whole == [n for i in (0, 1) for n in numbers(data.batch(0, 0, 4, Part(i, 2), window=5))]


def test_merge_joins_groups_of_equal_length() -> None:
    merged = Dataset.of([samples(0, 2, 3)]).merge(Dataset.of([samples(2, 1, 3), samples(3, 1, 4)]))
    assert [numbers(group) for group in merged.groups] == [[0, 1, 2], [3]]
    assert [group.memory[:, 0].tolist() for group in merged.groups] == [[0.5, 1.5, 2.5], [3.5]]


def test_the_digest_changes_with_a_label() -> None:
    assert Dataset.of([samples(0, 2, 3)]).digest() == Dataset.of([samples(0, 2, 3)]).digest()
    assert Dataset.of([samples(0, 2, 3)]).digest() != Dataset.of([samples(1, 2, 3)]).digest()


def test_the_digest_changes_with_the_memory() -> None:
    one = samples(0, 2, 3)
    assert Dataset.of([one]).digest() != Dataset.of([replace(one, memory=one.memory + 1)]).digest()


def test_conditioning_follows_its_rows() -> None:
    latents = [{"latents": (torch.tensor([[10.0], [11.0]]),)}, {"latents": (torch.tensor([[12.0]]),)}]
    data = Dataset.of([samples(0, 2, 3, latents[0]), samples(2, 1, 3, latents[1])])
    assert data.groups[0].rows(torch.tensor([2, 0])).inputs.conditioning["latents"][0].tolist() == [[12.0], [10.0]]


def test_conditioning_takes_memory_too() -> None:
    plain, more = samples(0, 3, 2).nbytes, samples(0, 3, 2, {"latents": [torch.zeros(3, 5), torch.zeros(3, 1)]}).nbytes
    assert more == plain + 3 * 6 * 4


def test_opaque_conditioning_is_refused() -> None:
    with pytest.raises(PluginError, match=r"conditioning: expected tensors.*found object"):
        samples(0, 2, 3, object()).rows(torch.tensor([0]))
