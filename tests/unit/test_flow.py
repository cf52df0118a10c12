"""Every tile accounted for: retries, failures, partial answers, deadlines, cancellation, background."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from slidecascade.cancellation import Control
from slidecascade.errors import (
    CancelledError,
    DeadlineExceededError,
    ModelFailedError,
    TilesFailedError,
    UnreadableSlideError,
)
from slidecascade.models.tensors import Tensors
from slidecascade.runners.runner import Runner
from slidecascade.slides.source import Source
from slidecascade.slides.upload import RegionImage
from slidecascade.timing import Silent
from toy_pipeline import BACKGROUND, WHOLE_PX, ToyPipeline, blobs

SIDE_PX = 512
TILE_PX = 256


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return blobs(1, SIDE_PX, SIDE_PX, 60)


class Failing:
    """A runner whose segmenter fails on given calls."""

    def __init__(self, runner: Runner, failing_calls: set[int], error: Exception) -> None:
        self._runner = runner
        self._failing = failing_calls
        self._error = error
        self._lock = threading.Lock()
        self.calls = 0

    def run(self, model: str, inputs: Tensors) -> Tensors:
        if model == "toy-segmenter":
            with self._lock:
                call, self.calls = self.calls, self.calls + 1
            if call in self._failing:
                raise self._error
        return self._runner.run(model, inputs)

    def close(self) -> None: ...


class Counting(Silent):
    """An observer that adds up."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.warned: Counter[str] = Counter()
        self.stages: set[str] = set()

    def stage(self, name: str, seconds: float) -> None:
        self.stages.add(name)

    def tiles(self, outcome: str, count: int) -> None:
        self.outcomes[outcome] += count

    def cells(self, pipeline: str, class_name: str, count: int) -> None:
        self.found[class_name] += count

    def warning(self, code: str) -> None:
        self.warned[code] += 1


FAULT = ModelFailedError("The toy failed.")


