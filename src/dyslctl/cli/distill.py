"""``dyslctl distill``: adapters learn to stand in for skipped layers, a planner when they can -> bundle."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Data,
    DataMap,
    Debug,
    ExecuteHorizon,
    MaxSuccessDrop,
    Quiet,
    Resume,
    RunName,
    Seed,
    Set,
    Suite,
    TargetLayers,
    TargetMs,
    data_flags,
)

if TYPE_CHECKING:
    from dyslctl.jobs.stage_result import Stage


class Stages(StrEnum):
    """What ``--stage`` takes."""

    ONE = "1"
    TWO = "2"
    ALL = "all"

    @property
    def numbers(self) -> list[Stage]:
        """The stages to train, in order."""
        return [1, 2] if self is Stages.ALL else [1 if self is Stages.ONE else 2]


StageChoice = Annotated[Stages, typer.Option("--stage", help="1 adapters, 2 adapters and what decides.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Optimiser steps of a stage; exits: of each round of stage 2.")
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="What to train: dysl (default), dysl-paper, static, flexidepth(-tokens), deer or mole.",
    ),
]
Lambda = Annotated[
    float | None,
    typer.Option("--lambda", help="dysl-paper, flexidepth: weight of executed layers against the task loss."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Processes that a policy's simulators are spread over; default 1.", show_default=False
    ),
]


def distill(
    stage: StageChoice = Stages.ALL,
    steps: Steps = None,
    method: MethodName = None,
    lambda_: Lambda = None,
    target_layers: TargetLayers = None,
    target_ms: TargetMs = None,
    max_success_drop: MaxSuccessDrop = None,
    suite: Suite = None,
    data: Data = None,
    data_map: DataMap = None,
    execute_horizon: ExecuteHorizon = None,
    workers: Workers = None,
    seed: Seed = None,
    resume: Resume = False,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train adapters (stage 1) and what decides when to use them (stage 2).

    The backbone stays frozen. Stage 2 of dysl ends as calibrate does: without a target, at the fewest layers that lose
    at most one percentage point of success on the tune episodes. flexidepth(-tokens) and mole have one stage, the
    second. With --data everything is learnt from recorded episodes, and the tolerance is set on held-out ones: to
    --target-layers, or to a predicted damage.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.distill import run_distill_to_budget
    from dyslctl.cli.workspace import enter, layers_of
    from dyslctl.jobs.distributed import leads, together

    given = flags(
        suite=suite,
        seed=seed,
        distill__steps=steps,
        distill__workers=workers,
        calibrate__workers=workers,
        distill__method=method,
        distill__penalty_weight=lambda_,
        calibrate__target_layers=target_layers,
        calibrate__target_ms=target_ms,
        calibrate__max_success_drop=max_success_drop,
    )
    recorded = data_flags("distill", data, data_map, execute_horizon)
    workspace = enter(run, [*layers_of(config, set_, given), recorded])
    with together(workspace.config.model.device):
        with progress(quiet=quiet or not leads()) as listener:
            document = run_distill_to_budget(workspace, stage.numbers, resume=resume, progress=listener)
        if document:
            show(document, as_json=as_json)
