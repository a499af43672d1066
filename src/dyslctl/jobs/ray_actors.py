"""Workers that are actors of a Ray cluster: for those who outgrow one machine.

The cluster is that of ``RAY_ADDRESS``, else one that runs here, else one that is started here. Its machines must see
the run directory at the same path, and have the same packages installed.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dyslctl.data.optional import require
from dyslctl.errors import ConfigError, EnvironmentMismatch
from dyslctl.jobs.crew import GRACE, READY, Crew, Died, Gone, Player, Result, Task, Worker
from dyslctl.jobs.processes import portable


def play_on_ray(
    make_player: Callable[[], Player[Task, Result]],
    tasks: Sequence[Task],
    workers: int,
    *,
    lanes: int = 1,
    timeout: float | None = None,
    gpus: float = 0.0,
) -> Generator[tuple[Task, Result | Died]]:
    """As :func:`dyslctl.jobs.processes.play_in_processes`, each worker an actor with one CPU.

    Args:
        make_player: As there; likewise the next four.
        tasks: All different.
        workers: Actors.
        lanes: Tasks that a player runs side by side.
        timeout: Seconds a task may take.
        gpus: What each actor asks for.

    Raises:
        ConfigError: If the cluster has no room for so many workers.
        EnvironmentMismatch: If Ray is not installed, no cluster answers, or actors die as they start.
        Exception: What ``make_player`` or a player raises.
    """
    with connected() as ray:
        _check_room(ray.cluster_resources(), workers, gpus)
        hire = partial(_Actor, ray, make_player, lanes, gpus)
        yield from Crew(hire, partial(_listen, ray), tasks, workers, lanes, timeout).run()


@contextmanager
def connected() -> Iterator[Any]:
    """The module ``ray``, joined to a cluster for as long; within another such context nothing is done.

    Raises:
        EnvironmentMismatch: If Ray is not installed, or no cluster answers.
    """
    ray = require("ray", "--executor ray", extra="ray")
    if ray.is_initialized():
        yield ray
        return
    _connect(ray)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any) -> None:
    try:
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=None)
    except Exception as error:  # whatever a network raises
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise EnvironmentMismatch(
            f"no Ray cluster at {where}: {error}", hint="RAY_ADDRESS names its head, or --executor local"
        ) from error


def _check_room(resources: dict[str, float], workers: int, gpus: float) -> None:
    """Actors that find no room would be waited for for ever."""
    rooms = [int(resources.get("CPU", 0.0))]
    rooms += [int(resources.get("GPU", 0.0) / gpus)] if gpus else []
    if workers > min(rooms):
        each = "1 CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise ConfigError(
            f"the Ray cluster has room for {min(rooms)} workers of {each}, found --workers {workers}",
            hint="fewer --workers, or a larger cluster",
        )


class _Actor(Worker[Task, Result]):
    """An actor, and what it has been asked: to get ready, then piece after piece, whose results come one by one."""

    def __init__(self, ray: Any, make_player: Callable[[], Player[Task, Result]], lanes: int, gpus: float) -> None:
        super().__init__(lanes)
        self._ray = ray
        stage = ray.remote(_Stage).options(num_cpus=1, num_gpus=gpus, max_restarts=0)
        self._actor = stage.remote()
        self.asked = self._actor.prepare.remote(str(Path.cwd()), make_player)

    def send(self, piece: Sequence[Task]) -> None:
        """See :class:`Worker`."""
        self.asked = self._actor.play.options(num_returns="streaming").remote(list(piece))

    def receive(self) -> Any:
        """See :class:`Worker`."""
        try:
            if self.ready:
                return self._ray.get(next(self.asked))
            asked, self.asked = self.asked, None  # said once: there may be no piece left for it to be asked next
            return self._ray.get(asked)
        except StopIteration:
            self.asked = None
            return None
        except self._ray.exceptions.RayActorError as error:
            raise Gone from error
        except self._ray.exceptions.RayError as error:
            return EnvironmentMismatch(f"Ray: {error}")

    def has_spoken(self) -> bool:
        """See :class:`Worker`."""
        return bool(self.asked is not None and self._ray.wait([self.asked], timeout=0)[0])

    def dismiss(self) -> None:
        """See :class:`Worker`."""
        self.end()

    def end(self, grace: float = GRACE) -> str:
        """See :class:`Worker`; Ray does not say of which signal an actor died."""
        with suppress(Exception):
            self._ray.kill(self._actor)
        return "died on the Ray cluster"


def _listen(ray: Any, workers: Sequence[Worker[Task, Result]], patience: float | None) -> list[Worker[Task, Result]]:
    asked = {worker.asked: worker for worker in workers if isinstance(worker, _Actor) and worker.asked is not None}
    spoken, _ = ray.wait(list(asked), num_returns=1, timeout=patience)
    return [asked[one] for one in spoken]


class _Stage:
    """What an actor is: a player, in the folder of the one who asks."""

    def prepare(self, folder: str, make_player: Callable[[], Player[Any, Any]]) -> Any:
        """Enter ``folder``, which paths are relative to, and make the player."""
        if not Path(folder).is_dir():
            return EnvironmentMismatch(
                f"{socket.gethostname()}: no such folder: {folder}",
                hint="all machines of a Ray cluster must see the folder that the command runs in at the same path",
            )
        try:
            os.chdir(folder)
            self._player = make_player()
        except Exception as error:
            return portable(error, f"in a Ray actor:\n{traceback.format_exc()}")
        return READY

    def play(self, piece: Sequence[Any]) -> Iterator[Any]:
        """Each of ``piece`` with its result."""
        try:
            yield from self._player(piece)
        except Exception as error:
            yield portable(error, f"in a Ray actor:\n{traceback.format_exc()}")
