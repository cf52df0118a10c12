"""What pages for people are made of: text, legend and scale bar, drawn with Pillow."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

from PIL import ImageDraw, ImageFont

from slidecascade.outputs.caption import Counted, bar_um_of, length_text

Color = tuple[int, int, int]

MARGIN_PX, GAP_PX = 28, 14
TITLE_PT, TEXT_PT, SMALL_PT = 26, 17, 14
LEGEND_ROW_PX: Final = 26
INK, FAINT, PAPER, FRAME = (28, 28, 32), (105, 105, 112), (255, 255, 255), (150, 150, 155)
_LONGEST_SCALE: Final = 0.22
"""Of the picture's width, the longest that a scale bar is."""


def draw_scale(
    draw: ImageDraw.ImageDraw, x: int, y: int, width: int, um_per_px: float, *, in_um: bool = True
) -> None:
    """A bar under a picture; `um_per_px` and its length are in level-0 pixels unless `in_um`."""
    um = bar_um_of(max(40.0, _LONGEST_SCALE * width), um_per_px)
    length = max(1, round(um / um_per_px))
    draw.rectangle((x, y + 7, x + length, y + 11), fill=INK)
    write(draw, (x + length + 10, y), length_text(um, in_um=in_um), TEXT_PT, INK)


def legend_rows(counts: Sequence[Counted], width: int) -> list[list[tuple[int, Counted]]]:
    """The classes from left to right, each with its left edge, on as many rows as they need."""
    rows: list[list[tuple[int, Counted]]] = []
    x = MARGIN_PX
    for item in counts:
        needed = 24 + width_px(_label(item), TEXT_PT) + 26
        if not rows or (x > MARGIN_PX and x + needed > MARGIN_PX + width):
            rows.append([])
            x = MARGIN_PX
        rows[-1].append((x, item))
        x += needed
    return rows


def draw_legend(draw: ImageDraw.ImageDraw, row: Sequence[tuple[int, Counted]], y: int) -> None:
    for x, item in row:
        draw.rectangle((x, y + 4, x + 14, y + 18), fill=item[1], outline=FAINT)
        write(draw, (x + 22, y), _label(item), TEXT_PT, INK)


def _label(item: Counted) -> str:
    return f"{item[0]}  {item[2]:,}"


def _ascii(text: str) -> str:
    """`text` without the micro sign, which Pillow's font lacks."""
    return text.replace("µ", "u")


def write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, points: int, color: Color) -> None:
    draw.text(place, _ascii(text), fill=color, font=_font(points))


def width_px(text: str, points: int) -> int:
    return math.ceil(_font(points).getlength(text))


@functools.lru_cache(maxsize=8)
def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow carries."""
    return ImageFont.load_default(points)
