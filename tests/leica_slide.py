"""A Leica SCN file, whose scanned part lies somewhere on the slide: OpenSlide states its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from numpy.typing import NDArray

SPACE = "http://www.leica-microsystems.com/scn/2010/10/01"


def write_leica(
    path: Path, pixels: NDArray[np.uint8], *, corner: tuple[int, int], size: tuple[int, int], nm: int = 500
) -> Path:
    """`pixels` ``(H, W, 3)`` of `nm` nanometres with their corner at level-0 `corner` of a slide of `size`."""
    height, width = pixels.shape[:2]
    whole = _image("overview", (256, 256), size, (0, 0), nm, objective="0.6", directory=0)
    scan = _image("scan", (width, height), (width, height), corner, nm, objective="20", directory=1)
    collection = f'<collection name="c" uuid="u" sizeX="{size[0] * nm}" sizeY="{size[1] * nm}">'
    xml = f'<?xml version="1.0"?><scn xmlns={quoteattr(SPACE)}>{collection}{whole}{scan}</collection></scn>'
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    options |= {"resolution": (1e7 / nm, 1e7 / nm), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(np.full((256, 256, 3), 240, np.uint8), description=xml, **options)
        file.write(pixels, **options)
    return path


def _image(
    name: str,
    pixels: tuple[int, int],
    shown: tuple[int, int],
    corner: tuple[int, int],
    nm: int,
    *,
    objective: str,
    directory: int,
) -> str:
    sizes = f'sizeX="{pixels[0]}" sizeY="{pixels[1]}"'
    place = f'offsetX="{corner[0] * nm}" offsetY="{corner[1] * nm}"'
    return (
        f'<image name="{name}" uuid="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        f'<device model="Leica SCN400" version="1"/><pixels {sizes}><dimension {sizes} r="0" ifd="{directory}"/>'
        f'</pixels><view sizeX="{shown[0] * nm}" sizeY="{shown[1] * nm}" {place}/><scanSettings>'
        f"<objectiveSettings><objective>{objective}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )
