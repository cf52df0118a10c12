"""Tile results as NumPy's npz archives: ``place``, ``tissue``, ``probabilities``, ``unstored_px``, ``flaws``."""

from __future__ import annotations

import io
import zipfile
from typing import Final

import numpy as np

from slidecascade.geometry import Box
from slidecascade.patches.tile_result import PatchesTileResult
from slidecascade.slides.flaws import Flaws

_ARRAYS: Final = ("place", "tissue", "probabilities", "unstored_px", "flaws")


def encode(result: PatchesTileResult) -> bytes:
    """The archive of `result`; `place` holds the index, the core's box and the first square's column and row."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        place=np.array([result.index, *result.core.as_tuple(), *result.first], np.int64),
        tissue=result.tissue,
        probabilities=result.probabilities,
        unstored_px=np.float64(result.unstored_px),
        flaws=np.array([result.flaws.ink_px, result.flaws.blurred_px]),
    )
    return buffer.getvalue()


def decode(data: bytes) -> PatchesTileResult:
    """The result that `encode` wrote.

    Raises:
        ValueError: the archive is of another kind, truncated or damaged.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            place, tissue, probabilities, unstored_px, flaws = (archive[name] for name in _ARRAYS)
    except (KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError("The archive of a tile's result is damaged; analyse the tile again.") from error
    index, x, y, width, height, column, row = place.tolist()
    return PatchesTileResult(
        index,
        Box(x, y, width, height),
        tissue,
        (column, row),
        probabilities,
        unstored_px=float(unstored_px),
        flaws=Flaws(*flaws.tolist()),
    )
