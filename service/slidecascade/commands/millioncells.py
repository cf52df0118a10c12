"""The cost of writing a million cells as ``.geojson.gz``."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.gzipped import gzipped

CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Writing:
    """CPU seconds, sizes, and the peak memory in addition to the cells themselves."""

    cells: int
    vertices_per_cell: float
    cpu_s: float
    json_mb: float
    gzip_mb: float
    memory_mib: float


def measure_writing(analysis: Analysis) -> Writing:
    """Write shifted copies of the cells of `analysis` up to a million."""
    many = _repeated(analysis, CELLS)
    before = most = _resident_mib()
    written = 0

    def counted() -> Iterator[bytes]:
        nonlocal written
        for piece in geojson.encode(many):
            written += len(piece)
            yield piece

    compressed = 0
    started = time.thread_time()
    with Path(os.devnull).open("wb") as file:
        for piece in gzipped(counted()):
            compressed += file.write(piece)
            most = max(most, _resident_mib())
    seconds = time.thread_time() - started
    return Writing(
        cells=len(many.instances),
        vertices_per_cell=round(len(many.instances.vertices) / len(many.instances), 1),
        cpu_s=round(seconds, 2),
        json_mb=round(written / 1e6, 1),
        gzip_mb=round(compressed / 1e6, 1),
        memory_mib=round(most - before, 1),
    )


def _repeated(analysis: Analysis, count: int) -> Analysis:
    cells = analysis.instances
    times = -(-count // len(cells))
    side = int(np.ceil(np.sqrt(times)))
    copies = [
        cells.transformed(
            scale=1.0,
            shift_x=float(index % side * analysis.region_l0.width),
            shift_y=float(index // side * analysis.region_l0.height),
        )
        for index in range(times)
    ]
    chosen = np.arange(count)
    return dataclasses.replace(
        analysis,
        instances=Instances.concatenate(copies).take(chosen),
        class_index=np.tile(analysis.class_index, times)[chosen],
    )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
