"""A million cells: written as parts, collected to ``cells.geojson.gz``, those of a box, and as DICOM annotations.

`python -m benchmarks.jobs.cells` prints the figures as JSON. The cells are those that `nash` finds in a rendered
block, side by side in the fields of a slide of glass of 61,440 x 61,440 px.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.jobs import memory
from benchmarks.jobs.slides import BLOCK_PX, MPP, write, write_glass

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.coverage import Coverage
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box
from slidecascade.jobs import frame
from slidecascade.jobs.cells import FieldResult
from slidecascade.jobs.collect import CellsSurvey, Collection
from slidecascade.jobs.folders import Folders
from slidecascade.outputs.gzipped import gzipped
from slidecascade.settings import Settings
from slidecascade.slides.tissue import BLOCK_PX as TISSUE_PX
from slidecascade.staging import write_file
from slidecascade.timing import Silent

CELLS: Final = 1_000_000
SIDE_PX: Final = 61_440
BOX_PX: Final = 2000
BOXES: Final = 20
_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """CPU and wall seconds; of a box, the medians in milliseconds."""

    cells: int
    fields: int
    written_cpu_s: float
    written_wall_s: float
    collected_cpu_s: float
    collected_wall_s: float
    geojson_gz_mb: float
    box_cpu_ms: float
    box_wall_ms: float
    box_cells: float
    dicom: Dicom


@dataclass(frozen=True, slots=True, kw_only=True)
class Dicom:
    """``slidecascade export --format dicom-ann`` of all cells, a process of its own from its start to its end."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    file_mb: float


def measure(folder: Path) -> Figures:
    """Write, collect and look up."""
    write(folder / "block.tif", BLOCK_PX)
    write_glass(folder / "glass.tif", SIDE_PX)
    analyser = Analyser(Settings(slide_roots=(folder,), threads=1), observer=Silent())
    found = analyser.analyse(
        wire.RegionRequest(pipeline="nash", slide="block.tif", mpp=MPP), None, Control()
    ).cells
    request = wire.RegionRequest(pipeline="nash", slide="glass.tif", mpp=MPP)
    task = analyser.prepare(request, None, Control(), is_bounded=False)
    survey = CellsSurvey(analyser, task, folder / "job" / "parts")
    results = filled(survey, found)
    written = _timed(lambda: [survey.parts.write(result, analysis, {}) for result, analysis in results])
    reports = [report for _, report in survey.reports() if report is not None]
    collection = Collection(survey, reports, seconds=1.0)
    path = folder / "job" / "results" / "cells.geojson.gz"
    collected = _timed(lambda: write_file(path, gzipped(Collection(survey, reports, seconds=1.0).geojson())))
    collection.write(folder / "job" / "results", None, outputs=frozenset({"parquet"}))
    write_file(folder / "job" / frame.NAME, frame.Frame.of(collection.analysis).encode())
    boxes = _boxes(Folders(folder, min_free_bytes=0))
    dicom = _dicom(folder)
    analyser.close()
    return Figures(
        cells=collection.cells,
        fields=len(reports),
        written_cpu_s=written[0],
        written_wall_s=written[1],
        collected_cpu_s=collected[0],
        collected_wall_s=collected[1],
        geojson_gz_mb=round(path.stat().st_size / 1e6, 1),
        box_cpu_ms=boxes[0],
        box_wall_ms=boxes[1],
        box_cells=boxes[2],
        dicom=dicom,
    )


def filled(survey: CellsSurvey, found: Analysis) -> list[tuple[FieldResult, Analysis]]:
    """Each field with its share of `CELLS`, spread evenly over it; none lies at an edge."""
    each = CELLS // len(survey.fields)
    made = []
    for field in survey.fields:
        corner = survey.grid.l0_from_grid(np.array([[field.core.x, field.core.y]]))[0]
        cells, index = _filled(found, each, corner, field.core.width)
        tissue = np.ones((-(-field.core.height // TISSUE_PX), -(-field.core.width // TISSUE_PX)), np.bool_)
        nothing = Instances.empty([len(stage.model.classes) for stage in survey.pipeline.stages])
        none = np.zeros(0, np.bool_)
        edge = TileResult(
            index=field.index,
            core=field.core,
            tissue=tissue,
            cells=nothing,
            owned=none,
            near_seam=none,
            unstored_px=0,
            coverages=tuple(Coverage(0, field.core.area) for _ in survey.pipeline.area_fractions),
        )
        result = FieldResult(
            field=field,
            cells=cells,
            class_index=index,
            at_edge=np.zeros(len(cells), np.bool_),
            edge=edge,
            seen_px=field.core.area,
            background=0,
            failures=(),
        )
        made.append((result, replace(survey.blank, instances=cells, class_index=index)))
    return made


def _filled(found: Analysis, count: int, corner_l0: np.ndarray, side_px: int) -> tuple[Instances, np.ndarray]:
    times = -(-count // len(found.instances))
    per_side = int(np.ceil(np.sqrt(times)))
    step = max(1.0, (side_px - BLOCK_PX) / max(1, per_side - 1))
    copies = [
        found.instances.transformed(
            scale=1.0,
            shift_x=float(corner_l0[0] + index % per_side * step),
            shift_y=float(corner_l0[1] + index // per_side * step),
        )
        for index in range(times)
    ]
    chosen = np.arange(count)
    index = np.tile(found.class_index, times)[chosen]
    return Instances.concatenate(copies).take(chosen), index


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return round(time.process_time() - cpu, 2), round(time.perf_counter() - wall, 2)


def _boxes(folders: Folders) -> tuple[float, float, float]:
    """CPU and wall milliseconds, and cells, of boxes at random places."""
    rng = np.random.default_rng(0)
    rows = []
    for x, y in rng.integers(0, SIDE_PX - BOX_PX, (BOXES, 2)).tolist():
        cpu, wall = time.process_time(), time.perf_counter()
        text = folders.cells("job", Box(x, y, BOX_PX, BOX_PX), class_name=None, limit=1_000_000)
        rows.append((time.process_time() - cpu, time.perf_counter() - wall, text.count(b'"Polygon"')))
    cpu_s, wall_s, cells = np.median(np.array(rows), axis=0)
    return round(cpu_s * 1e3, 1), round(wall_s * 1e3, 1), float(cells)


def _dicom(folder: Path) -> Dicom:
    worklist, target = folder / "worklist.yaml", folder / "cells.dcm"
    worklist.write_text("StudyInstanceUID: 1.2.3\n", encoding="utf-8")
    command = [sys.executable, "-m", "slidecascade", "export", str(folder / "job" / "results")]
    command += ["--format", "dicom-ann", "--dicom-worklist", str(worklist), "--out", str(target)]
    started, peak_mib = time.perf_counter(), 0.0
    process = os.posix_spawn(sys.executable, command, os.environ)
    # The peak of its own memory: what wait4 reports begins with the memory of this process.
    while (ended := os.wait4(process, os.WNOHANG))[0] == 0:
        peak_mib = max(peak_mib, memory.peak_mib(process))
        time.sleep(_LOOK_S)
    _, status, used = ended
    if status:
        raise RuntimeError(f"The export failed with status {status}: see its message above.")
    return Dicom(
        cpu_s=round(used.ru_utime + used.ru_stime, 2),
        wall_s=round(time.perf_counter() - started, 2),
        peak_mib=round(peak_mib, 1),
        file_mb=round(target.stat().st_size / 1e6, 1),
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(measure(Path(folder)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
