"""A lattice as a GeoJSON feature collection: QuPath tiles with probabilities, and annotations of what is above the
threshold.

Measurements of a tile: ``<model> <class> probability`` for every class of the classifier. A tile none of whose
probabilities reaches the threshold has no classification. Measurements of an annotation: ``Area µm^2``, ``Tiles``,
``Mean probability``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import orjson
from numpy.typing import NDArray

from slidecascade.outputs.annotations import (
    COLLECTION_END,
    JOINT,
    class_text,
    collection_begin,
    joined,
    written,
)
from slidecascade.outputs.columns import four_decimals, lines, side_by_side
from slidecascade.outputs.ids import id_namespace, ids
from slidecascade.outputs.provenance import provenance
from slidecascade.outputs.rings import closed_rings
from slidecascade.patches.result import PatchesResult

CHUNK_TILES = 2048
MOST_BYTES_EACH = 800
_CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])


def encode(result: PatchesResult) -> Iterator[bytes]:
    """The feature collection as UTF-8 JSON, in pieces; coordinates are level-0 pixels that count from
    the result's origin, with 2 decimals."""
    yield collection_begin(provenance(result))
    tiles = _Tiles(result)
    first = True
    for start in range(0, len(tiles.places), CHUNK_TILES):
        yield (b"" if first else JOINT) + JOINT.join(tiles.texts(start, start + CHUNK_TILES))
        first = False
    outlines = result.outlines
    areas = _areas_um2(result)
    measurements = [
        {"Area µm^2": round(area, 2), "Tiles": squares, "Mean probability": round(mean, 4)}
        for area, squares, mean in zip(
            areas.tolist(), outlines.squares.tolist(), outlines.means.tolist(), strict=True
        )
    ]
    classes = [result.classes.ends[index] for index in outlines.class_index.tolist()]
    if len(outlines):
        yield b"" if first else JOINT
    yield from joined(
        written(id_namespace(result).bytes, outlines.rings, classes, measurements, origin_l0=result.origin_l0)
    )
    yield COLLECTION_END


def most_bytes(result: PatchesResult) -> int:
    """More than the feature collection can have."""
    count, classes = int(result.is_seen.sum()), result.probabilities.shape[2]
    return 4096 + count * (MOST_BYTES_EACH + 200 * int(classes)) + len(result.outlines.rings.vertices) * 1040


def _areas_um2(result: PatchesResult) -> NDArray[np.float64]:
    """``(N,)``: the areas of the outlines, by the shoelace formula; holes go the other way round."""
    rings = result.outlines.rings
    if not len(rings):
        return np.zeros(0)
    after = np.arange(1, len(rings.vertices) + 1)
    after[rings.ring_offsets[1:] - 1] = rings.ring_offsets[:-1]
    x, y = rings.vertices.T
    cross = x * y[after] - x[after] * y
    of_pieces = np.add.reduceat(cross, rings.ring_offsets[rings.piece_offsets[:-1]])
    areas: NDArray[np.float64] = of_pieces / 2 * result.mpp**2
    return areas


class _Tiles:
    """The tiles as text; what they have in common is written once."""

    def __init__(self, result: PatchesResult) -> None:
        self._result = result
        self._namespace = id_namespace(result).bytes
        self._origin_l0 = np.array(result.origin_l0, np.float64)
        self.places = np.argwhere(result.is_seen)
        index = result.class_index[result.is_seen]
        texts = [b'"classification":' + class_text(end) + b"," for end in result.classes.ends]
        self._classes = [texts[number] if number >= 0 else b"" for number in index.tolist()]
        model = result.models[0]
        names = [orjson.dumps(f"{model.name} {name} probability") + b":" for name in model.classes]
        self._names = [names[0], *(b"," + name for name in names[1:])]

    def texts(self, start: int, stop: int) -> list[bytes]:
        """The features of tiles ``start..stop``."""
        places = self.places[start:stop]
        vertices, offsets = self._vertices(places), np.arange(len(places) + 1, dtype=np.int64) * 4
        rings = closed_rings(vertices, offsets)
        shown = closed_rings(vertices - self._origin_l0, offsets) if self._origin_l0.any() else rings
        names = lines(side_by_side(len(places), *ids(self._namespace, rings), b"\n"))
        values = four_decimals(self._result.probabilities[places[:, 0], places[:, 1]].astype(np.float64))
        columns = [part for name, column in zip(self._names, values.T, strict=True) for part in (name, column)]
        measured = lines(side_by_side(len(places), *columns, b"\n"))
        return [
            b'{"type":"Feature","id":"'
            + name
            + b'","geometry":{"type":"Polygon","coordinates":[['
            + ring
            + b']]},"properties":{"objectType":"tile",'
            + cell_class
            + b'"measurements":{'
            + numbers
            + b"}}}"
            for name, ring, cell_class, numbers in zip(
                names, shown, self._classes[start:stop], measured, strict=True
            )
        ]

    def _vertices(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """The corners of squares in level-0 pixels, without what reaches beyond the slide."""
        result, grid = self._result, self._result.grid
        corners = (places[:, None, ::-1] + np.array(result.first) + _CORNERS) * result.stride_px
        inside = np.minimum(corners, (grid.size.width, grid.size.height))
        return grid.l0_from_grid(inside.reshape(-1, 2).astype(np.float64))
