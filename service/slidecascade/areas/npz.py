"""Tile results as NumPy's npz archives."""

from __future__ import annotations

import io
import zipfile
from typing import Final

import numpy as np

from slidecascade.areas.runs import Runs
from slidecascade.areas.tile_result import AreasTileResult
from slidecascade.geometry import Box
from slidecascade.slides.flaws import Flaws

_ARRAYS: Final = ("place", "tissue", "runs", "piece_classes", "piece_sums", "is_inside", "unstored_px", "flaws")


def encode(result: AreasTileResult) -> bytes:
    """The archive of `result`; `place` holds the index, the core's box and the number of edges.

    `runs` is int32 ``(4, N)``: columns, tops, bottoms, labels.
    """
    runs = result.runs
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        place=np.array([result.index, *result.core.as_tuple(), result.edges], np.int64),
        tissue=result.tissue,
        runs=np.stack([runs.columns, runs.tops, runs.bottoms, runs.labels]).astype(np.int32),
        piece_classes=result.piece_classes,
        piece_sums=result.piece_sums,
        is_inside=result.is_inside,
        unstored_px=np.float64(result.unstored_px),
        flaws=np.array([result.flaws.ink_px, result.flaws.blurred_px]),
    )
    return buffer.getvalue()


def decode(data: bytes) -> AreasTileResult:
    """The result that `encode` wrote.

    Raises:
        ValueError: the archive is of another kind, truncated or damaged.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            place, tissue, runs, classes, sums, inside, unstored_px, flaws = (archive[name] for name in _ARRAYS)
    except (KeyError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError("The archive of a tile's result is damaged; analyse the tile again.") from error
    index, x, y, width, height, edges = place.tolist()
    return AreasTileResult(
        index,
        Box(x, y, width, height),
        tissue,
        Runs(*runs.astype(np.int64)),
        classes,
        sums,
        inside,
        edges,
        unstored_px=float(unstored_px),
        flaws=Flaws(*flaws.tolist()),
    )
