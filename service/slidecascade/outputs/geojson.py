"""Cells as a GeoJSON feature collection that QuPath imports as detections.

What QuPath insists on (``QuPathTypeAdapters``, 0.4 to 0.8): every classification has a colour, rings are
closed, properties are never null, ``objectType`` is named (a missing one makes an annotation of each cell),
measurements are a mapping of numbers. Ids that are UUIDs are kept, others are replaced.

Measurements of a cell:

- ``Detection score``: the segmenter's mean foreground probability;
- ``Area µm^2``: area of the outline in square micrometres;
- ``<model> <class> probability``, e.g. ``nash-cell Hepatocyte probability``: for every class of every
  classifier that saw the cell; absent where a classifier did not see it.

An id is the UUID version 5 of the ring as it is written (``[x,y],[x,y],...``) in a namespace that is itself the
UUID version 5 of region, pipeline and models: the same analysis gives the same ids again.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from slidecascade.analysis import Analysis, CellClass
from slidecascade.errors import ModelFailedError
from slidecascade.outputs.provenance import provenance

CHUNK_CELLS = 1024
ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:slidecascade:cells")

# Stands for the parts of a feature that differ from cell to cell: a string that is no class or model name.
_SLOT = "\x00"
_SLOT_JSON = orjson.dumps(_SLOT)


def encode(analysis: Analysis) -> Iterator[bytes]:
    """The feature collection as UTF-8 JSON, in pieces of about 1 MB (`CHUNK_CELLS` cells).

    Coordinates are level-0 pixels with 2 decimals; outlines are written as closed rings. The foreign member
    ``slidecascade`` (see `Provenance`) comes before the features.

    Raises:
        ModelFailedError: before the first piece, when a coordinate, area or score is not a finite number.
    """
    _refuse_non_finite(analysis)
    return _pieces(analysis)


def _pieces(analysis: Analysis) -> Iterator[bytes]:
    member = orjson.dumps(provenance(analysis).model_dump(mode="json"))
    yield b'{"type":"FeatureCollection","slidecascade":' + member + b',"features":[\n'
    templates = _Templates(analysis)
    namespace = id_namespace(analysis).bytes
    for start in range(0, len(analysis.instances), CHUNK_CELLS):
        stop = min(start + CHUNK_CELLS, len(analysis.instances))
        rings = _rings(analysis, start, stop)
        features = templates.fill(start, stop, _ids(namespace, rings), rings)
        yield (b",\n" if start else b"") + b",\n".join(features)
    yield b"\n]}\n"


def id_namespace(analysis: Analysis) -> uuid.UUID:
    """The namespace of the ids: one per region, pipeline and set of model weights."""
    parts = [analysis.region_l0.as_tuple(), analysis.pipeline, [model.sha256 for model in analysis.models]]
    return uuid.uuid5(ID_NAMESPACE, orjson.dumps(parts).decode())


def _refuse_non_finite(analysis: Analysis) -> None:
    cells = analysis.instances
    # One bad number makes the sum bad: no temporary array as large as the cells.
    if not all(math.isfinite(float(array.sum())) for array in (cells.vertices, cells.areas, cells.scores)):
        raise ModelFailedError(
            "The segmenter produced cells whose outline, area or score is not a finite number;"
            " check the model with `slidecascade models verify`."
        )


def _rings(analysis: Analysis, start: int, stop: int) -> list[bytes]:
    """The closed rings of cells ``start..stop`` as JSON text ``[x,y],[x,y],...`` without outer brackets."""
    offsets = analysis.instances.offsets[start : stop + 1]
    vertices = np.round(analysis.instances.vertices[offsets[0] : offsets[-1]], 2) + 0.0  # no "-0.0"
    offsets = offsets - offsets[0]
    # Every ring grows by one: its first vertex again at its end.
    last = offsets[1:] + np.arange(stop - start)
    source = np.arange(len(vertices) + stop - start) - np.repeat(np.arange(stop - start), np.diff(offsets) + 1)
    source[last] = offsets[:-1]
    text = orjson.dumps(vertices[source], option=orjson.OPT_SERIALIZE_NUMPY)
    # All vertices were written at once; the ring's place in the text is told by its vertices' brackets.
    brackets = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("]"))
    ends = (brackets[last] + 1).tolist()
    starts = [1, *(end + 1 for end in ends[:-1])]
    return [text[begin:end] for begin, end in zip(starts, ends, strict=True)]


def _ids(namespace: bytes, rings: list[bytes]) -> list[bytes]:
    """``uuid.uuid5(namespace, ring)`` of every ring as text, with the bit work done for all at once."""
    started = hashlib.sha1(namespace, usedforsecurity=False)  # a copy is made in half the time of a new one
    digests = b"".join([_digest(started.copy(), ring) for ring in rings])
    octets = np.frombuffer(digests, np.uint8).reshape(len(rings), 20)[:, :16].copy()
    octets[:, 6] = octets[:, 6] & 0x0F | 0x50
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(octets.tobytes().hex().encode(), np.uint8).reshape(len(rings), 32)
    text = np.full((len(rings), 36), ord("-"), np.uint8)
    for group, (begin, end) in enumerate(((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))):
        text[:, begin + group : end + group] = digits[:, begin:end]
    joined = text.tobytes()
    return [joined[begin : begin + 36] for begin in range(0, len(joined), 36)]


def _digest(started: hashlib._Hash, ring: bytes) -> bytes:
    started.update(ring)
    return started.digest()


@dataclass(frozen=True, slots=True)
class _Stage:
    """One classifier: its measurement names and ``(N, C)`` probabilities, NaN rows where it saw no cell."""

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]


class _Templates:
    """Features with slots for id, ring and measurements; one per class and set of stages that saw the cell."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._stages = tuple(
            _Stage(tuple(f"{model.name} {name} probability" for name in model.classes), matrix)
            for model, matrix in zip(analysis.models[1:], analysis.instances.probabilities, strict=True)
        )
        self._by_key = tuple(
            self._write(cell_class, stages_seen)
            for cell_class in analysis.classes
            for stages_seen in range(1 << len(self._stages))
        )

    def fill(self, start: int, stop: int, ids: list[bytes], rings: list[bytes]) -> list[bytes]:
        """The features of cells ``start..stop``."""
        rows, stages_seen = self._measurements(start, stop)
        keys = (self._analysis.class_index[start:stop] << len(self._stages)) + stages_seen
        cells = zip(keys.tolist(), ids, rings, rows, strict=True)
        return [self._by_key[key] % (cell_id, ring, *row.split(b",")) for key, cell_id, ring, row in cells]

    def _measurements(self, start: int, stop: int) -> tuple[list[bytes], NDArray[np.int64]]:
        """Every cell's numbers as text ``1.0,2.5``, and as bits which stages saw the cell."""
        cells = self._analysis.instances
        scores = cells.scores[start:stop].astype(np.float64)
        areas_um2 = cells.areas[start:stop] * self._analysis.mpp**2
        columns = [np.column_stack([np.round(scores, 4), np.round(areas_um2, 2)])]
        stages_seen = np.zeros(stop - start, np.int64)
        for bit, stage in enumerate(self._stages):
            matrix = stage.probabilities[start:stop].astype(np.float64)
            saw = np.isfinite(matrix.sum(axis=1))
            stages_seen |= saw.astype(np.int64) << bit
            columns.append(np.where(saw[:, None], np.round(matrix, 4), np.nan))
        text = orjson.dumps(np.hstack(columns), option=orjson.OPT_SERIALIZE_NUMPY)
        # NaN is written as null; what a stage did not see is left out.
        return text[2:-2].replace(b",null", b"").split(b"],["), stages_seen

    def _write(self, cell_class: CellClass, stages_seen: int) -> bytes:
        names = ["Detection score", "Area µm^2"]
        for bit, stage in enumerate(self._stages):
            if stages_seen >> bit & 1:
                names.extend(stage.names)
        feature = {
            "type": "Feature",
            "id": _SLOT,
            "geometry": {"type": "Polygon", "coordinates": _SLOT},
            "properties": {
                "objectType": "detection",
                "classification": {"name": cell_class.name, "color": cell_class.color},
                "measurements": dict.fromkeys(names, _SLOT),
            },
        }
        before_id, between, *after = orjson.dumps(feature).replace(b"%", b"%%").split(_SLOT_JSON)
        return before_id + b'"%b"' + between + b"[[%b]]" + b"%b".join(after)
