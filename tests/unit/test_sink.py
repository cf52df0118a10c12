"""Tiles go to a sink one by one and are not kept by the flow."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from slidecascade.cells import arrow
from slidecascade.cells.sink import CellsSink
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box
from slidecascade.kinds.table import KINDS, Kind, table
from slidecascade.kinds.tile_result import TileFailure
from toy_pipeline import ToyPipeline, blobs

SIDE_PX, TILE_PX = 512, 128


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


def kinds_with(sink: type[CellsSink]) -> Mapping[str, Kind]:
    """The kinds of pipeline, with another sink for cells."""
    return table(replace(KINDS["cells"], sink=sink))


class Through(CellsSink):
    """A memory sink behind a stream: what it takes was written and read again."""

    def take(self, result: TileResult, /) -> None:
        super().take(arrow.decode(arrow.encode(result)))


def test_results_that_were_written_and_read_give_the_same_analysis(toy: ToyPipeline) -> None:
    """All that an analysis is made of is in the streams of its tiles."""
    image = blobs(4, SIDE_PX, SIDE_PX, 120)
    direct = toy.run(image, tile_px=TILE_PX)
    through = toy.run(image, tile_px=TILE_PX, kinds=kinds_with(Through))

    assert len(direct.instances) > 20
    np.testing.assert_array_equal(direct.instances.vertices, through.instances.vertices)
    np.testing.assert_array_equal(direct.class_index, through.class_index)
    np.testing.assert_array_equal(direct.tissue.mask, through.tissue.mask)
    assert direct.tiles == through.tiles


def test_the_flow_keeps_no_tile(toy: ToyPipeline) -> None:
    """A sink that writes tiles down and forgets them is all the memory a whole slide takes."""
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Forgetful(CellsSink):
        def take(self, result: TileResult, /) -> None:
            nonlocal most
            alive.append(weakref.ref(result.cells.vertices))
            del result
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))

    analysis = toy.run(blobs(4, SIDE_PX, SIDE_PX, 120), tile_px=TILE_PX, kinds=kinds_with(Forgetful))

    assert len(alive) > 9
    assert len(analysis.instances) == 0
    assert most <= 2


def test_tiles_are_taken_in_reading_order(toy: ToyPipeline) -> None:
    """Whatever thread is faster."""
    order: list[int] = []

    class Ordered(CellsSink):
        def take(self, result: TileResult, /) -> None:
            order.append(result.index)

    toy.run(blobs(4, SIDE_PX, SIDE_PX, 120), tile_px=TILE_PX, threads=4, kinds=kinds_with(Ordered))
    assert order == list(range(len(order)))


def test_failures_and_background_are_accounted_for(toy: ToyPipeline) -> None:
    """Each tile is in the report once; a failed one by its place in level-0 pixels, inside the region."""
    grid = toy.run(np.full((64, 64, 3), 255, np.uint8)).models[0].grid
    sink = CellsSink(toy.pipeline, Box(3, 3, 50, 50), grid)
    tissue, nothing = np.ones((4, 8), np.bool_), np.zeros(0, np.bool_)
    cells = sink.cells()
    sink.take(TileResult(0, Box(0, 0, 64, 32), ~tissue, cells, nothing, nothing, unstored_px=0.0))
    sink.fail(TileFailure(1, Box(0, 32, 64, 32), "model-failed: it did"))

    report = sink.account().tiles
    assert (report.total, report.background) == (2, 1)
    assert [(item.core_l0, item.reason) for item in report.failed] == [
        (Box(3, 32, 50, 21), "model-failed: it did")
    ]
    assert not sink.tissue().mask.any()
