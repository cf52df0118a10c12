"""The values of a heatmap in a file: ``heatmaps/NAME.tiff`` beside its picture.

32-bit floats, NaN where the map states nothing. The text of the page (JSON) says what they are and where they lie.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UndecodableImageError, UnusableDataError
from slidecascade.geometry import Box, Mpp
from slidecascade.outputs import floattiff
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.slides import tiff
from slidecascade.slides.storedparts import OpenFile


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatmapFile:
    """A heatmap read again.

    Attributes:
        values: ``(h, w)`` float32, NaN where nothing is known.
        minimum, maximum: ends of the colour scale, in `unit`.
        grid_um: side of a square.
        corner_l0: where the first square begins, in level-0 pixels.
    """

    name: str
    title: str
    unit: str
    values: NDArray[np.float32]
    minimum: float
    maximum: float
    grid_um: float
    corner_l0: tuple[float, float]


def name_of(heatmap: str) -> str:
    """The file of the heatmap of this name, in a folder of results."""
    return f"heatmaps/{heatmap}.tiff"


def encode(heatmap: Heatmap, region_l0: Box, mpp: Mpp) -> bytes:
    """The file of a heatmap over `region_l0` of a slide of `mpp`."""
    text = {
        "name": heatmap.name,
        "title": heatmap.title,
        "unit": heatmap.unit,
        "minimum": heatmap.minimum,
        "maximum": heatmap.maximum,
        "grid_um": heatmap.grid_um,
        "x_l0": region_l0.x - heatmap.before_x_um / mpp,
        "y_l0": region_l0.y - heatmap.before_y_um / mpp,
    }
    return floattiff.encode([(heatmap.values, json.dumps(text))], pixel_um=heatmap.grid_um)


def read(path: Path) -> HeatmapFile:
    """The heatmap in a file that `encode` wrote.

    Raises:
        UnusableDataError: the file cannot be read, is damaged, or was written by another program.
    """
    try:
        file = OpenFile(path)
        try:
            page = tiff.first_directory(file)
            text = json.loads(page.description or "")
            values = np.frombuffer(page.part(file, 0), "<f4").reshape(page.size.height, page.size.width)
        finally:
            file.close()
        return HeatmapFile(
            name=str(text["name"]),
            title=str(text["title"]),
            unit=str(text["unit"]),
            values=values.astype(np.float32),
            minimum=float(text["minimum"]),
            maximum=float(text["maximum"]),
            grid_um=float(text["grid_um"]),
            corner_l0=(float(text["x_l0"]), float(text["y_l0"])),
        )
    except (OSError, UndecodableImageError, struct.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise UnusableDataError(f"{path} is not a heatmap or damaged: fetch or analyse it again.") from error
