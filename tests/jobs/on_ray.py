"""A program: what becomes of tasks on a local Ray cluster of two CPUs, as JSON. In a process of its own, since Ray
leaves warnings and threads behind."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import ray
from flaky import ALWAYS, begun, demanding, square

from dyslctl.errors import DyslctlError
from dyslctl.jobs.ray_actors import _Actor, play_on_ray

DIARY = Path(sys.argv[1])


def squares(name: str, accidents: dict[int, tuple[str, int]], lanes: int = 1, **options: float) -> None:
    """Play and print: the results, and how often each task was begun."""
    diary = DIARY / name
    diary.mkdir()
    make = partial(square, diary, accidents, lanes)
    found = {number: str(result) for number, result in play_on_ray(make, range(6), 2, lanes=lanes, **options)}
    print(json.dumps([name, sorted(found.items()), [len(begun(diary, number)) for number in range(6)]]), flush=True)


def spare(name: str) -> None:
    """An actor that is ready and not asked for anything: does it have more to say?"""
    actor = _Actor(ray, partial(square, DIARY, {}, 1), 1, 0.0)
    assert not list(actor.hear()) and actor.ready
    print(json.dumps([name, actor.has_spoken()]), flush=True)
    actor.end()


def fails(name: str, *arguments: object, **options: float) -> None:
    """Play and print the error."""
    try:
        list(play_on_ray(*arguments, **options))  # type: ignore[arg-type]
    except DyslctlError as error:
        print(json.dumps([name, type(error).__name__, str(error)]), flush=True)


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
squares("calm", {})
squares("stormy", {1: ("kill", 1), 3: ("exit", ALWAYS)}, lanes=2)
squares("hanging", {2: ("hang", 1)}, timeout=3.0)
spare("spare")
fails("crowded", square, [1], 3)
fails("without a GPU", square, [1], 1, gpus=1.0)
fails("demanding", demanding, [1], 1)
ray.shutdown()
