"""Pictures for people: a map or outlines over the tissue, with title, colour bar, scale bar and counts.

A heatmap's PNG is bare, so that a program can lay it over the slide. A figure is to be looked at by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from slidecascade import wire
from slidecascade.kinds.result import RegionResult
from slidecascade.outputs import png
from slidecascade.outputs.caption import Counted
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.page import (
    FAINT,
    FRAME,
    GAP_PX,
    INK,
    LEGEND_ROW_PX,
    MARGIN_PX,
    PAPER,
    SMALL_PT,
    TITLE_PT,
    draw_legend,
    draw_scale,
    legend_rows,
    width_px,
    write,
)
from slidecascade.outputs.provenance import area_fractions

Rgb = NDArray[np.uint8]

LONGEST_PX: Final = 1400
"""Longest side of the map in a figure."""

SHORTEST_PX: Final = 700
"""A smaller region is enlarged until its longer side has so many pixels."""

RELIEF: Final = 0.7
"""How far stain darkens, or signal brightens, the colours of a map."""

_BRIGHTEST: Final = 99.5
"""Percentile of the grey levels of a dark slide that counts as full signal."""

_BAR_PX, _BAR_TEXT_PX = 20, 92


@dataclass(frozen=True, slots=True)
class Overviewed:
    """The region in pixels: ``(H, W, 3)`` uint8 RGB, and level-0 pixels for each."""

    image: Rgb
    downsample: float


def figures(
    result: RegionResult,
    maps: Sequence[Heatmap],
    overview: Overviewed,
    *,
    outlined: Rgb,
    counts: Sequence[Counted],
    colormaps: Sequence[Colormap],
) -> Iterator[tuple[str, bytes]]:
    """``figures/NAME.png`` for each map, the first of `colormaps` without its name, and ``figures/overlay.png``.

    Args:
        outlined: `overview`'s image with outlines drawn on it.
        counts: how many there are of each class, and its colour.
    """
    for item in maps:
        for index, colormap in enumerate(dict.fromkeys(colormaps)):
            name = item.name if index == 0 else f"{item.name}_{colormap}"
            yield f"figures/{name}.png", map_figure(result, item, overview, counts, colormap)
    drawn = Overviewed(outlined[: overview.image.shape[0], : overview.image.shape[1]], overview.downsample)
    yield "figures/overlay.png", outline_figure(result, drawn, counts)


def fitted(result: RegionResult, overview: Overviewed) -> Overviewed:
    """`overview` at the size of a figure; figures of it are those of `overview`, in less memory."""
    image, um_per_px = _fitted(result, overview)
    return Overviewed(image, um_per_px / result.mpp)


def overlaid(
    result: RegionResult, overview: Overviewed, draw: Callable[[Rgb, float], Rgb]
) -> tuple[Overviewed, Rgb, Rgb]:
    """The overview at the size of figures, the page with outlines, and its part of the region at that size.

    Large pictures are dropped before figures are made: at most two are in memory beside the page being drawn.

    Args:
        draw: draws the page over an image of the overview's downsample.
    """
    height, width = overview.image.shape[:2]
    base = fitted(result, overview)
    page = draw(overview.image, overview.downsample)
    outlined = fitted(result, Overviewed(page[:height, :width], overview.downsample))
    return base, page, outlined.image


def map_figure(
    result: RegionResult, item: Heatmap, overview: Overviewed, counts: Sequence[Counted], colormap: Colormap
) -> bytes:
    """PNG of `item` over the tissue."""
    base, um_per_px = _fitted(result, overview)
    values, known = _spread(item, base.shape[:2], um_per_px)
    level = np.clip((values - item.minimum) / (item.maximum - item.minimum), 0, 1)
    colors = colormap.colors()[np.rint(level * 255).astype(np.uint8)].astype(np.float32)
    shaded = _shaded(colors, base, dark_field=result.facts.dark_field)
    picture = base.copy()
    cv2.copyTo(cv2.convertScaleAbs(shaded), known.view(np.uint8), picture)  # rounded as numpy does
    return _page(result, picture, item.title, um_per_px, counts, bar=item, colors=colormap.colors())


def _shaded(colors: NDArray[np.float32], base: Rgb, *, dark_field: bool) -> NDArray[np.float32]:
    """`colors` with the tissue as shade; where there is no stain and no signal they are those of the bar."""
    grey = cv2.cvtColor(base, cv2.COLOR_RGB2GRAY).astype(np.float32)[:, :, None] / np.float32(255)
    if dark_field:
        signal = np.clip(grey / max(float(np.percentile(grey, _BRIGHTEST)), 1e-3), 0, 1)
        return np.asarray(colors + np.float32(RELIEF) * signal * (255 - colors), np.float32)
    return np.asarray(colors * (1 - np.float32(RELIEF) * (1 - grey)), np.float32)


def outline_figure(result: RegionResult, drawn: Overviewed, counts: Sequence[Counted]) -> bytes:
    """PNG of outlines over the tissue."""
    picture, um_per_px = _fitted(result, drawn)
    return _page(result, picture, result.kind.capitalize(), um_per_px, counts)


def _fitted(result: RegionResult, overview: Overviewed) -> tuple[Rgb, float]:
    """The overview at the size of a figure, and micrometres per pixel of it."""
    height, width = overview.image.shape[:2]
    longest = max(height, width)
    scale = min(LONGEST_PX / longest, max(1.0, SHORTEST_PX / longest))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(overview.image, size, interpolation=how), np.uint8), (
        result.region_l0.width * result.mpp / size[0]
    )


def _spread(
    item: Heatmap, shape: tuple[int, ...], um_per_px: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The values of a map at the pixels of a figure, interpolated, and where they are known."""
    x_um, y_um = ((np.arange(length) + 0.5) * um_per_px for length in (shape[1], shape[0]))
    column = ((x_um + item.before_x_um) / item.grid_um - 0.5).astype(np.float32)
    row = ((y_um + item.before_y_um) / item.grid_um - 0.5).astype(np.float32)
    columns, rows = np.meshgrid(column, row)
    known = (~np.isnan(item.values)).astype(np.float32)
    filled = np.where(known > 0, item.values, np.float32(0))

    def sampled(grid: NDArray[np.float32], how: int) -> NDArray[np.float32]:
        return np.asarray(cv2.remap(grid, columns, rows, how, borderMode=cv2.BORDER_REPLICATE), np.float32)

    shown = sampled(known, cv2.INTER_NEAREST) > 0
    weights = np.maximum(sampled(known, cv2.INTER_LINEAR), 1e-6)
    return np.where(shown, sampled(filled, cv2.INTER_LINEAR) / weights, np.float32(0)), shown


