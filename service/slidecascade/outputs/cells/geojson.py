"""Cells as a GeoJSON feature collection that QuPath imports as detections.

What QuPath insists on (``QuPathTypeAdapters``, 0.4 to 0.8): every classification has a colour, rings are
closed, properties are never null, ``objectType`` is named (a missing one makes an annotation of each cell),
measurements are a mapping of numbers. Ids that are UUIDs are kept, others are replaced.

Measurements of a cell:

- ``Detection score``: the segmenter's mean foreground probability;
- ``Area µm^2``: area of the outline in square micrometres; where the size of pixels is not known, ``Area px^2``
  in square pixels in its place;
- ``<model> <class> probability``, e.g. ``nash-cell Hepatocyte probability``: for every class of every
  classifier that saw the cell; absent where a classifier did not see it;
- what else the pipeline measures, e.g. ``Spots`` and ``Spot intensity``.

Ids are those of `slidecascade.outputs.ids`: a cell has one id, whatever region it was found in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from slidecascade.cells.result import Analysis
from slidecascade.errors import ModelFailedError
from slidecascade.outputs.columns import four_decimals, lines, side_by_side, two_decimals
from slidecascade.outputs.ids import id_namespace, ids
from slidecascade.outputs.provenance import Provenance, provenance
from slidecascade.outputs.rings import closed_rings
from slidecascade.pipelines.classes import CellClass

CHUNK_CELLS = 1536
AREA, AREA_PX = "Area µm^2", "Area px^2"
"""The measurement of a cell's area, with and without a known size of pixels."""
SCORE = "Detection score"

END = b"\n]}\n"
"""What comes after the features."""


# Stands for what differs from cell to cell: a string that is no class or model name.
_SLOT = "\x00"
_SLOT_JSON = orjson.dumps(_SLOT)


def encode(analysis: Analysis) -> Iterator[bytes]:
    """The feature collection as UTF-8 JSON, in pieces of about 1 MB (`CHUNK_CELLS` cells).

    Coordinates are level-0 pixels that count from the analysis' origin, with 2 decimals; outlines are written as
    closed rings. The foreign member ``slidecascade`` (see `Provenance`) comes before the features.

    Raises:
        ModelFailedError: before the first piece, when a coordinate, area or score is not a finite number.
    """
    refuse_non_finite(analysis)
    return _pieces(analysis)


def _pieces(analysis: Analysis) -> Iterator[bytes]:
    yield head(provenance(analysis))
    yield from features(analysis)
    yield END


def head(member: Provenance) -> bytes:
    """What comes before the features."""
    document = orjson.dumps(member.model_dump(mode="json"))
    return b'{"type":"FeatureCollection","slidecascade":' + document + b',"features":[\n'


def features(analysis: Analysis, *, follows: bool = False) -> Iterator[bytes]:
    """The features alone, in pieces, separated by commas and newlines; `follows`: others come before them."""
    texts = _Features(analysis)
    for start in range(0, len(analysis.instances), CHUNK_CELLS):
        if follows and not start:
            yield b",\n"
        yield texts.text(start, min(start + CHUNK_CELLS, len(analysis.instances)))


def cell_ids(analysis: Analysis) -> NDArray[np.bytes_]:
    """``(N,)`` the id of every cell as 36 ASCII characters."""
    cells = analysis.instances
    rings = closed_rings(cells.vertices, cells.offsets)
    return side_by_side(len(rings), *ids(id_namespace(analysis).bytes, rings))


def most_bytes(analysis: Analysis) -> int:
    """More than the feature collection can have."""
    cells = analysis.instances
    columns = sum(int(matrix.shape[1]) for matrix in cells.probabilities) + len(cells.measures)
    return most_bytes_of(len(cells), vertices=len(cells.vertices), probabilities=columns)


def most_bytes_of(cells: int, *, vertices: int, probabilities: int) -> int:
    """The same for so many cells with so many vertices in all and so many probabilities each."""
    return vertices * 40 + cells * (1000 + 200 * probabilities)


def refuse_non_finite(analysis: Analysis) -> None:
    """Raises ModelFailedError when a coordinate, area or score is not a finite number."""
    cells = analysis.instances
    # One bad number makes the sum bad: no temporary array as large as the cells.
    if not all(math.isfinite(float(array.sum())) for array in (cells.vertices, cells.areas, cells.scores)):
        raise ModelFailedError(
            "The segmenter produced cells whose outline, area or score is not a finite number;"
            " check the model with `slidecascade models verify`."
        )


