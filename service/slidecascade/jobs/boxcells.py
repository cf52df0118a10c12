"""The cells of a box as columns, which the page draws without parsing a text; docs/jobs.md describes it.

All numbers are little endian. An outline is its first vertex and the way from each vertex to the next one, in
whole hundredths of a level-0 pixel (the digits of GeoJSON), in 2 bytes where all ways are short enough, else in 4.

======  =========================================================================================
offset  content
======  =========================================================================================
0       ``SCBC``
4       uint8 version (1); uint8 bytes of a way's coordinate (2 or 4); uint16 unused (0)
8       uint32 cells N, vertices V, measurements K, bytes of the names M (a multiple of 4)
24      ``{"classes": [{"name", "color"}], "measurements": [{"name", "decimals"}]}``; spaces to M bytes
24 + M  int32 first vertices (N, 2), x and y
        uint32 vertices of each outline (N)
        float32 measurements (K, N); NaN: the cell has none
        int16 or int32 ways (V - N, 2)
        uint8 class (N): index of the classes
        ASCII ids (N, 36)
======  =========================================================================================

Measurements have the names and the order of GeoJSON; rounded to their decimals they are those of GeoJSON.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from slidecascade.cells.result import Analysis
from slidecascade.jobs.outlineways import OutlineWays
from slidecascade.outputs.cells.geojson import AREA, AREA_PX, SCORE

MAGIC: Final = b"SCBC"
VERSION: Final = 1
UNITS: Final = 100
MEDIA_TYPE: Final = "application/vnd.slidecascade.cells"
_HEAD: Final = struct.Struct("<4s2BH4I")


def encode(analysis: Analysis, ids: NDArray[np.bytes_]) -> bytes:
    """See the module.

    Args:
        ids: ``(N,)`` of 36 ASCII characters, those of the cells of `analysis`.
    """
    cells = analysis.instances
    outlines = OutlineWays.of(cells.vertices, cells.offsets, UNITS)
    measured = _measurements(analysis)
    classes = [{"name": end.name, "color": end.color} for end in analysis.classes.ends]
    measurements = [{"name": name, "decimals": 2 if name in (AREA, AREA_PX) else 4} for name in measured]
    names = orjson.dumps({"classes": classes, "measurements": measurements})
    names += b" " * (-len(names) % 4)
    head = _HEAD.pack(
        MAGIC, VERSION, outlines.width, 0, len(cells), len(cells.vertices), len(measured), len(names)
    )
    arrays: tuple[NDArray[Any], ...] = (
        outlines.firsts.astype("<i4"),
        np.diff(cells.offsets).astype("<u4"),
        *(column.astype("<f4") for column in measured.values()),
        outlines.ways.astype(f"<i{outlines.width}"),
        analysis.class_index.astype("u1"),
        ids.astype("S36"),
    )
    return b"".join([head, names, *(array.tobytes() for array in arrays)])


def _measurements(analysis: Analysis) -> dict[str, NDArray[np.float32]]:
    """``(N,)`` each, by name; NaN where a classifier did not see the cell."""
    cells, mpp = analysis.instances, analysis.physical_mpp
    areas = cells.areas * (1.0 if mpp is None else mpp**2)
    columns = {SCORE: cells.scores.astype(np.float32), AREA_PX if mpp is None else AREA: areas.astype(np.float32)}
    stages = [
        ([f"{model.name} {name} probability" for name in model.classes], probabilities)
        for model, probabilities in zip(analysis.classifiers, cells.probabilities, strict=True)
    ]
    if analysis.measures:
        stages.append((list(analysis.measures), np.column_stack(cells.measures)))
    for names, values in stages:
        known = values.astype(np.float32)
        known[~np.isfinite(known.sum(axis=1))] = np.nan
        columns |= dict(zip(names, known.T, strict=True))
    return columns
