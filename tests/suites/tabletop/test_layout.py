from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.suites.tabletop.layout import margin, related, sample_layout
from dyslctl.suites.tabletop.tasks import KINDS, RELATIONS, SuiteKind, task_of
from dyslctl.suites.tabletop.world import World

SEEDS = st.integers(0, 3 * 10**7 - 1)
XY = np.array([[0.5, -0.6], [-0.4, 0.1], [-0.1, -0.3]])
"""By hand: left to right 1, 2, 0; near to far 0, 2, 1."""


@pytest.mark.parametrize(
    ("relation", "block", "gap"),
    [("leftmost", 1, 0.3), ("rightmost", 0, 0.6), ("nearest", 0, 0.3), ("farthest", 1, 0.4), ("middle", 2, 0.3)],
)
def test_relations_by_hand(relation: str, block: int, gap: float) -> None:
    index = RELATIONS.index(relation)
    assert related(index, XY) == block
    assert margin(index, XY) == pytest.approx(gap)


@given(kind=st.sampled_from(KINDS), seed=SEEDS)
def test_everything_lies_apart_and_inside(kind: SuiteKind, seed: int) -> None:
    layout = sample_layout(kind, seed)
    xy = layout.block_xy[layout.block_present]
    assert len(xy) == {"object": 4, "spatial": 3, "chain": 5}[kind]
    distances = np.linalg.norm(xy[:, None] - xy, axis=-1) + 9 * np.eye(len(xy))
    assert distances.min() >= 0.3
    assert (xy >= -0.75).all() and (xy <= [0.75, 0.12]).all()
    assert abs(layout.bin_xy[0, 0] - layout.bin_xy[1, 0]) >= 0.46
    assert layout.block_present[layout.targets].all()


@given(seed=SEEDS)
def test_a_spatial_instruction_means_one_block_clearly(seed: int) -> None:
    layout = sample_layout("spatial", seed)
    relation, xy = task_of(seed) // 2, layout.block_xy[:3]
    assert layout.targets[0] == related(relation, xy)
    assert margin(relation, xy) >= 0.15
    assert (np.diff(xy[:, 0]) >= 0).all(), "slots run from left to right"


@given(seed=SEEDS)
def test_object_slots_are_colours_and_the_target_is_the_tasks(seed: int) -> None:
    layout = sample_layout("object", seed)
    assert layout.block_colour.tolist() == [0, 1, 2, 3, 4]
    assert (layout.targets[0], layout.goals[0]) == divmod(task_of(seed), 2)


def test_a_scene_depends_on_its_own_seed_alone(kind: SuiteKind) -> None:
    batch, alone = World.sample(kind, np.array([7, 20_000_003, 12])), World.sample(kind, np.array([20_000_003]))
    for name in ("block_xyz", "block_yaw", "bin_xy", "gripper", "targets", "goals"):
        np.testing.assert_array_equal(getattr(batch, name)[1:2], getattr(alone, name))
    assert not np.array_equal(batch.block_xyz[0], batch.block_xyz[2])
