"""The shipped recipes say what they claim to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyslctl.cli.config import Config, merge, read_config
from dyslctl.cli.steps.trainers import NOT_OPTIMISATION
from dyslctl.jobs.distill_paper import DistillSettings
from dyslctl.jobs.stage_result import Stage

RECIPES = Path(__file__).parents[2] / "profiles" / "recipes"


def recipe(name: str) -> Config:
    return merge([read_config(RECIPES / name)])


@pytest.mark.parametrize("name", [path.name for path in sorted(RECIPES.glob("*.yaml"))])
def test_every_key_of_a_recipe_is_known(name: str) -> None:
    assert recipe(name).model.checkpoint is not None


@pytest.mark.parametrize(("stage", "steps"), [(1, 7693), (2, 29307)])
def test_openvla_oft_libero_is_table_10(stage: Stage, steps: int) -> None:
    config = recipe("openvla-oft-libero.yaml")
    changed = config.distill.model_dump(exclude=NOT_OPTIMISATION, exclude_none=True)
    settings = DistillSettings.default(stage, hidden_size=4096).override(changed)
    assert config.distill.method == "dysl-paper"
    assert (settings.steps, settings.batch_size, settings.decay, settings.warmup) == (steps, 32, "constant", 0)
    assert (settings.adapter_lr, settings.controller_lr, settings.penalty_weight) == (1e-4, 1e-4, 1e-2)
    assert settings.gradient_checkpointing and settings.precision == "bf16"
    settings.require_equal_parts(settings.batch_size)
    assert settings.identity() == {**DistillSettings.default(stage, 4096).identity(), "precision": "bf16"}


@pytest.mark.parametrize(
    ("scene", "suite", "stage", "steps"),
    [
        ("d", "calvin_d", 1, 1030),
        ("d", "calvin_d", 2, 5690),
        ("abc", "calvin_abc", 1, 3570),
        ("abc", "calvin_abc", 2, 12780),
    ],
)
def test_roboflamingo_calvin_is_tables_8_and_9(scene: str, suite: str, stage: Stage, steps: int) -> None:
    name = f"roboflamingo-calvin-{scene}.yaml"
    config = recipe(name)
    changed = config.distill.model_dump(exclude=NOT_OPTIMISATION, exclude_none=True)
    settings = DistillSettings.default(stage, hidden_size=2048).override({**changed, "steps": steps})
    assert (config.suite, config.distill.method, config.execute_horizon) == (suite, "dysl-paper", 1)
    assert (settings.batch_size, settings.window, settings.decay, settings.warmup) == (24, 12, "constant", 0)
    assert (settings.adapter_lr, settings.controller_lr, settings.penalty_weight) == (1e-4, 1e-4, 5e-4)
    assert f"--stage {stage} --steps {steps}\n" in (RECIPES / name).read_text()
