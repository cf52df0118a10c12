"""The memory of a served process over time, as its metrics state it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

_NAME = "process_resident_memory_bytes "


@dataclass(frozen=True, slots=True)
class Sample:
    """`resident_mib` of the process, `at_s` seconds after the watch began."""

    at_s: float
    resident_mib: float


@contextmanager
def watched(url: str, *, every_s: float) -> Iterator[list[Sample]]:
    """Samples gather in the list while the block runs."""
    samples: list[Sample] = []
    over = threading.Event()

    def watch() -> None:
        started = time.monotonic()
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not over.wait(every_s):
                page = client.get("/metrics").text
                value = next(line for line in page.splitlines() if line.startswith(_NAME)).split()[1]
                samples.append(Sample(round(time.monotonic() - started, 1), round(float(value) / 2**20, 1)))

    watcher = threading.Thread(target=watch, name="memory")
    watcher.start()
    try:
        yield samples
    finally:
        over.set()
        watcher.join()


def growth_mib_per_hour(samples: list[Sample]) -> float:
    """The slope of the second half, when caches and pools are full: least squares."""
    late = samples[len(samples) // 2 :]
    if len(late) < 2:
        return 0.0
    mean_s = sum(sample.at_s for sample in late) / len(late)
    mean_mib = sum(sample.resident_mib for sample in late) / len(late)
    spread = sum((sample.at_s - mean_s) ** 2 for sample in late)
    slope = sum((sample.at_s - mean_s) * (sample.resident_mib - mean_mib) for sample in late) / spread
    return round(slope * 3600, 1)
