from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dyslctl.errors import PluginError
from dyslctl.suite import PaintedViews

if TYPE_CHECKING:
    from tests.tiny import TinyReach


def able(tiny_suite: type[TinyReach], *tasks: str) -> TinyReach:
    """The tiny suite, with an expert for ``tasks`` alone."""

    class Able(tiny_suite):  # type: ignore[misc, valid-type]
        @property
        def demonstrated_tasks(self) -> Sequence[str]:
            return tasks

    suite: TinyReach = Able()
    return suite


def test_an_expert_does_all_tasks_unless_the_suite_says_otherwise(tiny_suite: type[TinyReach]) -> None:
    suite = tiny_suite()
    assert suite.demonstrated_tasks == suite.tasks
    assert suite.demonstrated_episodes("tune", 5) == suite.episodes("tune", 5)


def test_episodes_of_other_tasks_are_passed_over(tiny_suite: type[TinyReach]) -> None:
    found = able(tiny_suite, "reach_blue").demonstrated_episodes("train", 3)
    assert [(spec.index, spec.task) for spec in found] == [(1, "reach_blue"), (3, "reach_blue"), (5, "reach_blue")]


def test_a_suite_without_an_expert_says_so(tiny_suite: type[TinyReach]) -> None:
    with pytest.raises(PluginError, match="tiny_reach has no scripted expert"):
        able(tiny_suite).demonstrated_episodes("train", 1)


def test_views_are_painted_together_once_and_only_when_looked_at() -> None:
    calls: list[str] = []

    def paint() -> list[np.ndarray]:
        calls.append("painted")
        return [np.full((2, 2, 3), level, np.uint8) for level in (1, 2)]

    views = PaintedViews(("agent", "wrist"), paint)
    assert (list(views), len(views), calls) == (["agent", "wrist"], 2, [])
    assert [int(views[name].max()) for name in ("wrist", "agent", "wrist")] == [2, 1, 2]
    assert calls == ["painted"]


def test_a_painter_that_paints_another_number_of_views_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        PaintedViews(("agent", "wrist"), lambda: [np.zeros((2, 2, 3), np.uint8)])["agent"]
