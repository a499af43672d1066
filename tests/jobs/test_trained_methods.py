from __future__ import annotations

from typing import get_args

from dyslctl.jobs.trained_methods import TRAINED
from dyslctl.trained import Trained


def test_every_trained_method_is_in_the_table() -> None:
    assert set(TRAINED) == set(get_args(Trained))


def test_baselines_with_routers_learn_in_one_stage() -> None:
    assert {name for name, how in TRAINED.items() if how.in_one_stage} == {"flexidepth", "flexidepth-tokens", "mole"}
