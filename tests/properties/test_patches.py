"""Patches: the lattice is the slide's, and a region has the squares whose middle lies in it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.errors import PipelineSpecError
from slidecascade.geometry import Box
from slidecascade.models.batches import batch_of
from slidecascade.models.tensors import Tensors
from slidecascade.patches.result import PatchesResult
from slidecascade.patches.tile import PatchesWork
from slidecascade.runners.runner import Runner
from toy_kinds import ToyKinds
from toy_pipeline import blobs

WIDTH, HEIGHT, STRIDE, CONTEXT = 410, 333, 16, 44


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyKinds:
    return ToyKinds(tmp_path_factory.mktemp("toy"))


def run(toy: ToyKinds, image: NDArray[np.uint8], **options: object) -> PatchesResult:
    found = toy.run("toy-patches", image, **options)  # type: ignore[arg-type]
    assert isinstance(found, PatchesResult)
    return found


def pictured(seed: int) -> NDArray[np.uint8]:
    image = blobs(seed, WIDTH, HEIGHT, 120)
    image[:, 300:380] = 255
    return image


def slow_probability(
    image: NDArray[np.uint8], column: int, row: int, *, clamp: bool = False, stride: int = STRIDE
) -> float:
    """Of one square: its context, white beyond the slide, through the network's formula."""
    start = math.floor((stride - CONTEXT) / 2 + 0.5)
    white = np.full((HEIGHT + 2 * CONTEXT, WIDTH + 2 * CONTEXT, 3), 255, np.uint8)
    white[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT] = image
    y, x = row * stride + start, column * stride + start
    if clamp:
        x, y = max(x, 0), max(y, 0)
    x, y = x + CONTEXT, y + CONTEXT
    return float(1 / (1 + np.exp(-0.1 * (128 - white[y : y + CONTEXT, x : x + CONTEXT].mean()))))


@st.composite
def regions(draw: st.DrawFn) -> Box:
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return Box(x, y, draw(st.integers(1, WIDTH - x)), draw(st.integers(1, HEIGHT - y)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    region_l0=regions(),
    mpp=st.sampled_from([0.5, 0.25, 0.31]),
    tile_px=st.none() | st.integers(64, 300),
    shift=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    threads=st.sampled_from([1, 2]),
)
def test_a_region_has_the_squares_of_the_slide_whose_middle_lies_in_it(
    toy: ToyKinds,
    seed: int,
    region_l0: Box,
    mpp: float,
    tile_px: int | None,
    shift: tuple[int, int],
    threads: int,
) -> None:
    """Bit for bit, in any tiling; the outlines are those of these squares."""
    image = pictured(seed)
    whole = run(toy, image, mpp=mpp)
    part = run(toy, image, mpp=mpp, region_l0=region_l0, tile_px=tile_px, shift=shift, threads=threads)

    rows, columns = whole.probabilities.shape[:2]
    side_l0 = STRIDE * whole.grid.downsample
    x, y = np.meshgrid((np.arange(columns) + 0.5) * side_l0, (np.arange(rows) + 0.5) * side_l0)
    inside = region_l0.contains(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(rows, columns)
    expected = np.where(inside[:, :, None], whole.probabilities, np.float32(np.nan))
    found = np.full_like(expected, np.nan)
    left, top = part.first
    height, width = part.probabilities.shape[:2]
    assert height * width == inside.sum()
    found[top : top + height, left : left + width] = part.probabilities
    np.testing.assert_array_equal(found, expected)
    assert part.outlines.squares.sum() == (part.probabilities >= part.threshold).sum()


def test_a_square_sees_its_context_and_white_beyond_the_slide(toy: ToyKinds) -> None:
    """Every square of a small slide against its own crop."""
    image = pictured(5)
    found = run(toy, image, tile_px=100)
    assert found.first == (0, 0)
    assert found.probabilities.shape == (round(HEIGHT / STRIDE), round(WIDTH / STRIDE), 1)
    rows, columns = np.nonzero(found.is_seen)
    assert 0 < len(rows) < found.is_seen.size
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        expected = slow_probability(image, column, row)
        assert found.probabilities[row, column, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("stride", [16, 24, 40])
@pytest.mark.parametrize("edge", ["white", "clamp"])
@pytest.mark.parametrize("tile_px", [64, 4096])
def test_contexts_at_the_edges_are_as_the_pipeline_says(
    tmp_path: Path, stride: int, edge: str, tile_px: int
) -> None:
    """White beyond the slide, or shifted to begin at it as the published code does; any stride, any tiling."""
    patch = {"context_px": CONTEXT, "stride_px": stride, "mpp": 0.5, "edge": edge}
    toy = ToyKinds(tmp_path, patches={"patch": patch})
    image = pictured(5)
    found = run(toy, image, tile_px=tile_px)
    rows, columns = np.nonzero(found.is_seen)
    assert {0} < set(rows.tolist())
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        expected = slow_probability(image, column, row, clamp=edge == "clamp", stride=stride)
        assert found.probabilities[row, column, 0] == pytest.approx(expected, abs=1e-4)


def test_a_stride_larger_than_the_context_is_rejected(tmp_path: Path) -> None:
    """Parts of squares would be seen by nobody."""
    with pytest.raises(PipelineSpecError, match="stride_px is 64 and context_px 44"):
        ToyKinds(tmp_path, patches={"patch": {"context_px": CONTEXT, "stride_px": 64, "mpp": 0.5}})


class Counting:
    """A runner that counts the images it is given."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.images = 0

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.images += batch_of(inputs)
        return self._runner.run(model, inputs)

    def close(self) -> None:
        """Nothing: the runner is another's."""


def test_only_the_squares_of_a_region_are_looked_at(toy: ToyKinds) -> None:
    """Those of the same tile whose middle is elsewhere cost nothing."""
    counting = Counting(toy.runner)
    found = run(toy, pictured(3), region_l0=Box(33, 40, 50, 70), runner=counting)
    assert counting.images == found.is_seen.sum() > 6


def test_glass_is_not_looked_at(toy: ToyKinds) -> None:
    """Squares in the middle of glass have no probability, and none are outlined."""
    found = run(toy, np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    assert not found.is_seen.any()
    assert len(found.outlines) == 0
    assert found.counts == {"Dark": 0}


def test_the_published_contexts_start_85_pixels_before_their_squares() -> None:
    """299 px around the middle of 128: the square at (128x, 128y) is seen from (128x - 85, 128y - 85) on."""

    class Lattice(PatchesWork):
        def __init__(self, stride_px: int, context_px: int) -> None:
            fields = {"stride_px": stride_px, "context_px": context_px, "edge": "white"}
            pipeline = type("Geometry", (), fields)
            object.__setattr__(self, "pipeline", pipeline)

    assert Lattice(128, 299).start_px == -85
    assert Lattice(128, 299).halo_px == 128
    assert Lattice(256, 256).start_px == 0
    assert Lattice(64, 32).start_px == 16


def test_outlines_have_holes_and_end_at_the_slide(toy: ToyKinds) -> None:
    """A dark frame is one outline with a hole; where the last squares reach beyond the slide, they are cut."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[160:] = 0
    image[:, 200:] = 0
    image[220:300, 260:360] = (230, 190, 210)
    found = run(toy, image)
    assert len(found.outlines) == 1
    assert np.diff(found.outlines.rings.piece_offsets).tolist() == [2]
    assert (
        found.outlines.rings.vertices.max(axis=0).tolist() == [WIDTH, HEIGHT]
        or (found.outlines.rings.vertices.max(axis=0) <= (WIDTH, HEIGHT)).all()
    )
