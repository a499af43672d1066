from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from dyslctl.errors import PluginError

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
