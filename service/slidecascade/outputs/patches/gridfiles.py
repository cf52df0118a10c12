"""The lattice as arrays that other programs open: NumPy's npy, and TIFF with the size of a pixel.

Both hold the probabilities of the classes that are shown, float32, NaN where the classifier did not look. Row and
column 0 are `PatchesResult.first` in the slide's lattice: for a whole slide the array is ``[y, x]`` of the slide
shrunk by the stride.
"""

from __future__ import annotations

import io
import json

import numpy as np

from slidecascade.outputs import floattiff
from slidecascade.patches.result import PatchesResult


def grid_npy(result: PatchesResult) -> bytes:
    """``(rows, columns)``, or ``(rows, columns, C)`` where several classes are shown."""
    values = result.probabilities[:, :, list(result.shown)]
    buffer = io.BytesIO()
    np.save(buffer, values[:, :, 0] if len(result.shown) == 1 else values)
    return buffer.getvalue()


def grid_tiff(result: PatchesResult) -> bytes:
    """A page for each class, named by it; ``XResolution`` and ``YResolution`` state the side of a square.

    The text of a page (JSON) holds its class, the place of its first pixel in the slide's lattice, and the side of
    a square in micrometres.
    """
    side_um = result.stride_px * result.grid.mpp
    pages = []
    for channel, end in zip(result.shown, result.classes.ends, strict=True):
        text = {
            "class": end.name,
            "first_column": result.first[0],
            "first_row": result.first[1],
            "patch_um": round(side_um, 6),
        }
        pages.append((result.probabilities[:, :, channel], json.dumps(text)))
    return floattiff.encode(pages, pixel_um=side_um)
