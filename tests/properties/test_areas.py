"""Areas: those of a region are what the whole slide has there, in any tiling."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.areas.result import AreasResult
from slidecascade.geometry import Box
from toy_kinds import ToyKinds, coloured, filled

WIDTH, HEIGHT = 420, 340
SMALLEST_UM2 = 30.0


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyKinds:
    return ToyKinds(tmp_path_factory.mktemp("toy"), areas={"min_area_um2": SMALLEST_UM2})


def run(toy: ToyKinds, image: NDArray[np.uint8], **options: object) -> AreasResult:
    found = toy.run("toy-areas", image, **options)  # type: ignore[arg-type]
    assert isinstance(found, AreasResult)
    return found


def pieces(mask: NDArray[np.uint8]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Class and pixels of every piece, from the whole mask at once."""
    found = []
    for number in range(1, int(mask.max(initial=0)) + 1):
        count, labels = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=4)
        found += [(number, labels == label) for label in range(1, count)]
    return found


def label_image(result: AreasResult) -> NDArray[np.int64]:
    """The areas of the region, numbered from 1."""
    image = np.zeros((result.box.height, result.box.width), np.int64)
    for number in range(len(result.rings)):
        image[result.runs.take(result.runs.labels == number).painted(result.box)] = number + 1
    return image


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
def test_the_mask_of_a_region_is_that_of_the_slide(
    toy: ToyKinds,
    seed: int,
    region_l0: Box,
    mpp: float,
    tile_px: int | None,
    shift: tuple[int, int],
    threads: int,
) -> None:
    """Bit for bit, small areas that the region's edge cuts included; its areas are the pieces of that mask."""
    image = coloured(seed, WIDTH, HEIGHT, 12)
    whole = run(toy, image, mpp=mpp)
    part = run(toy, image, mpp=mpp, region_l0=region_l0, tile_px=tile_px, shift=shift, threads=threads)

    box = part.box
    assert box == part.box.clipped(whole.box)
    expected = whole.mask[box.y : box.bottom, box.x : box.right]
    np.testing.assert_array_equal(part.mask, expected)
    found = pieces(expected)
    assert len(found) == len(part.rings) == len(part.class_index)
    for number, pixels in found:
        label = label_image(part)[pixels]
        assert (label == label[0]).all()
        assert part.areas_px[label[0] - 1] == pixels.sum() == (label_image(part) == label[0]).sum()
        assert part.class_index[label[0] - 1] == number - 1


def test_an_area_larger_than_any_tile_is_one_with_its_holes(toy: ToyKinds) -> None:
    """A frame over many tiles has one outer ring and one hole, and holds exactly the pixels of the mask."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[20:300, 20:380] = (230, 40, 40)
    image[60:260, 60:340] = (230, 190, 210)
    found = run(toy, image, tile_px=64)
    assert found.counts == {"Red": 1, "Green": 0}
    assert np.diff(found.rings.piece_offsets).tolist() == [2]
    assert (filled(found.rings, 0, (HEIGHT, WIDTH)) == (found.mask == 1)).all()
    assert found.areas_px.tolist() == [280 * 360 - 200 * 280]
    assert found.pixels == {"Red": 280 * 360 - 200 * 280, "Green": 0}


def test_whether_an_area_is_small_is_a_matter_of_the_slide(toy: ToyKinds) -> None:
    """The corner of a large area stays in a region that shows ten pixels of it; a small one is removed in both."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[100:140, 100:140] = (230, 40, 40)
    image[200:205, 200:205] = (40, 210, 40)
    part = run(toy, image, region_l0=Box(60, 60, 42, 45))
    assert part.areas_px.tolist() == [10]
    assert run(toy, image).counts == {"Red": 1, "Green": 0}
    # The region ends where tiles end, too: what lies beyond is read for this alone.
    image[100:140, 100:140] = (230, 190, 210)
    image[100:140, 126:166] = (230, 40, 40)
    assert run(toy, image, region_l0=Box(60, 60, 68, 45)).areas_px.tolist() == [10]


def test_without_tissue_no_areas_are_found(toy: ToyKinds) -> None:
    """Squares of glass are blank whatever the network finds there, in any tiling."""
    image = np.full((HEIGHT, WIDTH, 3), (255, 240, 240), np.uint8)  # glass, and a little red
    image[30:60, 30:60] = (230, 40, 40)
    thresholds = {"toy-mask": 0.1}
    whole = run(toy, image, thresholds=thresholds)
    tiled = run(toy, image, thresholds=thresholds, tile_px=64, region_l0=Box(0, 0, 300, 130))
    assert whole.pixels["Red"] == 128 * 128
    np.testing.assert_array_equal(tiled.mask, whole.mask[:130, :300])


def test_areas_are_in_level0_pixels(toy: ToyKinds) -> None:
    """Outlines of a network that reads at half of level 0's resolution."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[100:180, 60:140] = (40, 210, 40)
    found = run(toy, image, mpp=0.25)
    assert found.grid.downsample == 2
    assert found.rings.vertices.tolist() == [[60, 100], [140, 100], [140, 180], [60, 180]] or sorted(
        found.rings.vertices.tolist()
    ) == [[60, 100], [60, 180], [140, 100], [140, 180]]


def test_classes_may_overlap(tmp_path: Path) -> None:
    """A network of sigmoids: each class by itself, in any tiling, with a bit each in the mask."""
    toy = ToyKinds(tmp_path, mask={"head": "overlapping"})
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[40:200, 40:300] = (230, 40, 40)
    image[100:260, 200:380] = (40, 210, 40)
    image[100:200, 200:300] = (230, 230, 20)  # red and green both
    found = run(toy, image)
    assert found.counts == {"Red": 1, "Green": 1}
    assert found.pixels == {"Red": 160 * 260, "Green": 160 * 180}
    assert (found.mask[150, 250], found.mask[150, 50], found.mask[250, 350], found.mask[5, 5]) == (3, 1, 2, 0)
    assert sorted(found.rings.vertices.tolist()[:4]) == [[40, 40], [40, 200], [300, 40], [300, 200]]
    tiled = run(toy, image, tile_px=128, shift=(64, 32))
    for name in ("columns", "tops", "bottoms", "labels"):
        np.testing.assert_array_equal(getattr(tiled.runs, name), getattr(found.runs, name))
    np.testing.assert_array_equal(tiled.probabilities, found.probabilities)


def test_areas_state_their_mean_probability(toy: ToyKinds) -> None:
    """The mean over their own pixels, of their own class, whatever the tiling."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[20:60, 20:60], image[20:60, 40:60] = (230, 150, 150), (230, 80, 80)
    found = run(toy, image)
    maps = np.clip(4 * (image.astype(np.float32) - image.mean(axis=2, keepdims=True)), 0, 255).astype(np.uint8)
    assert found.counts == {"Red": 1, "Green": 0}
    assert found.probabilities[0] == pytest.approx(maps[20:60, 20:60, 0].mean() / 255, abs=1e-9)
    tiled = run(toy, image, tile_px=64, shift=(30, 40))
    np.testing.assert_array_equal(tiled.probabilities, found.probabilities)
