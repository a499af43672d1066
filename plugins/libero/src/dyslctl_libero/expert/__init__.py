"""The scripted expert: looks at the scene's true state and acts in the suites' own seven dimensions.

``scene`` is what it sees, ``grasps`` where it grasps, ``hand`` how it moves, ``skills`` what it can do; here it works
through a task's goals.
"""

from __future__ import annotations

import numpy as np

from dyslctl.errors import PluginError
from dyslctl_libero.expert.hand import OPEN, Actions, Hand
from dyslctl_libero.expert.scene import Scene
from dyslctl_libero.expert.skills import PickAndPlace
from dyslctl_libero.simulator import Simulator

ATTEMPTS = 3
TOO_WIDE = ("plate",)
"""Objects that no grasp from above holds."""
APART = 0.10
"""Between the middles of two things put side by side on one place, m."""

__all__ = ["aside", "expert"]


def expert(simulator: Simulator) -> Actions:
    """The expert's actions ``[7]`` float32 from a scene's present state on; execute each before asking for the next.

    Raises:
        PluginError: If a goal of the task is neither to put something in, nor on, something else.
    """
    scene = Scene(simulator.env)
    goals = scene.goals()
    if unknown := [goal for goal in goals if not (scene.holds(goal) or _can_do(scene, goal))]:
        raise PluginError(
            f"{simulator.suite}: the scripted expert has no skill for {', '.join(' '.join(goal) for goal in unknown)}, "
            f"a goal of {simulator.task}",
            hint="demonstrate other tasks, or name recorded demonstrations with --data",
        )
    return _act(scene, goals)


def _act(scene: Scene, goals: list[list[str]]) -> Actions:
    hand = Hand(scene)
    skills = PickAndPlace(hand)
    for goal in goals:
        for _ in range(ATTEMPTS):
            if scene.holds(goal):
                break
            yield from _put(scene, skills, goal, aside(scene, goals, goal))
    yield from hand.hold(10, OPEN)


def _can_do(scene: Scene, goal: list[str]) -> bool:
    if goal[0] not in ("in", "on") or not scene.is_object(goal[1]) or goal[1].startswith(TOO_WIDE):
        return False
    on_something = goal[0] == "on" and (scene.is_object(goal[2]) or scene.is_region(goal[2]))
    return on_something or goal[2].startswith("basket")


def aside(scene: Scene, goals: list[list[str]], goal: list[str]) -> np.ndarray:
    """``[2]`` how far from the middle of its place ``goal[1]`` is put, m: things that share one stand side by side."""
    sharing = [other[1] for other in goals if other[0] == "on" and other[2:] == goal[2:]]
    shift = np.zeros(2)
    if len(sharing) > 1:
        narrow = int(np.argmin(np.ptp(scene.points(goal[1])[:, :2], axis=0)))
        shift[narrow] = APART * (sharing.index(goal[1]) - (len(sharing) - 1) / 2)
    return shift


def _put(scene: Scene, skills: PickAndPlace, goal: list[str], shift: np.ndarray) -> Actions:
    """One attempt to put ``goal[1]`` where ``goal[2]`` is, ``shift`` ``[2]`` (m) from its middle."""
    _, name, place = goal
    points = scene.points(name)
    height = float(np.ptp(points[:, 2]))
    if place.startswith("basket"):
        basket = place.removesuffix("_contain_region")
        rim = float(scene.points(basket)[:, 2].max())
        xy, bottom, clear = scene.position(basket)[:2], rim - min(0.05, height / 2), rim + 0.03
        travel = max(rim + height + 0.06, float(scene.hand[2]) - 0.02)
    else:
        xy, low, top = _target(scene, name, place)
        bottom, clear = low + 0.012, top + 0.03
        travel = max(top + height + 0.06, float(points[:, 2].max()) + 0.07)
    if (yield from skills.pick(name, travel)):
        yield from skills.place(name, xy + shift, bottom, clear)


def _target(scene: Scene, name: str, place: str) -> tuple[np.ndarray, float, float]:
    """Where ``place`` is ``[2]``, the height to put something down on, and the height to stay above (m)."""
    if scene.is_object(place):
        points = scene.points(place)
        return scene.position(place)[:2], float(points[:, 2].min()), float(points[:, 2].max())
    xy = scene.region(place)[:2]
    surface = scene.surface(xy, name)
    return xy, surface, surface