def _page(
    result: RegionResult,
    picture: Rgb,
    title: str,
    um_per_px: float,
    counts: Sequence[Counted],
    *,
    bar: Heatmap | None = None,
    colors: Rgb | None = None,
) -> bytes:
    """A picture with everything around it that it needs to be understood."""
    height, width = picture.shape[:2]
    beside = GAP_PX + _BAR_PX + _BAR_TEXT_PX if bar is not None else 0
    page_width = max(width + beside + 2 * MARGIN_PX, width_px(wire.RESEARCH_USE_ONLY, SMALL_PT) + 2 * MARGIN_PX)
    legend = legend_rows(counts, page_width - 2 * MARGIN_PX)
    notes = _notes(result)
    top = MARGIN_PX + TITLE_PT + (SMALL_PT + 6) * (1 + len(notes)) + 14
    below = top + height + GAP_PX
    page_height = below + 30 + LEGEND_ROW_PX * len(legend) + SMALL_PT + 12 + MARGIN_PX
    page = Image.new("RGB", (page_width, page_height), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (MARGIN_PX, MARGIN_PX - 6), title, TITLE_PT, INK)
    write(draw, (MARGIN_PX, MARGIN_PX + TITLE_PT + 6), _subtitle(result), SMALL_PT, FAINT)
    for index, note in enumerate(notes, start=1):
        write(draw, (MARGIN_PX, MARGIN_PX + TITLE_PT + 6 + index * (SMALL_PT + 6)), note, SMALL_PT, FAINT)
    page.paste(Image.fromarray(picture), (MARGIN_PX, top))
    draw.rectangle((MARGIN_PX - 1, top - 1, MARGIN_PX + width, top + height), outline=FRAME)
    if bar is not None and colors is not None:
        _draw_colour_bar(page, bar, colors, MARGIN_PX + width + GAP_PX, top, height)
    in_um = result.physical_mpp is not None
    draw_scale(draw, MARGIN_PX, below, width, um_per_px if in_um else um_per_px / result.mpp, in_um=in_um)
    for index, row in enumerate(legend):
        draw_legend(draw, row, below + 30 + LEGEND_ROW_PX * index)
    write(draw, (MARGIN_PX, page_height - MARGIN_PX - SMALL_PT), wire.RESEARCH_USE_ONLY, SMALL_PT, FAINT)
    return png.encode(np.asarray(page, np.uint8))


def _subtitle(result: RegionResult) -> str:
    region = result.region_l0
    width_mm, height_mm = (side * result.mpp / 1000 for side in (region.width, region.height))
    at = f"x {region.x}, y {region.y}, {region.width} x {region.height} px"
    size = f", {width_mm:.3g} x {height_mm:.3g} mm" if result.physical_mpp is not None else ""
    return f"{result.pipeline}: {at}{size}"


def _notes(result: RegionResult) -> list[str]:
    """Parts of the tissue that companions cover, a line each."""
    lines = []
    for item in (area_fractions(result) or {}).values():
        if item.value is None:
            continue
        areas = (
            "" if item.numerator_mm2 is None else f" ({item.numerator_mm2:.4g} of {item.denominator_mm2:.4g} mm2)"
        )
        lines.append(f"{item.title}: {item.value:.1%}{areas}")
    return lines


def _draw_colour_bar(page: Image.Image, item: Heatmap, colors: Rgb, x: int, top: int, height: int) -> None:
    """The colours from bottom to top with their limits, three values between, and the unit."""
    draw = ImageDraw.Draw(page)
    unit_px = SMALL_PT + 10
    begin, length = top + unit_px, max(60, min(height - unit_px, 520))
    rows = np.rint(np.linspace(255, 0, length)).astype(np.int64)
    strip = np.repeat(colors[rows][:, None], _BAR_PX, axis=1)
    page.paste(Image.fromarray(np.ascontiguousarray(strip)), (x, begin))
    draw.rectangle((x - 1, begin - 1, x + _BAR_PX, begin + length), outline=FRAME)
    write(draw, (x, top - 2), item.unit, SMALL_PT, INK)
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = begin + round((1 - part) * (length - 1))
        draw.line((x + _BAR_PX, y, x + _BAR_PX + 5, y), fill=FRAME)
        value = item.minimum + part * (item.maximum - item.minimum)
        write(draw, (x + _BAR_PX + 9, y - SMALL_PT // 2 - 2), _number(value), SMALL_PT, INK)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
