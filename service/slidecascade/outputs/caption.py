"""The strip under an overlay: which colour is which class, how many, how large, and research use only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire

MIN_WIDTH = 400
"""Strips are at least this wide, so that the research-use line stays whole."""

ROW_PX = 20
MARGIN_PX = 10
GAP_PX = 22
SWATCH_PX = 11
TEXT_SCALE = 0.42
LONGEST_BAR_PX = 120
TEXT = (50, 50, 50)
FAINT_TEXT = (110, 110, 110)
PAPER = 255

Counted = tuple[str, tuple[int, int, int], int]
"""A class: name, colour, and how many there are of it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A class in its colour, and where it stands in the strip: left edge in pixels and row."""

    label: str
    color: tuple[int, int, int]
    x: int
    row: int


def caption(classes: Sequence[Counted], *, width: int, um_per_px: float, in_um: bool = True) -> NDArray[np.uint8]:
    """The strip as uint8 RGB ``(h, width, 3)``: classes with counts, the research-use line, a scale bar.

    `counts` are the cells by class, in the order of the classes of `analysis`; `width` is at least `MIN_WIDTH`;
    `um_per_px` is the pixel size of the image above, in level-0 pixels unless `in_um`.
    """
    entries = _arrange(classes, width)
    last = entries[-1].row + 1 if entries else 0
    bar_um = bar_um_of(LONGEST_BAR_PX, um_per_px)
    bar_x = width - MARGIN_PX - _text_width(length_text(bar_um, in_um=in_um)) - 6 - round(bar_um / um_per_px)
    beside = bar_x > 2 * MARGIN_PX + _text_width(wire.RESEARCH_USE_ONLY)
    strip = np.full(((last + 1 + (not beside)) * ROW_PX + MARGIN_PX, width, 3), PAPER, np.uint8)
    for entry in entries:
        swatch = (entry.x, _baseline(entry.row) - SWATCH_PX + 1, SWATCH_PX, SWATCH_PX)
        cv2.rectangle(strip, swatch, entry.color, cv2.FILLED)
        cv2.rectangle(strip, swatch, FAINT_TEXT, 1)
        _write(strip, entry.label, entry.x + SWATCH_PX + 5, entry.row, TEXT)
    _write(strip, wire.RESEARCH_USE_ONLY, MARGIN_PX, last, FAINT_TEXT)
    _draw_bar(strip, bar_x, last + (not beside), um_per_px=um_per_px, bar_um=bar_um, in_um=in_um)
    return strip


def _arrange(classes: Sequence[Counted], width: int) -> list[_Entry]:
    """The classes from left to right, on as many rows as they need."""
    entries: list[_Entry] = []
    x, row = MARGIN_PX, 0
    for name, color, number in classes:
        label = f"{name}  {number:,}"
        entry_width = SWATCH_PX + 5 + _text_width(label)
        if x > MARGIN_PX and x + entry_width > width - MARGIN_PX:
            x, row = MARGIN_PX, row + 1
        entries.append(_Entry(label, color, x, row))
        x += entry_width + GAP_PX
    return entries


def _draw_bar(strip: NDArray[np.uint8], x: int, row: int, *, um_per_px: float, bar_um: float, in_um: bool) -> None:
    right, y = x + round(bar_um / um_per_px), _baseline(row) - 4
    cv2.line(strip, (x, y), (right, y), TEXT, 1)
    for end in (x, right):
        cv2.line(strip, (end, y - 3), (end, y + 3), TEXT, 1)
    _write(strip, length_text(bar_um, in_um=in_um), right + 6, row, TEXT)


def bar_um_of(longest_px: float, um_per_px: float) -> float:
    """The longest of 1, 2, 5, 10, ... um that is no longer than `longest_px`."""
    longest_um = longest_px * um_per_px
    power = 10.0 ** math.floor(math.log10(longest_um))
    return power * max(step for step in (1, 2, 5) if step * power <= longest_um)


def length_text(um: float, *, in_um: bool = True) -> str:
    """A length in the unit that suits it; in level-0 pixels unless `in_um`."""
    if not in_um:
        return f"{um:g} px"
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


def _baseline(row: int) -> int:
    return MARGIN_PX // 2 + row * ROW_PX + 14


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, 1)[0][0])


def _write(strip: NDArray[np.uint8], text: str, x: int, row: int, color: tuple[int, int, int]) -> None:
    place = (x, _baseline(row))
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, color, 1, cv2.LINE_AA)
