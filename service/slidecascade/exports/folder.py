"""A folder of results, as ``slidecascade analyze`` and ``slidecascade jobs fetch`` write it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
from pydantic import ValidationError

from slidecascade import wire
from slidecascade.errors import UnusableDataError
from slidecascade.outputs import heatmapfile
from slidecascade.outputs.gzipped import READ_BYTES, gunzipped
from slidecascade.outputs.heatmap import require_name
from slidecascade.pipelines.classes import Color

SUMMARY: Final = "summary.json"
PARQUET: Final = "cells.parquet"
RLE: Final = "areas_rle.csv"
MASK: Final = "mask.tiff"
HEATMAPS: Final = "heatmaps/*.tiff"
GEOJSON: Final = ("cells.geojson", "tiles.geojson", "areas.geojson")

_PALETTE: Final[tuple[Color, ...]] = (
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (230, 159, 0),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
)
"""Okabe and Ito's colours, for classes whose own colour no file of the folder states."""
_CLASSIFICATION: Final = re.compile(rb'"classification":(\{"name":"(?:[^"\\]|\\.)*","color":\[\d+,\d+,\d+\]\})')
_OVERLAP_BYTES: Final = 4096


class ResultFolder:
    """The files of a result.

    Raises:
        UnusableDataError: `path` has no readable summary.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.summary = wire.Summary.model_validate_json((path / SUMMARY).read_bytes())
        except OSError as error:
            raise UnusableDataError(
                f"{path} has no {SUMMARY}: give a folder that `slidecascade analyze` or `slidecascade jobs fetch`"
                " wrote."
            ) from error
        except ValidationError as error:
            raise UnusableDataError(
                f"{path / SUMMARY} is not a summary of this version: analyse again."
            ) from error
        self.classes = tuple(self.summary.counts)
        """Names of all classes, in the order of the pipeline."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of level 0; raises UnusableDataError where the result states none."""
        if self.summary.mpp is None:
            raise UnusableDataError(
                "The result has no pixel size, and this format needs one: analyse again with mpp in place of "
                "object_diameter_px."
            )
        return self.summary.mpp

    @property
    def parquet(self) -> Path | None:
        """The GeoParquet file, None if there is none."""
        return self._existing(PARQUET)

    @property
    def geojson(self) -> Path | None:
        """The GeoJSON file, plain or compressed, None if there is none."""
        found = (self._existing(name + end) for name in GEOJSON for end in ("", ".gz"))
        return next((path for path in found if path), None)

    @property
    def rle(self) -> Path | None:
        """The run lengths of areas, None if there are none."""
        return self._existing(RLE)

    @property
    def mask(self) -> Path | None:
        """The mask of areas, None if there is none."""
        return self._existing(MASK)

    def heatmap(self, name: str | None) -> heatmapfile.HeatmapFile:
        """The values of the heatmap of that name, None: the first.

        Raises:
            UnknownHeatmapError: listing the names there are.
            UnusableDataError: the folder has no values of it, or they are damaged.
        """
        names = [legend.name for legend in self.summary.heatmaps]
        found = require_name(name, names, pipeline=self.summary.pipeline)
        path = self._existing(heatmapfile.name_of(found))
        if path is None:
            raise UnusableDataError(
                f"{self.path} has no {heatmapfile.name_of(found)}: request `heatmaps` in the job's outputs, or "
                "analyse again."
            )
        return heatmapfile.read(path)

    def colors(self) -> dict[str, Color]:
        """The colour of every class: as in the GeoJSON file, else from a fixed palette.

        The file is read until all classes that occur have been seen.
        """
        colors = {name: _PALETTE[place % len(_PALETTE)] for place, name in enumerate(self.classes)}
        wanted = {name for name, count in self.summary.counts.items() if count}
        tail = b""
        for piece in content(self.geojson) if self.geojson else ():
            text = tail + piece
            for found in set(_CLASSIFICATION.findall(text)):
                classification = orjson.loads(found)
                colors[classification["name"]] = tuple(classification["color"])
                wanted.discard(classification["name"])
            if not wanted:
                break
            tail = text[-_OVERLAP_BYTES:]
        return colors

    def _existing(self, name: str) -> Path | None:
        path = self.path / name
        return path if path.is_file() else None


def content(path: Path) -> Iterator[bytes]:
    """The bytes of a file in pieces, decompressed if its name ends in ``.gz``.

    Raises:
        UnusableDataError: the file is truncated or cannot be read.
    """
    try:
        if path.suffix == ".gz":
            yield from gunzipped(path)
        else:
            with path.open("rb") as file:
                while piece := file.read(READ_BYTES):
                    yield piece
    except (OSError, EOFError) as error:
        raise UnusableDataError(f"{path} is truncated or unreadable: fetch or analyse it again.") from error


def text_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, decompressed if its name ends in ``.gz``."""
    rest = b""
    for piece in content(path):
        *complete, rest = (rest + piece).split(b"\n")
        yield from complete
    yield rest
