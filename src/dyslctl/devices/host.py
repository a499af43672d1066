"""The processors of this machine."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def usable_cpus() -> int:
    """``min(affinity, cgroup quota)``, at least 1.

    More threads than that wait for each other at every parallel section: one GEMM then takes many times longer.
    """
    quota = cpu_quota()
    cpus = _affinity() if quota is None else min(_affinity(), math.ceil(quota))
    return max(1, cpus)


def _affinity() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """CPUs the control group grants, or ``None`` without a limit."""
    if CGROUP_V2.is_file():
        quota, period = CGROUP_V2.read_text(encoding="utf-8").split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    quota_file, period_file = CGROUP_V1 / "cpu.cfs_quota_us", CGROUP_V1 / "cpu.cfs_period_us"
    if not (quota_file.is_file() and period_file.is_file()):
        return None
    quota_us = int(quota_file.read_text(encoding="utf-8"))
    return None if quota_us <= 0 else quota_us / int(period_file.read_text(encoding="utf-8"))
