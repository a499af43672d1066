"""The checkpoints that ship with the plugin: whole, small, backbones by the contract, and policies that work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.hub import EMBEDDED

from dyslctl.engine import FullSchedule
from dyslctl.jobs.behaviour import TOLERANCE, deviation
from dyslctl.jobs.workers import play
from dyslctl.plugins import load_suite
from dyslctl.policy import SchedulePolicy
from dyslctl.suite import TaskSuite
from dyslctl.testing import check_backbone
from dyslctl.types import TokenKind

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def backbone() -> OpenVLAOFT:
    return OpenVLAOFT.load(OpenVLAOFT.default_checkpoint())


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return load_suite("tabletop_object")


def test_it_is_small_and_deep_enough_to_skip_in(backbone: OpenVLAOFT) -> None:
    folder = Path(OpenVLAOFT.default_checkpoint())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20 * MEGABYTE
    assert backbone.spec.num_layers >= 12
    assert (backbone.spec.chunk_length, backbone.spec.action_dim) == (8, 7)


def test_it_keeps_the_backbone_contract(backbone: OpenVLAOFT, suite: TaskSuite) -> None:
    environment = suite.make()
    report = check_backbone(backbone, [environment.reset(spec) for spec in suite.episodes("tune", 3)])
    assert not report.failures


def test_it_tells_the_instructed_block_from_the_others(backbone: OpenVLAOFT, suite: TaskSuite) -> None:
    """The same picture, another instruction: other actions."""
    first = suite.make().reset(suite.episodes("tune", 1)[0])
    second = type(first)(first.images, "pick up the blue block and place it in the orange bin", first.proprio)
    policy = SchedulePolicy(backbone, FullSchedule(), suite.execute_horizon)
    actions = [policy.select_action(observation).actions for observation in (first, second)]
    assert np.abs(actions[0] - actions[1]).max() > 0.1


def test_the_one_for_libero_has_tokens_to_prune(suite: TaskSuite) -> None:
    """How it acts in LIBERO's simulator is tested there: ``plugins/libero/tests/test_real.py``."""
    backbone, folder = OpenVLAOFT.load("mini-libero-object"), EMBEDDED / "mini-libero-object"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40 * MEGABYTE
    assert backbone.spec.num_layers >= 12
    environment = suite.make()
    observations = [environment.reset(spec) for spec in suite.episodes("tune", 3)]
    kinds = backbone.encode(observations).kinds[0]
    assert [int((kinds == TokenKind.VISION + view).sum()) for view in range(3)] == [64, 64, 0]
    assert not check_backbone(backbone, observations).failures
    assert deviation(folder, backbone) < TOLERANCE


def test_each_has_the_suite_that_it_was_trained_on() -> None:
    assert OpenVLAOFT.suite_of("mini-libero-object") == "libero_object"
    assert OpenVLAOFT.suite_of(str(OpenVLAOFT.default_checkpoint())) == "tabletop_object"


@pytest.mark.parametrize(
    ("checkpoint", "suite"),
    [
        ("moojink/openvla-7b-oft-finetuned-libero-object", "libero_object"),
        ("moojink/openvla-7b-oft-finetuned-libero-10@main", "libero_10"),
        ("/libero-goal/mine", "tabletop_object"),
        ("libero-100", "tabletop_object"),
    ],
)
def test_a_released_checkpoint_is_named_after_its_suite(checkpoint: str, suite: str) -> None:
    assert OpenVLAOFT.suite_of(checkpoint) == suite


def solved_share(backbone: OpenVLAOFT, suite: TaskSuite, episodes: int) -> float:
    """Mean score on the first episodes of the tuning split, over the highest score there is."""
    policies = {"full": lambda: SchedulePolicy(backbone, FullSchedule(), suite.execute_horizon)}
    tasks, total = [(spec, "full") for spec in suite.episodes("tune", episodes)], 0
    for record in play(suite, policies, tasks):
        assert record.status == "done", record.error
        total += record.score
    return total / (episodes * suite.max_score)


def test_it_solves_its_suite(backbone: OpenVLAOFT, suite: TaskSuite) -> None:
    assert solved_share(backbone, suite, 20) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "episodes", "least"),
    [("tabletop_object", 200, 0.95), ("tabletop_spatial", 200, 0.85), ("tabletop_chain", 40, 0.9)],
)
def test_it_solves_every_suite(backbone: OpenVLAOFT, name: str, episodes: int, least: float) -> None:
    assert solved_share(backbone, load_suite(name), episodes) >= least
