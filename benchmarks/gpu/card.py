"""An NVIDIA GPU as nvidia-smi describes it, and how busy it is."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

ASK_EVERY_MS = 100


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, as nvidia-smi describes it."""

    name: str
    driver: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Busy:
    """What nvidia-smi saw: the mean share of time in which the GPU ran something, and the most memory in use."""

    samples: int
    share: float
    peak_memory_mib: int


def ask(fields: str, *options: str) -> list[str]:
    """The command that asks nvidia-smi for `fields`."""
    return ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", *options]


def find_card(gpu: int) -> Card | None:
    """The GPU of that number; None when there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(
        ask("name,driver_version,memory.total", f"--id={gpu}"), capture_output=True, text=True, check=False
    )
    parts = [part.strip() for part in done.stdout.strip().split(",")]
    return Card(parts[0], parts[1], int(parts[2])) if done.returncode == 0 and len(parts) == 3 else None


def busy(lines: str) -> Busy:
    """The samples of nvidia-smi, one a line: percent of the time, MiB. Lines it could not fill are left out."""
    samples = []
    for line in lines.splitlines():
        with suppress(ValueError):
            percent, memory = map(int, line.split(","))
            samples.append((percent, memory))
    if not samples:
        return Busy(0, 0.0, 0)
    percents, memories = zip(*samples, strict=True)
    return Busy(len(samples), round(statistics.mean(percents) / 100, 3), max(memories))


@contextmanager
def watched(gpu: int) -> Iterator[list[Busy]]:
    """Has nvidia-smi look at the GPU during the block; what it saw is in the list afterwards."""
    command = ask("utilization.gpu,memory.used", f"--id={gpu}", f"--loop-ms={ASK_EVERY_MS}")
    seen: list[Busy] = []
    with tempfile.TemporaryFile("w+") as lines, subprocess.Popen(command, stdout=lines) as process:
        try:
            yield seen
        finally:
            process.terminate()
            process.wait()
            lines.seek(0)
            seen.append(busy(lines.read()))
