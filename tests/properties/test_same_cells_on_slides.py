"""Cells of a slide read through its pyramid are the same whatever the tiles and the threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidecascade.analysis.flow import analyse
from slidecascade.analysis.plan import RegionTask, known
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.geometry import Box
from slidecascade.slides.facts import compute_facts
from slidecascade.slides.source import Source
from slidecascade.slides.store import SlideStore
from slidecascade.timing import Silent
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions
from toy_pipeline import WHOLE_PX, ToyPipeline

SLIDE_ID = "liver.tiff"
REGIONS = (Box(0, 0, 1024, 768), Box(33, 51, 901, 640))
STATED_MPP = (0.5, 0.4, 0.125, 0.11)
"""The segmenter reads at 0.5: level 0 as it is, between the levels, level 1 as it is, and coarser than it."""


class SlideBench:
    """The toy pipeline over one pyramidal slide of rendered tissue, read through a store."""

    def __init__(self, folder: Path) -> None:
        self.toy = ToyPipeline(folder / "toy")
        slides = folder / "slides"
        slides.mkdir()
        write_slide(slides / SLIDE_ID, TissueOptions(seed=3, mpp=0.25), 1024, 768)
        self.store = SlideStore([slides], handles=1, max_listing=10)
        self.whole = cache(self._whole)

    def open_source(self, *, private: bool = False) -> AbstractContextManager[Source]:
        return self.store.open(SLIDE_ID, private=private)

    def run(
        self, region_l0: Box, mpp: float, *, tile_px: int, shift: tuple[int, int] = (0, 0), threads: int = 1
    ) -> Analysis:
        task = RegionTask(
            pipeline=self.toy.pipeline,
            open_source=self.open_source,
            region_l0=region_l0,
            mpp=mpp,
            coordinate_space="level0-pixels",
            find_facts=known(compute_facts(self.open_source)),
            thresholds={"toy-segmenter": 0.5, "toy-classifier": 0.0, "toy-second": 0.0},
            tile_px=tile_px,
            shift=shift,
        )
        with ThreadPoolExecutor(threads) as pool:
            return cells_of(
                analyse(
                    task,
                    runner=self.toy.runner,
                    pool=pool,
                    threads=threads,
                    control=Control(),
                    observer=Silent(),
                    progress=lambda done, total: None,
                )
            )

    def _whole(self, region_l0: Box, mpp: float) -> Analysis:
        return self.run(region_l0, mpp, tile_px=WHOLE_PX)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlideBench]:
    made = SlideBench(tmp_path_factory.mktemp("bench"))
    yield made
    made.store.close()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    region_l0=st.sampled_from(REGIONS),
    mpp=st.sampled_from(STATED_MPP),
    tile_px=st.integers(64, 400),
    shift=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    threads=st.sampled_from([1, 2]),
)
def test_slide_cells_are_the_same_in_any_tiling(
    bench: SlideBench, region_l0: Box, mpp: float, tile_px: int, shift: tuple[int, int], threads: int
) -> None:
    """Read from any level, with one handle shared by two threads: bit for bit the cells of one tile."""
    whole = bench.whole(region_l0, mpp)
    tiled = bench.run(region_l0, mpp, tile_px=tile_px, shift=shift, threads=threads)

    assert len(whole.instances) > 10
    np.testing.assert_array_equal(whole.instances.centroids, tiled.instances.centroids)
    np.testing.assert_array_equal(whole.instances.vertices, tiled.instances.vertices)
    np.testing.assert_array_equal(whole.instances.scores, tiled.instances.scores)
    np.testing.assert_array_equal(whole.class_index, tiled.class_index)
    np.testing.assert_array_equal(whole.tissue.mask, tiled.tissue.mask)
    for one, other in zip(whole.instances.probabilities, tiled.instances.probabilities, strict=True):
        np.testing.assert_array_equal(one, other)
