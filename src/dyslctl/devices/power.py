"""What this machine says of its own power: mode, clocks, watts. Each is ``None`` where nobody tells.

A Jetson tells by ``nvpmodel`` and ``tegrastats``, another NVIDIA GPU by ``nvidia-smi``, an Intel or AMD processor by
the files of ``cpufreq`` and ``powercap``. Whether a source is there is found by asking; none of them is changed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_RAPL = Path("/sys/class/powercap/intel-rapl:0")
_TOTALS = ("VDD_IN", "POM_5V_IN")
"""Rails that hold what the whole board draws; where there is none, the rails are parts of it and add up."""
_TIMEOUT = 5.0
_INTERVAL_MS = 200


@dataclass(frozen=True)
class PowerState:
    """Under what conditions the clock runs.

    Attributes:
        mode: Name of the Jetson power mode, e.g. ``MAXN``.
        governor: Of the CPU's frequency.
        cpu_mhz: Clock of the first CPU.
        gpu_mhz: Clock of the GPU's multiprocessors.
        gpu_limit_watts: What the GPU may draw.
    """

    mode: str | None = None
    governor: str | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    gpu_limit_watts: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TegraSample:
    """One line of ``tegrastats``.

    Attributes:
        rails: Watts by rail.
        cpu_mhz: Of the fastest core that is on.
        gpu_mhz: Of the GPU.
    """

    rails: Mapping[str, float]
    cpu_mhz: float | None
    gpu_mhz: float | None

    @property
    def watts(self) -> float | None:
        """What the board draws; ``None`` if the line names no rail."""
        total = next((self.rails[name] for name in _TOTALS if name in self.rails), None)
        return total if total is not None or not self.rails else sum(self.rails.values())


def parse_nvpmodel(text: str) -> str | None:
    """``NV Power Mode: MODE_30W`` of ``nvpmodel -q`` -> ``MODE_30W``."""
    found = re.search(r"^NV Power Mode:\s*(\S.*?)\s*$", text, re.MULTILINE)
    return found[1] if found else None


def parse_tegrastats(line: str) -> TegraSample:
    """Rails are ``NAME now/mean`` in milliwatts, with or without the unit. Memory has other units: no rail."""
    rails = re.findall(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?!\S)", line)
    cores = re.search(r"(?<!\S)CPU \[([^\]]*)\]", line)
    clocks = re.findall(r"@(\d+)", cores[1]) if cores else []
    gpu = re.search(r"(?<!\S)GR3D_FREQ \d+%@\[?(\d+)", line)
    return TegraSample(
        rails={name: int(milliwatts) / 1e3 for name, milliwatts in rails},
        cpu_mhz=max(map(float, clocks), default=None),
        gpu_mhz=float(gpu[1]) if gpu else None,
    )


def parse_nvidia_smi(text: str) -> tuple[float | None, float | None]:
    """First GPU's clock, MHz, and power limit, W, from a line ``1980, 700.00``; ``[N/A]`` is ``None``."""
    clock, _, limit = text.partition("\n")[0].partition(",")
    return _number(clock), _number(limit)


def power_state() -> PowerState:
    """As this machine is now."""
    query = ("--query-gpu=clocks.sm,power.limit", "--format=csv,noheader,nounits")
    gpu_mhz, limit = parse_nvidia_smi(_said("nvidia-smi", *query) or "")
    khz = _number(_read(_CPUFREQ / "scaling_cur_freq") or "")
    return PowerState(
        mode=parse_nvpmodel(_said("nvpmodel", "-q") or ""),
        governor=_read(_CPUFREQ / "scaling_governor"),
        cpu_mhz=None if khz is None else khz / 1e3,
        gpu_mhz=gpu_mhz,
        gpu_limit_watts=limit,
    )


class PowerMeter:
    """Mean watts of a span of time: of the board by ``tegrastats``, else of the processor by its energy counter.

    A context manager; ``watts`` is known when it is left, and stays ``None`` where nobody tells.
    """

    def __init__(self, rapl: Path = _RAPL) -> None:
        self._rapl = rapl
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] = BytesIO()
        self._begin = 0.0
        self._energy: int | None = None
        self.watts: float | None = None

    def __enter__(self) -> Self:
        program = shutil.which("tegrastats")
        if program is not None:
            self._said = TemporaryFile()  # a pipe would be full after a minute
            command = [program, "--interval", str(_INTERVAL_MS)]
            self._process = subprocess.Popen(command, stdout=self._said, stderr=subprocess.DEVNULL)
        self._begin, self._energy = time.monotonic(), self._microjoules()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, energy = time.monotonic() - self._begin, self._microjoules()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._said.seek(0)
            self.watts = mean_watts(self._said.read().decode(errors="replace").splitlines())
            self._said.close()
        elif self._energy is not None and energy is not None and seconds > 0:
            self.watts = energy_used(self._energy, energy, self._range()) / 1e6 / seconds

    def _microjoules(self) -> int | None:
        value = _number(_read(self._rapl / "energy_uj") or "")
        return None if value is None else int(value)

    def _range(self) -> int:
        return int(_number(_read(self._rapl / "max_energy_range_uj") or "") or 0)


def energy_used(before: int, after: int, range_: int) -> int:
    """Between two readings of a counter that begins again after ``range_``."""
    return after - before if after >= before else after - before + range_


def mean_watts(lines: Sequence[str]) -> float | None:
    """Of the lines of ``tegrastats`` that name a rail."""
    watts = [found for found in (parse_tegrastats(line).watts for line in lines) if found is not None]
    return sum(watts) / len(watts) if watts else None


def _said(program: str, *arguments: str) -> str | None:
    """What a program prints; ``None`` if it is not there, fails, or does not answer."""
    found = shutil.which(program)
    if found is None:
        return None
    try:
        ran = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout


def _read(path: Path) -> str | None:
    """Of a file that may be missing, or not ours to read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