def test_a_tile_that_fails_once_is_done_again(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """One hiccup changes nothing but the count of retries."""
    observer = Counting()
    runner = Failing(toy.runner, {1}, FAULT)
    analysis = toy.run(image, tile_px=TILE_PX, runner=runner, observer=observer)

    assert runner.calls == 5
    assert analysis.tiles.failed == ()
    assert observer.outcomes == {"done": 4, "retried": 1, "background": 0, "failed": 0}
    assert sum(observer.found.values()) == len(analysis.instances) == len(toy.run(image).instances)
    assert observer.stages >= {"read", "segment", "decode", "classify", "collect"}


def test_a_tile_that_fails_twice_is_an_error_that_lists_it(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """Without allow_partial there is no result; the error has the tile's position in level-0 pixels."""
    with pytest.raises(TilesFailedError, match="1 of 4 tiles") as caught:
        toy.run(image, tile_px=TILE_PX, runner=Failing(toy.runner, {1, 2}, FAULT))
    assert caught.value.tiles == (((256, 0, 256, 256), "model-failed: The toy failed."),)


def test_a_partial_answer_lists_what_is_missing(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """With allow_partial the other tiles' cells are there, and the failed tile has no tissue."""
    analysis = toy.run(image, tile_px=TILE_PX, runner=Failing(toy.runner, {1, 2}, FAULT), allow_partial=True)

    assert [tile.core_l0.as_tuple() for tile in analysis.tiles.failed] == [(256, 0, 256, 256)]
    assert analysis.tiles.total == 4
    assert 0 < len(analysis.instances) < len(toy.run(image).instances)
    assert not analysis.tissue.mask[:32, 32:].any()


def test_when_every_tile_fails_the_cause_is_raised(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """A model that never works is model-failed, even when a partial answer was allowed."""
    broken = Failing(toy.runner, set(range(100)), FAULT)
    with pytest.raises(ModelFailedError, match="The toy failed"):
        toy.run(image, tile_px=TILE_PX, runner=broken, allow_partial=True)


def test_an_unexpected_fault_is_that_tiles_failure(
    toy: ToyPipeline, image: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a tile is logged, and reported without details."""
    runner = Failing(toy.runner, {0, 1}, ZeroDivisionError("secret detail"))
    with pytest.raises(TilesFailedError) as caught:
        toy.run(image, tile_px=TILE_PX, runner=runner)
    assert "secret" not in caught.value.tiles[0][1]
    assert "a tile failed unexpectedly" in caplog.text


def test_a_slide_that_breaks_is_opened_again(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """The retry gets a fresh source; a slide no tile can read is unreadable-slide."""
    source = RegionImage(image)
    opened = 0
    retried: list[bool] = []

    @contextmanager
    def breaks_once(*, private: bool = False) -> Iterator[Source]:
        nonlocal opened
        opened += not private
        retried.append(private)
        if not private and opened == 3:
            raise UnreadableSlideError("The slide cannot be read.")
        yield source

    analysis = toy.run(image, tile_px=TILE_PX, open_source=breaks_once)
    assert analysis.tiles.failed == ()
    assert opened == 6  # once for its facts, once for its grids, once a tile
    assert sum(retried) == 2  # for the samples, and for the tile that failed


def test_the_deadline_stops_the_work(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """Nothing of a region whose time is over is computed further."""
    runner = Failing(toy.runner, set(), FAULT)
    with pytest.raises(DeadlineExceededError):
        toy.run(image, tile_px=TILE_PX, runner=runner, control=Control(deadline_s=1e-9))
    assert runner.calls == 0


def test_cancelling_stops_the_work(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """After a client disconnect the remaining tiles are not run."""
    control = Control()
    runner = Failing(toy.runner, set(), FAULT)
    with pytest.raises(CancelledError):
        toy.run(image, tile_px=64, control=control, runner=runner, progress=lambda done, total: control.cancel())
    assert runner.calls < 64 / 2


def test_progress_counts_every_tile(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """From one to all."""
    seen: list[tuple[int, int]] = []
    toy.run(image, tile_px=TILE_PX, threads=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_glass_is_skipped_and_counted(toy: ToyPipeline, image: NDArray[np.uint8]) -> None:
    """Tiles of glass never reach the network, and the tissue's area does not include them."""
    half_glass = image.copy()
    half_glass[:, 256:] = 246
    runner = Failing(toy.runner, set(), FAULT)
    analysis = toy.run(half_glass, tile_px=128, runner=runner)

    assert analysis.tiles.total == 16
    assert analysis.tiles.background == 4
    assert runner.calls == 12
    assert 0.5 <= analysis.tissue.mask.mean() <= 0.55


def test_an_image_of_glass_has_no_cells(toy: ToyPipeline) -> None:
    """All background is an answer, not an error."""
    analysis = toy.run(np.full((100, 100, 3), 245, np.uint8))
    assert len(analysis.instances) == 0
    assert analysis.tiles.background == analysis.tiles.total == 1


@pytest.mark.parametrize("side", [1, 7, 40])
def test_tiny_images_are_analysed(toy: ToyPipeline, side: int) -> None:
    """An image smaller than a halo, down to one pixel."""
    assert toy.run(np.full((side, side, 3), 120, np.uint8)).tiles.total == 1


def test_an_object_longer_than_the_halo_is_one_cell(toy: ToyPipeline) -> None:
    """The tile that meets it looks again with a doubled halo; it is neither cut nor multiplied."""
    image = np.full((SIDE_PX, SIDE_PX, 3), BACKGROUND, np.uint8)
    image[250:262, 231:281] = 40  # across four tiles, longer than the halo of 32 px
    for tile_px in (64, 128, 256, WHOLE_PX):
        assert toy.run(image, tile_px=tile_px).instances.areas.tolist() == [600.0]


def test_what_is_longer_than_any_cell_is_dropped_in_every_tiling(toy: ToyPipeline) -> None:
    """A fold or a pen mark gives no cells, whole or in pieces."""
    image = np.full((SIDE_PX, SIDE_PX, 3), BACKGROUND, np.uint8)
    image[100:140, 20:480] = 40
    for tile_px in (64, 128, 256, WHOLE_PX):
        assert len(toy.run(image, tile_px=tile_px).instances) == 0
