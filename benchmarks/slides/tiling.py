"""The same region in one tile and in many: are the cells the same?"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from benchmarks import record
from numpy.typing import NDArray

from slidecascade.analysis.flow import analyse
from slidecascade.analysis.plan import RegionTask, known
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.geometry import Box
from slidecascade.pipelines.cells import FILE, CellsPipeline
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.precision import served_packages
from slidecascade.runners.runner import Runner
from slidecascade.settings import bundled_models_dir, read_settings
from slidecascade.slides.facts import compute_facts
from slidecascade.slides.source import Source
from slidecascade.slides.upload import RegionImage
from slidecascade.timing import Silent

WHOLE_PX = 1 << 20
TILES_PX = (256, 512, 1024)
SHIFTS = ((0, 0), (88, 136))
THREADS = (1, 2)
SUBPIXELS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One tiling of a region against the region as one tile."""

    region: str
    tile_px: int
    shift: tuple[int, int]
    threads: int
    cells: int
    lost: int
    doubled: int
    other_class: int
    least_iou: float


def rendered(side_px: int, *, mpp: float = 0.5, seed: int = 3) -> NDArray[np.uint8]:
    """Rendered liver tissue ``(side_px, side_px, 3)``."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    return render(TissueOptions(seed=seed, mpp=mpp), width_px=side_px, height_px=side_px).image


@dataclass(frozen=True, slots=True)
class Bench:
    """A pipeline that can be run with any tiling."""

    pipeline: CellsPipeline
    runner: Runner

    @classmethod
    def of(cls, pipeline: str) -> Bench:
        packages = served_packages(read_settings(models_dir=bundled_models_dir()))
        return cls(load_pipelines(packages, None, (FILE,))[pipeline], LocalRunner(packages.values()))

    def analyse(
        self,
        image: NDArray[np.uint8],
        *,
        mpp: float,
        tile_px: int = WHOLE_PX,
        shift: tuple[int, int] = (0, 0),
        threads: int = 1,
    ) -> Analysis:
        source = RegionImage(image)

        def open_source(*, private: bool = False) -> AbstractContextManager[Source]:  # noqa: ARG001 - of `OpenSource`
            return nullcontext(source)

        floors = {stage.model.name: 0.0 for stage in self.pipeline.stages}
        task = RegionTask(
            pipeline=self.pipeline,
            open_source=open_source,
            region_l0=Box(0, 0, source.size_l0.width, source.size_l0.height),
            mpp=mpp,
            coordinate_space="image-pixels",
            find_facts=known(compute_facts(open_source)),
            thresholds=dict(self.pipeline.thresholds) | floors,
            tile_px=tile_px,
            shift=shift,
        )
        with ThreadPoolExecutor(threads) as pool:
            return cells_of(
                analyse(task, runner=self.runner, pool=pool, threads=threads, control=Control(), observer=Silent())
            )


def compare(whole: Analysis, tiled: Analysis, **run: object) -> Agreement:
    """Pair cells by overlap: a cell of the whole with no partner is lost, one with none is doubled."""
    shape = (whole.region_l0.height, whole.region_l0.width)
    first, second = _labels(whole, shape), _labels(tiled, shape)
    n, m = len(whole.instances), len(tiled.instances)
    pairs = np.bincount((first * np.int64(m + 1) + second).ravel(), minlength=(n + 1) * (m + 1))
    overlap = pairs.reshape(n + 1, m + 1).astype(np.float64)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    iou = (overlap / np.maximum(union, 1))[1:, 1:]
    partner = iou.argmax(1) if m else np.zeros(n, np.int64)
    best = iou.max(1) if m else np.zeros(n)
    matched = best > 0.5
    same = whole.class_index[matched] == tiled.class_index[partner[matched]]
    return Agreement(
        cells=m,
        lost=int((~matched).sum()),
        doubled=m - len(set(partner[matched].tolist())),
        other_class=int((~same).sum()),
        least_iou=float(best[matched].min(initial=1.0)),
        **run,  # type: ignore[arg-type]  # what was run, checked by the dataclass
    )


def _labels(analysis: Analysis, shape: tuple[int, int]) -> NDArray[np.int32]:
    cells = analysis.instances
    labels = np.zeros(shape, np.int32)
    scale = 1 << SUBPIXELS
    rings = np.split(np.round((cells.vertices - 0.5) * scale).astype(np.int32), cells.offsets[1:-1])
    for number, ring in enumerate(rings[: len(cells)], start=1):
        cv2.fillPoly(labels, [ring], number, shift=SUBPIXELS)
    return labels


def agreements(name: str, image: NDArray[np.uint8], bench: Bench, *, mpp: float) -> list[Agreement]:
    """Every tile size, shift and number of threads."""
    whole = bench.analyse(image, mpp=mpp)
    return [
        compare(
            whole,
            bench.analyse(image, mpp=mpp, tile_px=tile_px, shift=shift, threads=threads),
            region=name,
            tile_px=tile_px,
            shift=shift,
            threads=threads,
        )
        for tile_px, shift, threads in itertools.product(TILES_PX, SHIFTS, THREADS)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slides.tiling", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "tiling.json")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    bench = Bench.of("nash")
    rows = agreements("rendered 1536 px at 0.5 um/px", rendered(1536), bench, mpp=0.5)
    record.write(arguments.out, {"rows": [dataclasses.asdict(row) for row in rows]}, provenance)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
