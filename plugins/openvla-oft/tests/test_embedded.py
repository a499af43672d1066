"""The checkpoint that ships with the plugin: whole, small, a backbone by the contract, and a policy that works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dyslctl_openvla_oft import OpenVLAOFT

from dyslctl.engine import FullSchedule
from dyslctl.plugins import load_suite
from dyslctl.policy import SchedulePolicy
from dyslctl.suite import TaskSuite
from dyslctl.testing import check_backbone

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


def test_it_solves_its_suite(backbone: OpenVLAOFT, suite: TaskSuite) -> None:
    """Twenty episodes of the tuning split; 500 held-out ones are in the README."""
    policy, environment, solved = SchedulePolicy(backbone, FullSchedule(), suite.execute_horizon), suite.make(), 0
    for spec in suite.episodes("tune", 20):
        observation, done, score = environment.reset(spec), False, 0
        policy.reset(spec.seed)
        while not done:
            for action in policy.select_action(observation).actions:
                result = environment.step(action)
                observation, done, score = result.observation, result.done, result.score
                if done:
                    break
        solved += score
    assert solved >= 18
