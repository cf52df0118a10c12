"""All answers of a region at once: a zip that is written while it is sent, or a folder."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidecascade.cells.result import Analysis
from slidecascade.outputs import geojson, heatmap, overlay, png, summary
from slidecascade.outputs.gzipped import gzipped
from slidecascade.staging import write_file

TEXT_LEVEL = 1
"""Deflate level of the cells: higher levels save little and cost more than the rest of the encoding."""

PNG_LEVEL = 0
"""A PNG is compressed already. Deflate of level 0 keeps it as it is and, unlike the zip method "stored", says
where it ends, which readers that cannot seek (such as Java's ``ZipInputStream``) need."""


def encode(
    analysis: Analysis,
    image_rgb: NDArray[np.uint8],
    *,
    downsample: float,
    colormap: str = heatmap.DEFAULT_COLORMAP,
) -> Iterator[bytes]:
    """A zip of ``summary.json``, ``heatmaps/NAME.png``, ``overlay.png`` and ``cells.geojson``, in pieces.

    `image_rgb` is uint8 RGB ``(H, W, 3)`` and covers the region at `downsample` level-0 pixels per pixel. One
    picture or one piece of GeoJSON is in memory at a time. The same analysis gives the same bytes.

    Raises:
        InvalidRequestError: before the first piece, when there is no such colormap.
        ModelFailedError: before the first piece, when the cells hold numbers that are not finite.
    """
    heatmap.require_colormap(colormap)
    cells = geojson.encode(analysis)
    pictures = _small_files(analysis, image_rgb, downsample=downsample, colormap=colormap)
    columns = sum(int(matrix.shape[1]) for matrix in analysis.instances.probabilities)
    zip64 = needs_zip64(len(analysis.instances), len(analysis.instances.vertices), columns)
    return zipped(pictures, "cells.geojson", cells, zip64=zip64)


def write_folder(
    analysis: Analysis,
    image_rgb: NDArray[np.uint8],
    folder: Path,
    *,
    downsample: float,
    colormap: str = heatmap.DEFAULT_COLORMAP,
    gzip: bool = False,
) -> tuple[Path, ...]:
    """The files of the zip in `folder`, which is made when needed; their paths.

    With `gzip` the cells are in ``cells.geojson.gz``, which takes a quarter of the space. A file appears complete
    or not at all; one of the same name is replaced.

    Raises:
        InvalidRequestError, ModelFailedError: as `encode`, before anything is written.
        UnwritableOutputError: when the folder cannot be made or written.
    """
    heatmap.require_colormap(colormap)
    cells = geojson.encode(analysis)
    written = []
    for name, content in _small_files(analysis, image_rgb, downsample=downsample, colormap=colormap):
        write_file(folder / name, content)
        written.append(folder / name)
    large = folder / ("cells.geojson.gz" if gzip else "cells.geojson")
    write_file(large, gzipped(cells) if gzip else cells)
    return (*written, large)


def _small_files(
    analysis: Analysis, image_rgb: NDArray[np.uint8], *, downsample: float, colormap: str
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files that fit in memory, each made when it is asked for."""
    numbers = summary.summarise(analysis, colormap=colormap)
    yield "summary.json", numbers.model_dump_json(indent=2).encode()
    for spec in analysis.heatmaps:
        yield f"heatmaps/{spec.name}.png", heatmap.encode_png(heatmap.compute(analysis, spec), colormap)
    yield "overlay.png", png.encode(overlay.draw(analysis, image_rgb, downsample=downsample))


def zipped(
    small: Iterator[tuple[str, bytes]], large_name: str, large: Iterator[bytes], *, zip64: bool
) -> Iterator[bytes]:
    """A zip of `small` files by name and of one large one, in pieces, each made when it is asked for."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_DEFLATED, compresslevel=TEXT_LEVEL) as archive:
        for name, content in small:
            entry = zipfile.ZipInfo(name)  # dated 1980: the time of day is no part of the result
            level = PNG_LEVEL if name.endswith(".png") else TEXT_LEVEL
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, level)
            yield outbox.take()
        with archive.open(large_name, "w", force_zip64=zip64) as member:
            for piece in large:
                member.write(piece)
                yield outbox.take()
    yield outbox.take()


def needs_zip64(cells: int, vertices: int, probabilities: int) -> bool:
    """Whether the GeoJSON of so many cells, outlined by so many vertices and with so many probabilities each, may
    exceed 2 GiB, which the zip must say before the size is known.

    Not said where it is not needed: readers that cannot seek trip over it.
    """
    return vertices * 40 + cells * (1000 + 200 * probabilities) >= 2**31


class _Outbox:
    """Where `zipfile` writes to; it cannot seek, so the zip is written as for a pipe."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def take(self) -> bytes:
        """What was written since the last time; maybe nothing."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
