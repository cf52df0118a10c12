"""Figures: maps and outlines over the tissue with all that is needed to read them."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.geometry import Box
from slidecascade.outputs import figure
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, counted
from slidecascade.outputs.figure import Overviewed
from slidecascade.outputs.patches.encoders import ANSWERS, ENCODERS
from slidecascade.patches.result import PatchesResult
from slidecascade.wire import PNG
from toy_kinds import TISSUE, ToyKinds

WIDTH, HEIGHT = 300, 260
LEFT, TOP = 28, 28 + 26 + 14 + 20
"""Where the picture of the region lies in a figure."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> PatchesResult:
    found = ToyKinds(tmp_path_factory.mktemp("toy")).run("toy-patches", image())
    assert isinstance(found, PatchesResult)
    return found


def image() -> NDArray[np.uint8]:
    """Tissue, a black corner, and glass."""
    picture = np.full((HEIGHT, WIDTH, 3), TISSUE, np.uint8)
    picture[128:, 128:] = 0
    picture[:, :64] = 255
    return picture


def opened(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1]


def overview(side_px: int) -> tuple[NDArray[np.uint8], float]:
    assert side_px >= max(WIDTH, HEIGHT)
    return image(), 1.0


def drawn(result: PatchesResult, colormap: Colormap = Colormap.VIRIDIS) -> NDArray[np.uint8]:
    shown = Overviewed(image(), 1.0)
    return opened(figure.map_figure(result, ANSWERS.named(result, None), shown, counted(result), colormap))


def at(page: NDArray[np.uint8], x: int, y: int) -> NDArray[np.uint8]:
    """The colour of a pixel of the slide in a figure whose region is 700 px wide."""
    scale = figure.SHORTEST_PX / WIDTH
    found: NDArray[np.uint8] = page[TOP + round((y + 0.5) * scale), LEFT + round((x + 0.5) * scale)]
    return found


def test_a_map_is_shown_over_the_tissue_and_glass_stays(result: PatchesResult) -> None:
    """Where the classifier looked there are the colours of the map, shaded; glass is as in the slide."""
    page = drawn(result)
    assert at(page, 20, 200).tolist() == [255, 255, 255]
    low, high = Colormap.VIRIDIS.colors()[[0, 255]].astype(np.float64)
    normal, dark = at(page, 100, 40).astype(np.float64), at(page, 220, 200).astype(np.float64)
    assert np.abs(normal - low).max() < 25
    np.testing.assert_allclose(dark / high, 1 - figure.RELIEF, atol=0.03)


def test_signal_brightens_the_map_of_a_dark_slide(result: PatchesResult) -> None:
    """Blank places have the colours of the bar."""
    dark = replace(result, facts=replace(result.facts, dark_field=True))
    page = drawn(dark)
    high = Colormap.VIRIDIS.colors()[255].astype(np.float64)
    np.testing.assert_allclose(at(page, 220, 200), high, atol=3)


def test_the_bar_has_all_colours_of_the_scale(result: PatchesResult) -> None:
    """From the highest at its top to the lowest at its end."""
    page = drawn(result, Colormap.JET)
    column = page[:, LEFT + figure.SHORTEST_PX + 14 + 10]
    colors = Colormap.JET.colors()
    matches = [(column == color).all(axis=1).any() for color in colors[::5]]
    assert np.mean(matches) > 0.95
    first, last = ((column == color).all(axis=1).nonzero()[0] for color in colors[[255, 0]])
    assert first.min() < last.max()


def test_the_scale_bar_is_as_long_as_it_says(result: PatchesResult) -> None:
    """The longest of 1, 2, 5, 10, ... um that fits into a fifth of the picture."""
    page = drawn(result)
    below = TOP + round(HEIGHT * figure.SHORTEST_PX / WIDTH) + 14
    ink = (page[below + 9, :] == (28, 28, 32)).all(axis=1)
    um = np.argmin(ink[LEFT:]) * WIDTH * 0.5 / figure.SHORTEST_PX
    assert um == pytest.approx(20, abs=0.5)


def test_figures_are_files_for_every_map_and_the_outlines(result: PatchesResult) -> None:
    """A heatmap in the colours asked for and in jet; the notice is in the file too."""
    drawing = Drawing(colormap=Colormap.MAGMA)
    names = [name for name, _ in ENCODERS.files(result, overview, drawing).small if name.startswith("figures/")]
    assert names == ["figures/dark.png", "figures/dark_jet.png", "figures/overlay.png"]
    once = Drawing(colormap=Colormap.JET)
    names = [name for name, _ in ENCODERS.files(result, overview, once).small if name.startswith("figures/")]
    assert names == ["figures/dark.png", "figures/overlay.png"]


def test_what_needs_no_tissue_does_not_read_it(result: PatchesResult) -> None:
    """Without overlay and figures the region's pixels are not read again, and tables stay."""

    def unread(_max_side_px: int) -> NoReturn:
        raise AssertionError("the overview was read")

    lean = Drawing(without=frozenset({"overlay", "figures"}))
    names = [name for name, _ in ENCODERS.files(result, unread, lean).small]
    assert names == ["summary.json", "heatmaps/dark.png", "grid.csv", "grid.npy", "grid.tiff"]


@pytest.mark.parametrize("style", ["map", "figure"])
def test_a_picture_is_bare_or_a_figure(result: PatchesResult, style: str) -> None:
    """As the drawing says."""
    drawing = Drawing(style="figure" if style == "figure" else "map")
    data = b"".join(ENCODERS.encode(PNG, result, overview, drawing))
    assert wire.RESEARCH_USE_ONLY.encode() in data
    side = opened(data).shape[1]
    assert (side > figure.SHORTEST_PX) == (style == "figure")


@pytest.mark.parametrize(("width", "height"), [(3, 2), (4000, 10), (10, 4000), (5000, 5000)])
def test_every_shape_of_region_has_a_figure(result: PatchesResult, width: int, height: int) -> None:
    """Text stays on the page however narrow the region."""
    narrow = replace(result, region_l0=Box(0, 0, width, height))
    picture = Overviewed(np.full((height, width, 3), 200, np.uint8), 1.0)
    item = ANSWERS.named(result, None) if width > WIDTH and height > HEIGHT else None
    data = (
        figure.outline_figure(narrow, picture, counted(narrow))
        if item is None
        else figure.map_figure(narrow, item, picture, counted(narrow), Colormap.VIRIDIS)
    )
    page = opened(data)
    assert page.shape[1] >= 300
    assert (page[:, -5:] == 255).all()
