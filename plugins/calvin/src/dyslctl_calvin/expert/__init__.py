"""The scripted expert: looks at the scene's true state and acts in the suites' own seven dimensions."""

from __future__ import annotations

from dyslctl_calvin.expert.hand import CLOSED, OPEN, Actions, Hand
from dyslctl_calvin.expert.scene import Scene
from dyslctl_calvin.expert.skills import HOLDING, SKILLS, retreat
from dyslctl_calvin.simulator import Simulator

__all__ = ["expert"]


def expert(simulator: Simulator, task: str) -> Actions:
    """The expert's actions ``[7]`` float32 for an instruction, without end; execute each before asking for the next."""
    scene = Scene(simulator.env)
    while True:
        hand = Hand(scene, CLOSED if task in HOLDING else OPEN)
        if task not in HOLDING:
            yield from hand.hold(2, OPEN)
            yield from retreat(hand)
        yield from SKILLS[task](hand)
