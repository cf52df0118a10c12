"""Regions against the whole slide: are the cells the same, to the last bit?

For each slide the cells of the whole are found once. Then regions of random places and sizes, with random tile
sizes, seams, threads and runners, are compared with what the whole has in them: the same outlines, classes,
probabilities and ids.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks import record
from numpy.typing import NDArray

from slidecascade.analysis.flow import analyse
from slidecascade.analysis.plan import RegionTask, known
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.geometry import Box, Mpp
from slidecascade.outputs.cells import geojson
from slidecascade.pipelines.cells import FILE, CellsPipeline
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.precision import served_packages
from slidecascade.runners.runner import Runner
from slidecascade.settings import bundled_models_dir, read_settings
from slidecascade.slides.facts import compute_facts
from slidecascade.slides.slide import can_open
from slidecascade.slides.source import Source
from slidecascade.slides.store import SlideStore
from slidecascade.timing import Silent

SIDES_PX: Final = (64, 150, 256, 384, 512, 777, 1024, 1500)
TILES_PX: Final = (None, 200, 256, 512, 1024)
MPPS: Final = (0.25, 0.35, 0.5, 0.7)
"""Pixel sizes stated for slides, so that their models read a level as it is, between levels, or enlarged."""

MAX_WHOLE_PX: Final = 7_000_000
"""Most pixels the segmenter is given of a slide: what takes a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Regions of one slide against the whole of it.

    `cells` counts what the whole has in the regions; `missing` and `extra` are outlines that only one of the two
    has; the other numbers are cells with the same outline, which differ in the rest. `seconds` is the time of the
    whole.
    """

    slide: str
    pipeline: str
    mpp: float
    own_level: bool
    regions: int
    whole: int
    cells: int
    missing: int
    extra: int
    other_class: int
    other_probabilities: int
    other_id: int
    seconds: float

    @property
    def same(self) -> float:
        """The share of cells that are the same in everything."""
        wrong = self.missing + self.extra + self.other_class + self.other_probabilities + self.other_id
        return 1 - wrong / max(1, self.cells)


@dataclass(frozen=True, slots=True)
class Bench:
    """A pipeline over one slide of a folder, run in any way."""

    pipeline: CellsPipeline
    store: SlideStore
    slide_id: str
    mpp: Mpp
    runners: Sequence[Runner]

    def open_source(self, *, private: bool = False) -> AbstractContextManager[Source]:
        return self.store.open(self.slide_id, private=private)

    def analyse(
        self, region_l0: Box, *, tile_px: int | None, shift: tuple[int, int], threads: int, runner: int
    ) -> Analysis:
        task = RegionTask(
            pipeline=self.pipeline,
            open_source=self.open_source,
            region_l0=region_l0,
            mpp=self.mpp,
            coordinate_space="level0-pixels",
            find_facts=known(compute_facts(self.open_source)),
            thresholds=self.pipeline.thresholds,
            tile_px=tile_px,
            shift=shift,
        )
        with ThreadPoolExecutor(threads) as pool:
            return cells_of(
                analyse(
                    task,
                    runner=self.runners[runner],
                    pool=pool,
                    threads=threads,
                    control=Control(),
                    observer=Silent(),
                )
            )

    def agreement(self, *, regions: int, seed: int) -> Agreement:
        """Find the cells of the whole slide, then of `regions` parts of it."""
        with self.open_source() as source:
            size = source.size_l0
            ratios = [self.pipeline.segmenter.mpp / self.mpp / factor for factor in source.level_downsamples]
        started = time.perf_counter()
        whole = self.analyse(Box(0, 0, size.width, size.height), tile_px=None, shift=(0, 0), threads=2, runner=0)
        seconds = time.perf_counter() - started
        rng, counts = np.random.default_rng(seed), np.zeros(6, np.int64)
        for _ in range(regions):
            width, height = (min(int(rng.choice(SIDES_PX)), side) for side in (size.width, size.height))
            x, y = int(rng.integers(0, size.width - width + 1)), int(rng.integers(0, size.height - height + 1))
            part = self.analyse(
                Box(x, y, width, height),
                tile_px=TILES_PX[int(rng.integers(len(TILES_PX)))],
                shift=(int(rng.integers(0, 400)), int(rng.integers(0, 400))),
                threads=int(rng.integers(1, 3)),
                runner=int(rng.integers(len(self.runners))),
            )
            counts += differences(whole, part)
        return Agreement(
            slide=self.slide_id,
            pipeline=self.pipeline.name,
            mpp=self.mpp,
            own_level=min(abs(ratio - 1) for ratio in ratios) <= 0.05,
            regions=regions,
            whole=len(whole.instances),
            **dict(zip(_COUNTS, counts.tolist(), strict=True)),
            seconds=round(seconds, 2),
        )


_COUNTS: Final = ("cells", "missing", "extra", "other_class", "other_probabilities", "other_id")


def differences(whole: Analysis, part: Analysis) -> NDArray[np.int64]:
    """`_COUNTS` of a region against the whole slide."""
    inside = np.flatnonzero(part.region_l0.contains(whole.instances.centroids))
    first, second = _by_outline(whole), _by_outline(part)
    expected = {ring: place for ring, place in first.items() if place in set(inside.tolist())}
    shared = [(place, second[ring]) for ring, place in expected.items() if ring in second]
    ours, theirs = (np.array([pair[side] for pair in shared], np.int64) for side in (0, 1))
    other = np.zeros(len(shared), np.bool_)
    for one, two in zip(whole.instances.probabilities, part.instances.probabilities, strict=True):
        other |= (one[ours].view(np.uint32) != two[theirs].view(np.uint32)).any(axis=1)
    ids = [_ids(analysis) for analysis in (whole, part)]
    return np.array(
        [
            len(inside),
            len(expected) - len(shared),
            len(second) - len(shared),
            (whole.class_index[ours] != part.class_index[theirs]).sum(),
            other.sum(),
            sum(ids[0][place] != ids[1][there] for place, there in shared),
        ]
    )


def _by_outline(analysis: Analysis) -> dict[bytes, int]:
    cells = analysis.instances
    rings = np.split(cells.vertices, cells.offsets[1:-1])[: len(cells)]
    return {ring.tobytes(): place for place, ring in enumerate(rings)}


def _ids(analysis: Analysis) -> list[str]:
    text = b"".join(geojson.encode(analysis))
    return [feature["id"] for feature in json.loads(text)["features"]]


@contextmanager
def rendered_slides() -> Iterator[Path]:
    """A folder with rendered tissue: one level at 0.5 um/px, and levels at 0.25 and 1 um/px."""
    from slidecascade_render.liver.slides import write_slide
    from slidecascade_render.liver.tissue import TissueOptions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slide(folder / "rendered-20x.tiff", TissueOptions(seed=21, mpp=0.5), 1500, 1200, levels=1)
        write_slide(folder / "rendered-40x.tiff", TissueOptions(seed=22, mpp=0.25), 2500, 2000)
        yield folder


def measure(folder: Path, pipeline: str, *, regions: int, mpps: Sequence[float]) -> list[Agreement]:
    """Every slide of `folder` at the pixel size it states, and at those of `mpps` that its models can read."""
    packages = served_packages(read_settings(models_dir=bundled_models_dir()))
    local = LocalRunner(packages.values())
    batched = Batcher([local, local])
    store = SlideStore([folder], handles=2, max_listing=100)
    rows: list[Agreement] = []
    try:
        for path in sorted(item for item in folder.iterdir() if item.is_file() and can_open(item)):
            with store.open(path.name) as slide:
                stated, area = slide.mpp, slide.size_l0.area
            # The pixel sizes of label images and of others that were made small are not those of a microscope.
            for mpp in sorted({*mpps, *([stated] if stated and 0.2 <= stated <= 1.1 else ())}):
                bench = Bench(
                    load_pipelines(packages, None, (FILE,))[pipeline], store, path.name, mpp, (local, batched)
                )
                if area * (mpp / bench.pipeline.segmenter.mpp) ** 2 > MAX_WHOLE_PX:
                    continue
                rows.append(bench.agreement(regions=regions, seed=len(rows)))
                print(rows[-1], f"{rows[-1].same:.6f}", flush=True)
    finally:
        store.close()
        batched.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slides.regions", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "regions.json")
    parser.add_argument("--slides", type=Path, help="also the real slides of this folder")
    parser.add_argument("--regions", type=int, default=12, help="regions of each slide and pixel size")
    parser.add_argument("--pipeline", default="nash")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    with rendered_slides() as folder:
        rows = measure(folder, arguments.pipeline, regions=arguments.regions, mpps=MPPS)
    if arguments.slides is not None:
        rows += measure(arguments.slides, arguments.pipeline, regions=arguments.regions, mpps=MPPS)
    record.write(arguments.out, {"rows": [dataclasses.asdict(row) for row in rows]}, provenance)


if __name__ == "__main__":
    main()
