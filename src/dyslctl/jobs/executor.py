"""Where tasks are spread to: processes of this machine, or the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from dyslctl.jobs.crew import Died, Player, Result, Task
from dyslctl.jobs.processes import play_in_processes
from dyslctl.jobs.ray_actors import connected, play_on_ray

Kind = Literal["local", "ray"]


@dataclass(frozen=True)
class Executor:
    """Where.

    Attributes:
        kind: ``local`` or ``ray``.
        gpus: That each worker on Ray asks for; on one machine all workers share what there is.
    """

    kind: Kind = "local"
    gpus: float = 0.0

    @classmethod
    def of(cls, kind: Kind, device: str) -> Executor:
        """For work on ``device``, as torch names it."""
        return cls(kind, 0.0 if device == "cpu" else 1.0)

    def session(self) -> AbstractContextManager[object]:
        """Within it, what is spread repeatedly goes to one cluster, joined once."""
        return connected() if self.kind == "ray" else nullcontext()

    def spread(
        self,
        make_player: Callable[[], Player[Task, Result]],
        tasks: Sequence[Task],
        workers: int,
        *,
        lanes: int = 1,
        timeout: float | None = None,
    ) -> Generator[tuple[Task, Result | Died]]:
        """See :func:`dyslctl.jobs.processes.play_in_processes`.

        Raises:
            ConfigError: If the Ray cluster has no room for so many workers.
            EnvironmentMismatch: If workers die as they start, or there is no Ray.
        """
        if self.kind == "ray":
            return play_on_ray(make_player, tasks, workers, lanes=lanes, timeout=timeout, gpus=self.gpus)
        return play_in_processes(make_player, tasks, workers, lanes=lanes, timeout=timeout)


LOCAL = Executor()
