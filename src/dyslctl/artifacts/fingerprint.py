"""Where a result was made: versions and machine, stored with every measurement."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import dyslctl
from dyslctl.artifacts.skip_profile import MadeWith


@dataclass(frozen=True)
class Environment:
    """Software and machine behind a result.

    Attributes:
        transformers: Its version, or ``None`` if it is not installed.
        gpu: Name of the first CUDA device, or ``None``.
        threads: Threads of one torch operation.
    """

    dyslctl: str
    python: str
    torch: str
    numpy: str
    transformers: str | None
    platform: str
    cpu: str
    cpu_count: int
    threads: int
    gpu: str | None

    @property
    def machine(self) -> str:
        """The processors that measure here: milliseconds of others do not compare."""
        return self.cpu if self.gpu is None else f"{self.cpu}, {self.gpu}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def environment() -> Environment:
    """This process's environment."""
    return Environment(
        dyslctl=dyslctl.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        transformers=_version_or_none("transformers"),
        platform=platform.platform(),
        cpu=_cpu_model(),
        cpu_count=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    )


def made_with(command: str, seed: int) -> MadeWith:
    """The ``made_with`` part of an artifact written now."""
    return MadeWith(
        dyslctl=dyslctl.__version__, torch=str(torch.__version__), numpy=version("numpy"), seed=seed, command=command
    )


def _version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    # platform.processor() is empty on most Linux machines.
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
