"""The CPU cores available to this process, and what they can do."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
CPUINFO = Path("/proc/cpuinfo")

INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Linux's names of the instructions that multiply and add 8-bit integers in one step: two of x86, one of Arm."""


def usable_cores(cpu_max: Path = CGROUP_CPU_MAX) -> int:
    """Cores allowed by the CPU affinity and the cgroup quota, at least 1.

    ``os.cpu_count()`` returns the cores of the machine, of which a container may have only a few.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return affinity
    if quota == "max":
        return affinity
    return max(1, min(affinity, math.ceil(int(quota) / int(period))))


def multiplies_int8(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the CPU has instructions with which int8 networks are fast and exact; False where unknown."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return bool(INT8_FLAGS & set(next(flags, ())))
