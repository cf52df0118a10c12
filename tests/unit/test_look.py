"""What is decided in a look, and how the rest is looked at again."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidecascade.cells.look import Decoding, Look, look_at
from slidecascade.cells.second_look import SQUARE_PX, SecondLook, Seen
from slidecascade.geometry import Box
from slidecascade.heads.unet import OUTPUTS, UNET, UnetOptions
from toy_heads import STARS, StarsOptions

SIDE_PX = 640
EXTENT = Box(0, 0, SIDE_PX, SIDE_PX)
RECEPTIVE_PX = 16
DECODING = Decoding(
    head=UNET,
    outputs=OUTPUTS,
    options=UnetOptions(min_area_um2=1.0),
    mpp=0.5,
    receptive_px=RECEPTIVE_PX,
    max_cell_px=10_000,
)


class Plane:
    """Maps of a whole slide, and looks at parts of it whose maps are wrong where the receptive field was cut."""

    def __init__(self, maps: NDArray[np.uint8]) -> None:
        self.maps = maps
        self.read: list[Box] = []

    def look(self, box: Box) -> Look:
        self.read.append(box)
        maps = self.maps[box.y : box.bottom, box.x : box.right].copy()
        noise = np.random.default_rng(len(self.read)).integers(0, 256, maps.shape, np.uint8)
        inside = np.zeros(maps.shape[:2], np.bool_)
        left, top = (RECEPTIVE_PX if start > 0 else 0 for start in (box.x, box.y))
        right, bottom = (RECEPTIVE_PX if end < SIDE_PX else 0 for end in (box.right, box.bottom))
        inside[top : box.height - bottom, left : box.width - right] = True
        return look_at({"maps": np.where(inside[..., None], maps, noise)}, box, EXTENT, DECODING)

    def cells(self, box: Box, most_px: int = 10**9) -> dict[bytes, tuple[float, float]]:
        """Outlines of the cells with a centroid in `box`, found from a read box with a margin of 48 px."""
        whole = Box(0, 0, SIDE_PX, SIDE_PX)
        first = Seen.nothing_of(self.look(box.inflated(48).clipped(whole)))
        again = SecondLook(
            look=self.look, whole=whole, aligned_to=8, margin_px=DECODING.margin_px, most_px=most_px
        )
        found: dict[bytes, tuple[float, float]] = {}
        for seen in again.settle(first, box):
            cells = seen.look.cells(seen.wanted, reach=box, min_area_px=4)
            for place, ring in enumerate(np.split(cells.vertices, cells.offsets[1:-1])[: len(cells)]):
                assert ring.tobytes() not in found
                found[ring.tobytes()] = tuple(cells.centroids[place].tolist())
        return found


def chains(seed: int, count: int, links: int) -> NDArray[np.uint8]:
    """Maps of chains of touching discs, each with an interior of its own."""
    rng = np.random.default_rng(seed)
    foreground, interior = (np.zeros((SIDE_PX, SIDE_PX), np.uint8) for _ in range(2))
    for _ in range(count):
        centre, angle = rng.uniform(0, SIDE_PX, 2), rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(1, links + 1))):
            radius = int(rng.integers(5, 12))
            x, y = (int(value) for value in centre)
            cv2.circle(foreground, (x, y), radius, 200, -1)
            cv2.circle(interior, (x, y), max(2, radius - 4), 220, -1)
            angle += rng.uniform(-0.5, 0.5)
            centre = centre + 1.7 * radius * np.array([np.cos(angle), np.sin(angle)])
    return np.dstack([foreground, interior])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(5, 60), links=st.sampled_from([1, 4, 12]))
def test_parts_of_a_plane_have_the_cells_of_the_plane(seed: int, count: int, links: int) -> None:
    """Whatever the maps are where the receptive field was cut: each part has the whole's cells, bit for bit."""
    plane = Plane(chains(seed, count, links))
    whole = plane.cells(EXTENT)
    found: dict[bytes, tuple[float, float]] = {}
    for y in range(0, SIDE_PX, 160):
        for x in range(0, SIDE_PX, 160):
            part = plane.cells(Box(x, y, 160, 160))
            assert not found.keys() & part.keys()
            found |= part
    assert found == whole


def test_what_ends_inside_is_decided_at_once() -> None:
    """Isolated cells cost no second look."""
    disc = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.circle(disc, (300, 300), 9, 200, -1)
    plane = Plane(np.dstack([disc, disc]))

    assert len(plane.cells(Box(240, 240, 160, 160))) == 1
    assert len(plane.read) == 1


def test_a_neighbour_of_what_is_cut_is_looked_at_again() -> None:
    """A cell in the middle of a chain that leaves the box is not decided, one beyond the next link is."""
    discs = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    interior = np.zeros_like(discs)
    for x in range(200, 400, 18):
        cv2.circle(discs, (x, 300), 10, 200, -1)
        cv2.circle(interior, (x, 300), 5, 220, -1)
    look = Plane(np.dstack([discs, interior])).look(Box(240, 240, 160, 160))

    is_open, cut = look.open(), look.cut()
    assert cut.sum() == 2
    assert is_open.sum() > cut.sum()
    assert not is_open.all()
    assert is_open[cut].all()


def test_an_object_longer_than_the_largest_square_ends_the_search() -> None:
    """A pen stroke across the slide costs one look more a tile and is not taken where it is cut."""
    stroke = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    stroke[290:310] = 220
    plane = Plane(np.dstack([stroke, stroke]))

    assert plane.cells(Box(240, 240, 160, 160)) == {}
    assert len(plane.read) <= 1 + len(SQUARE_PX)


def test_there_is_an_end_to_looking_again() -> None:
    """Beyond so many pixels what is left is taken as the tile shows it, and nothing twice."""
    plane = Plane(chains(5, 250, 12))
    everything = plane.cells(Box(240, 240, 160, 160))
    looks = len(plane.read)
    plane.read.clear()

    some = plane.cells(Box(240, 240, 160, 160), most_px=2 * 192**2)
    assert 1 < len(plane.read) < looks
    assert len(some.keys() & everything.keys()) > 0.7 * len(everything)


@pytest.mark.parametrize("corner", [(0, 0), (480, 480), (0, 480)])
def test_squares_stay_in_the_slide(corner: tuple[int, int]) -> None:
    """At the slide's edges the squares are moved inside, on the lattice."""
    plane = Plane(chains(3, 80, 12))
    plane.cells(Box(*corner, 160, 160))
    assert all(EXTENT.encloses(box) and box.x % 8 == box.y % 8 == 0 for box in plane.read)


def test_a_polygon_is_decided_only_where_its_competitors_are_seen() -> None:
    """Its own extent ends inside; but so near the side a better one may lie beyond, as it does here."""
    maps = np.zeros((200, 200, 2), np.uint8)
    maps[100, 94], maps[100, 100] = 251, 255  # radii of 6 px both
    decoding = replace(DECODING, head=STARS, options=StarsOptions(overlap=0.55, min_area_um2=1.0), receptive_px=0)

    near = look_at({"maps": maps[:, :99]}, Box(0, 0, 99, 200), EXTENT, decoding)
    far = look_at({"maps": maps}, Box(0, 0, 200, 200), EXTENT, decoding)

    assert (len(near.objects), near.count, near.open().tolist()) == (1, 1, [True])
    assert (len(far.objects), far.count, far.open().tolist()) == (1, 1, [False])
    assert far.cells(~far.open(), reach=EXTENT, min_area_px=1).centroids.tolist() == [[100.5, 100.5]]
    assert len(near.cells(~near.open(), reach=EXTENT, min_area_px=1)) == 0
