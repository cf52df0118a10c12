"""The outlines of a result in batches, whichever file they come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from slidecascade.errors import UnusableDataError
from slidecascade.exports.folder import ResultFolder, text_lines
from slidecascade.outputs.cells import geoparquet

BATCH: Final = 2048
"""Shapes in memory at a time, besides a row group of GeoParquet."""
_NO_MEASUREMENTS: Final = frozenset({"id", "geometry", "bbox", "class", "area_px", "centroid_x", "centroid_y"})
_QUPATH_NAMES: Final = {"score": "Detection score", "area_um2": "Area µm^2", "area_px": "Area px^2"}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Outlines of a batch, in level-0 pixels.

    Attributes:
        ids: of each shape.
        vertices: ``(V, 2)`` x and y of open rings, end to end.
        ring_offsets: ``(R + 1,)``; ring ``r`` is ``vertices[ring_offsets[r] : ring_offsets[r + 1]]``.
        shape_offsets: ``(N + 1,)``; the first ring of a shape is its outline, the others are holes.
        class_index: ``(N,)`` place in `ResultFolder.classes`.
        measurements: ``(N,)`` by name; NaN where there is none.
    """

    ids: tuple[str, ...]
    vertices: NDArray[np.float64]
    ring_offsets: NDArray[np.int64]
    shape_offsets: NDArray[np.int64]
    class_index: NDArray[np.int64]
    measurements: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_holes(self) -> bool:
        return len(self.ring_offsets) > len(self.shape_offsets)

    def of_class(self, index: int) -> Shapes:
        """The shapes of one class."""
        keep = self.class_index == index
        rings = np.repeat(keep, np.diff(self.shape_offsets))
        vertices = np.repeat(rings, np.diff(self.ring_offsets))
        return Shapes(
            ids=tuple(compress(self.ids, keep.tolist())),
            vertices=self.vertices[vertices],
            ring_offsets=_offsets(np.diff(self.ring_offsets)[rings]),
            shape_offsets=_offsets(np.diff(self.shape_offsets)[keep]),
            class_index=self.class_index[keep],
            measurements={name: values[keep] for name, values in self.measurements.items()},
        )


def shapes(folder: ResultFolder) -> Iterator[Shapes]:
    """All outlines of a result: from GeoParquet (a row group at a time), else from GeoJSON.

    Raises:
        UnusableDataError: the folder has neither, or the file is damaged.
    """
    if folder.parquet is not None:
        return _of_parquet(folder)
    if folder.geojson is not None:
        return _of_geojson(folder)
    raise UnusableDataError(
        f"{folder.path} has neither GeoParquet nor GeoJSON: request `parquet` or `geojson` in the job's outputs."
    )


def _of_parquet(folder: ResultFolder) -> Iterator[Shapes]:
    path = folder.path / "cells.parquet"
    try:
        for rows in geoparquet.within(path, -math.inf, -math.inf, math.inf, math.inf):
            for start in range(0, rows.num_rows, BATCH):
                yield _of_rows(rows.slice(start, BATCH), folder)
    except ValueError as error:
        raise UnusableDataError(f"{path} is truncated or damaged: fetch or analyse it again.") from error


def _of_rows(rows: geoparquet.Table, folder: ResultFolder) -> Shapes:
    drawn = geoparquet.drawn(rows)
    places = np.array([_place(name, folder) for name in drawn.classes], np.int64)
    # Without a known size of pixels the area is in pixels.
    left_out = (
        _NO_MEASUREMENTS if folder.summary.mpp is not None else _NO_MEASUREMENTS - {"area_px"} | {"area_um2"}
    )
    return Shapes(
        ids=tuple(rows["id"].to_pylist()),
        vertices=drawn.vertices,
        ring_offsets=drawn.offsets,
        shape_offsets=np.arange(rows.num_rows + 1, dtype=np.int64),
        class_index=places[drawn.class_index],
        measurements={
            _QUPATH_NAMES.get(name, name): rows[name].to_numpy().astype(np.float64)
            for name in rows.column_names
            if name not in left_out
        },
    )


def _of_geojson(folder: ResultFolder) -> Iterator[Shapes]:
    path = folder.geojson
    assert path is not None  # noqa: S101 - `shapes` has looked
    lines = text_lines(path)
    origin_l0 = _origin_l0(next(lines, b""), folder)
    features = (line.removesuffix(b",") for line in lines if line.startswith(b'{"type":"Feature"'))
    while batch := list(islice(features, BATCH)):
        try:
            yield _of_features([orjson.loads(line) for line in batch], origin_l0, folder)
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            raise UnusableDataError(f"{path} is damaged: fetch or analyse it again.") from error


def _origin_l0(head: bytes, folder: ResultFolder) -> NDArray[np.float64]:
    """What positions of the GeoJSON file count from, in level-0 pixels."""
    slide = folder.summary.slide
    if b'"origin":"bounds"' in head and slide is not None and slide.bounds is not None:
        return np.array([slide.bounds.x, slide.bounds.y], np.float64)
    return np.zeros(2)


def _of_features(features: list[Any], origin_l0: NDArray[np.float64], folder: ResultFolder) -> Shapes:
    outlines = [feature["geometry"]["coordinates"] for feature in features]
    rings = [ring[:-1] for outline in outlines for ring in outline]
    measured = [feature["properties"]["measurements"] for feature in features]
    names = dict.fromkeys(name for item in measured for name in item)
    return Shapes(
        ids=tuple(feature["id"] for feature in features),
        vertices=np.array([point for ring in rings for point in ring], np.float64).reshape(-1, 2) + origin_l0,
        ring_offsets=_offsets([len(ring) for ring in rings]),
        shape_offsets=_offsets([len(outline) for outline in outlines]),
        class_index=np.array(
            [_place(feature["properties"]["classification"]["name"], folder) for feature in features], np.int64
        ),
        measurements={
            name: np.array([item.get(name, math.nan) for item in measured], np.float64) for name in names
        },
    )


def _place(name: str, folder: ResultFolder) -> int:
    if name not in folder.classes:
        raise UnusableDataError(
            f"The class {name} is not in {folder.path / 'summary.json'}: the files are not of one result; fetch or"
            " analyse again."
        )
    return folder.classes.index(name)


def _offsets(counts: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
