"""All answers of a region at once: a zip that is written while it is sent, or a folder."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis import Analysis
from slidecascade.outputs import geojson, heatmap, overlay, png, summary

GEOJSON_LEVEL = 1
"""Deflate level of the cells: text shrinks to about a quarter, higher levels cost more time than they save."""

PNG_LEVEL = 0
"""PNG is compressed already. Deflate of level 0 stores it, but unlike the method "stored" says where it ends,
which readers that cannot seek (Java's ``ZipInputStream``) need."""

_DATE = (1980, 1, 1, 0, 0, 0)  # the same analysis gives the same bytes


def encode(
    analysis: Analysis,
    image_rgb: NDArray[np.uint8],
    *,
    downsample: float,
    colormap: str = heatmap.DEFAULT_COLORMAP,
) -> Iterator[bytes]:
    """A zip of ``summary.json``, ``heatmaps/NAME.png``, ``overlay.png`` and ``cells.geojson``, in pieces.

    `image_rgb` covers the region at `downsample` level-0 pixels per pixel. One picture and one piece of
    GeoJSON are in memory at a time.

    Raises:
        InvalidRequestError: before the first piece, when there is no such colormap.
        ModelFailedError: before the first piece, when the cells hold numbers that are not finite.
    """
    return _zipped(_files(analysis, image_rgb, downsample=downsample, colormap=colormap), _zip64(analysis))


def write_folder(
    analysis: Analysis,
    image_rgb: NDArray[np.uint8],
    folder: Path,
    *,
    downsample: float,
    colormap: str = heatmap.DEFAULT_COLORMAP,
) -> tuple[Path, ...]:
    """The files of the zip in `folder`, which is made when needed; their paths.

    A file appears complete or not at all; one of the same name is replaced.

    Raises:
        InvalidRequestError, ModelFailedError: as `encode`, before anything is written.
        OSError: when the folder cannot be made or written.
    """
    paths = []
    for name, pieces in _files(analysis, image_rgb, downsample=downsample, colormap=colormap):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, pieces)
        paths.append(path)
    return tuple(paths)


def _files(
    analysis: Analysis, image_rgb: NDArray[np.uint8], *, downsample: float, colormap: str
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Names and contents; each content is made when it is asked for."""
    heatmap.require_colormap(colormap)
    cells = geojson.encode(analysis)

    def files() -> Iterator[tuple[str, Iterable[bytes]]]:
        yield "summary.json", [summary.summarise(analysis, colormap=colormap).model_dump_json(indent=2).encode()]
        for spec in analysis.heatmaps:
            picture = heatmap.encode_png(heatmap.compute(analysis, spec), colormap)
            yield f"heatmaps/{spec.name}.png", [picture]
        yield "overlay.png", [png.encode(overlay.draw(analysis, image_rgb, downsample=downsample))]
        yield "cells.geojson", cells

    return files()


def _zipped(files: Iterator[tuple[str, Iterable[bytes]]], zip64: bool) -> Iterator[bytes]:
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, pieces in files:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry._compresslevel = PNG_LEVEL if name.endswith(".png") else GEOJSON_LEVEL
            with archive.open(entry, "w", force_zip64=zip64) as member:
                for piece in pieces:
                    member.write(piece)
                    yield from outbox.drain()
    yield from outbox.drain()


def _zip64(analysis: Analysis) -> bool:
    """Whether the GeoJSON may exceed 2 GiB: the zip's format must be chosen before its size is known.

    Not always, because readers that cannot seek trip over it where it is not needed.
    """
    cells = analysis.instances
    columns = sum(matrix.shape[1] for matrix in cells.probabilities)
    most_bytes = len(cells.vertices) * 40 + len(cells) * (1000 + 200 * columns)
    return most_bytes > zipfile.ZIP64_LIMIT


def _write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.writelines(pieces)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Outbox(io.RawIOBase):
    """Where the zip is written to and taken from; it cannot seek, so the zip is written for a stream."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._position

    def drain(self) -> Iterator[bytes]:
        """What was written since the last time."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            yield b"".join(pieces)
