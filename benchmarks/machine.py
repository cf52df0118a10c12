"""The machine that figures come from."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from slidecascade.cores import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`load_before` is the load average of the last minute when this was asked: other work makes figures worse."""

    processor: str
    cores: int
    system: str
    load_before: float

    @classmethod
    def here(cls) -> Machine:
        return cls(
            processor=_processor(),
            cores=usable_cores(),
            system=platform.platform(),
            load_before=round(os.getloadavg()[0], 2),
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
