"""A page that shows pictures beside each other: a tile, and what one network or several make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from slidecascade import wire
from slidecascade.outputs import png
from slidecascade.outputs.caption import Counted
from slidecascade.outputs.page import (
    FAINT,
    FRAME,
    GAP_PX,
    INK,
    LEGEND_ROW_PX,
    MARGIN_PX,
    PAPER,
    SMALL_PT,
    TEXT_PT,
    TITLE_PT,
    draw_legend,
    draw_scale,
    legend_rows,
    width_px,
    write,
)

Rgb = NDArray[np.uint8]

MOST_LISTED: Final = 12
"""Classes in the legend; those that were found most come first."""

_LINE_PX: Final = TEXT_PT + 9
_LABEL_PX: Final = SMALL_PT + 8


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture, uint8 RGB ``(H, W, 3)``, and the lines of text below it."""

    picture: Rgb
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the page shows.

    Attributes:
        title, subtitle: of the page.
        sentence: what was found, in words.
        headings: one for each column.
        rows: panels from left to right; the panels of all rows have one size.
        counts: what the colours mean, and how many there are of each class.
        um_per_px: of the panels; None: they are of no one scale.
    """

    title: str
    subtitle: str
    sentence: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Panel, ...], ...]
    counts: tuple[Counted, ...]
    um_per_px: float | None


def fitted(picture: Rgb, side_px: int) -> tuple[Rgb, float]:
    """`picture` with a longest side of `side_px`, and how many of its pixels one of the old is."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8), scale


def page(shown: Comparison) -> bytes:
    """PNG of the page."""
    height, width = shown.rows[0][0].picture.shape[:2]
    columns = max(len(row) for row in shown.rows)
    lines = max(len(panel.lines) for row in shown.rows for panel in row)
    inner = max(columns * width + (columns - 1) * GAP_PX, width_px(wire.RESEARCH_USE_ONLY, SMALL_PT))
    sentence = _wrapped(shown.sentence, inner)
    listed = sorted((item for item in shown.counts if item[2]), key=lambda item: -item[2])[:MOST_LISTED]
    legend = legend_rows(listed, inner)
    heading_px = _LABEL_PX + 6 if shown.headings else 8
    top = MARGIN_PX + TITLE_PT + SMALL_PT + 20 + len(sentence) * _LINE_PX + heading_px
    row_px = height + lines * _LABEL_PX + GAP_PX
    below = top + len(shown.rows) * row_px
    scale_px = 0 if shown.um_per_px is None else 30
    size = (inner + 2 * MARGIN_PX, below + scale_px + LEGEND_ROW_PX * len(legend) + SMALL_PT + 12 + MARGIN_PX)
    paper = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(paper)
    _draw_head(draw, shown, sentence)
    for column, heading in enumerate(shown.headings):
        place = (MARGIN_PX + column * (width + GAP_PX), top - _LABEL_PX - 4)
        write(draw, place, _shortened(heading, width), SMALL_PT, INK)
    for index, row in enumerate(shown.rows):
        for column, panel in enumerate(row):
            _draw_panel(paper, panel, MARGIN_PX + column * (width + GAP_PX), top + index * row_px)
    if shown.um_per_px is not None:
        draw_scale(draw, MARGIN_PX, below, width, shown.um_per_px)
    for index, entries in enumerate(legend):
        draw_legend(draw, entries, below + scale_px + LEGEND_ROW_PX * index)
    write(draw, (MARGIN_PX, size[1] - MARGIN_PX - SMALL_PT), wire.RESEARCH_USE_ONLY, SMALL_PT, FAINT)
    return png.encode(np.asarray(paper, np.uint8))


def _draw_head(draw: ImageDraw.ImageDraw, shown: Comparison, sentence: Sequence[str]) -> None:
    write(draw, (MARGIN_PX, MARGIN_PX - 6), shown.title, TITLE_PT, INK)
    write(draw, (MARGIN_PX, MARGIN_PX + TITLE_PT + 6), shown.subtitle, SMALL_PT, FAINT)
    for index, line in enumerate(sentence):
        y = MARGIN_PX + TITLE_PT + SMALL_PT + 18 + index * _LINE_PX
        write(draw, (MARGIN_PX, y), line, TEXT_PT, INK)


def _draw_panel(paper: Image.Image, panel: Panel, x: int, y: int) -> None:
    height, width = panel.picture.shape[:2]
    draw = ImageDraw.Draw(paper)
    paper.paste(Image.fromarray(np.ascontiguousarray(panel.picture)), (x, y))
    draw.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
    for index, line in enumerate(panel.lines):
        write(draw, (x, y + height + 4 + index * _LABEL_PX), _shortened(line, width), SMALL_PT, INK)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` on lines of at most `width` pixels, divided at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_px(longer, TEXT_PT) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _shortened(text: str, width: int) -> str:
    """As much of `text` as `width` pixels hold."""
    if width_px(text, SMALL_PT) <= width:
        return text
    kept = len(text)
    while kept > 1 and width_px(f"{text[:kept]}...", SMALL_PT) > width:
        kept -= 1
    return f"{text[:kept]}..."