class _Features:
    """The features of an analysis as text; what cells have in common is written once."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._namespace = id_namespace(analysis).bytes
        self._origin_l0 = np.array(analysis.origin_l0, np.float64)
        shared = _shared_text(AREA if analysis.physical_mpp is not None else AREA_PX)
        self._before_id, self._before_ring, before_class, before_score, self._before_area, self._end = shared
        self._classes = [
            before_class + _class_text(cell_class) + before_score for cell_class in analysis.classes.ends
        ]
        self._stages = [
            _Stage([_name_text(f"{model.name} {name} probability") for name in model.classes], probabilities)
            for model, probabilities in zip(analysis.classifiers, analysis.instances.probabilities, strict=True)
        ]
        if analysis.measures:
            columns = np.column_stack(analysis.instances.measures)
            self._stages.append(_Stage([_name_text(name) for name in analysis.measures], columns))

    def text(self, start: int, stop: int) -> bytes:
        """The features of cells ``start..stop``, each but the very first after a comma."""
        cells = self._analysis.instances
        offsets = cells.offsets[start : stop + 1]
        vertices = cells.vertices[offsets[0] : offsets[-1]]
        rings = closed_rings(vertices, offsets - offsets[0])
        parts = [
            self._heads(rings),
            closed_rings(vertices - self._origin_l0, offsets - offsets[0]) if self._origin_l0.any() else rings,
            [self._classes[index] for index in self._analysis.class_index[start:stop].tolist()],
            self._scores_and_areas(start, stop),
            *(stage.texts(start, stop) for stage in self._stages),
        ]
        interleaved = [b""] * (len(parts) * len(rings))
        for place, texts in enumerate(parts):
            interleaved[place :: len(parts)] = texts
        interleaved[0] = interleaved[0].removeprefix(self._end if start else self._end + b",\n")
        interleaved[-1] += self._end
        return b"".join(interleaved)

    def _heads(self, rings: list[bytes]) -> list[bytes]:
        """From the end of the cell before to the ring: one text fewer to join per cell."""
        before_id, after_id = self._end + b",\n" + self._before_id + b'"', b'"' + self._before_ring
        heads: list[bytes] = side_by_side(len(rings), before_id, *ids(self._namespace, rings), after_id).tolist()
        return heads

    def _scores_and_areas(self, start: int, stop: int) -> list[bytes]:
        cells = self._analysis.instances
        scores = four_decimals(cells.scores[start:stop].astype(np.float64))
        mpp = self._analysis.physical_mpp
        areas = two_decimals(cells.areas[start:stop] * (1.0 if mpp is None else mpp**2))
        return lines(side_by_side(stop - start, scores, self._before_area, *areas, b"\n"))


class _Stage:
    """A classifier's measurements as text: names that are JSON, and ``(N, C)`` probabilities."""

    def __init__(self, names: list[bytes], values: NDArray[np.floating[Any]]) -> None:
        self._names = names
        self._values = values

    def texts(self, start: int, stop: int) -> list[bytes]:
        """``,"name":0.1234,...`` of cells ``start..stop``; nothing where it saw none (rows of NaN)."""
        matrix = self._values[start:stop].astype(np.float64)
        seen = np.flatnonzero(np.isfinite(matrix.sum(axis=1)))
        numbers = four_decimals(matrix[seen])
        columns = [part for name, column in zip(self._names, numbers.T, strict=True) for part in (name, column)]
        texts = np.full(stop - start, b"", np.object_)
        texts[seen] = side_by_side(len(seen), *columns)
        return texts.tolist()


def _shared_text(area: str) -> list[bytes]:
    """A feature's text before its id, ring, class, score and area, and its end; between these stand the stages."""
    feature = {
        "type": "Feature",
        "id": _SLOT,
        "geometry": {"type": "Polygon", "coordinates": [[_SLOT]]},
        "properties": {
            "objectType": "detection",
            "classification": _SLOT,
            "measurements": {SCORE: _SLOT, area: _SLOT},
        },
    }
    return orjson.dumps(feature).split(_SLOT_JSON)


def _class_text(cell_class: CellClass) -> bytes:
    return orjson.dumps({"name": cell_class.name, "color": cell_class.color})


def _name_text(name: str) -> bytes:
    return b"," + orjson.dumps(name) + b":"
