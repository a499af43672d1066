"""What the tests of the method share: observations, a small partition, and adapters that really change something."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.policy import Policy, StepReport
from dyslctl.types import Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

Step = tuple[np.ndarray, StepReport]
"""The executed actions of an inference, and its report."""


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def observations() -> list[Observation]:
    """Forty, with instructions of different lengths."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    return [
        Observation({"agent": image}, "reach red" if n % 2 else "go and reach blue", rng.random(2, np.float32))
        for n, image in enumerate(images)
    ]


@pytest.fixture
def side_by_side() -> Callable[[Policy, list[list[Observation]]], dict[int, list[Step]]]:
    """Plays observations, task by task, in three lanes of a policy; the steps by the number of the task."""

    def walk(policy: Policy, task: tuple[int, list[Observation]]) -> Coroutine[tuple[int, list[Step]]]:
        number, observations = task
        policy.reset()
        steps: list[Step] = []
        for observation in observations:
            chunk = yield from policy.plan(observation)
            steps.append((chunk.actions, policy.last))
        return number, steps

    def play(policy: Policy, tasks: list[list[Observation]]) -> dict[int, list[Step]]:
        lanes = [partial(walk, each) for each in (policy, policy.twin(), policy.twin())]
        return dict(run_together(lanes, list(enumerate(tasks))))

    return play


@pytest.fixture
def partition() -> LayerPartition:
    """Static 0, 3, 7; segments [1, 2] and [4, 5, 6]."""
    return LayerPartition(8, (0, 3, 7))


@pytest.fixture
def modules(partition: LayerPartition) -> SkipModules:
    torch.manual_seed(0)
    skip_modules = SkipModules(partition, SkipSizes.mini(16))
    for layer in partition.dynamic_layers:
        torch.nn.init.normal_(skip_modules.adapter(layer).up.weight, std=0.5)
    return skip_modules.eval()


@pytest.fixture
def exits() -> ExitModules:
    """Prefix 0, 1; exits before layers 2, 3 and 5 of 8; for chunks of 4 actions with 3 dimensions."""
    torch.manual_seed(0)
    made = ExitModules(LayerPartition(8, (0, 1)), (2, 3, 5), ExitSizes(16, 4, 3, adapter_rank=16, planner_width=8))
    for layer in made.exits:
        torch.nn.init.normal_(made.adapter(layer).up.weight, std=0.2)
    return made.eval().requires_grad_(False)
