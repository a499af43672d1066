"""What the tests of the studies share: records by hand, and policies of the tiny backbone that have learnt nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.jobs.episodes import EpisodeRecord, act
from dyslctl.jobs.lockstep import run_together
from dyslctl.policy import Policy, StepReport
from dyslctl.suite import EpisodeSpec, TaskSuite
from dyslctl.types import ActionChunk, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

MakeRecord = Callable[..., EpisodeRecord]


@pytest.fixture
def make_record() -> MakeRecord:
    """``make_record(index, success, **fields)``."""

    def make(index: int = 0, success: bool = True, **fields: Any) -> EpisodeRecord:
        about = {"method": "full", "suite": "s", "split": "test", "task": "t", "seed": 10 + index, "status": "done"}
        return EpisodeRecord(**{**about, "index": index, "success": success, "score": int(success), **fields})

    return make


@pytest.fixture
def suite(tiny_suite: type[TinyReach]) -> TinyReach:
    return tiny_suite()


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def leave() -> Callable[[TinyBackbone, int], ExitPolicy]:
    """A policy that leaves before a layer, through an untrained adapter."""

    def make(backbone: TinyBackbone, layer: int) -> ExitPolicy:
        spec = backbone.spec
        sizes = ExitSizes(spec.hidden_size, spec.chunk_length, spec.action_dim, adapter_rank=4, planner_width=4)
        modules = ExitModules(LayerPartition(spec.num_layers, (0,)), (1, 2, 4), sizes)
        return ExitPolicy(backbone, FixedExit(ExitLadder(modules.eval()), layer), 2)

    return make


@pytest.fixture
def play() -> Callable[[Policy, TaskSuite, Sequence[EpisodeSpec]], list[list[tuple[ActionChunk, StepReport]]]]:
    """Plays episodes one after another; of each, the chunks and reports."""

    def play(policy: Policy, suite: TaskSuite, specs: Sequence[EpisodeSpec]) -> list[list[Any]]:
        environment, episodes = suite.make(), []
        for spec in specs:
            steps: list[Any] = []

            def visit(seen: Observation, chunk: ActionChunk, executed: int, steps: list[Any] = steps) -> None:
                steps.append((chunk, policy.last))

            list(
                run_together([lambda task, see=visit: act(environment, policy, task, suite, see, alone=False)], [spec])
            )
            episodes.append(steps)
        return episodes

    return play
