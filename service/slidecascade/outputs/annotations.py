"""Outlines with holes as GeoJSON annotations that QuPath imports.

What QuPath insists on (``QuPathTypeAdapters``, 0.4 to 0.8): every classification has a colour, rings are closed,
``objectType`` is named, measurements are a mapping of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import orjson

from slidecascade.outputs.columns import lines, side_by_side
from slidecascade.outputs.ids import ids
from slidecascade.outputs.provenance import Provenance
from slidecascade.outputs.rings import closed_rings
from slidecascade.pipelines.classes import CellClass
from slidecascade.rings import Rings

CHUNK = 1024
MOST_BYTES_EACH = 1000
"""Most bytes of an annotation without its outline."""


def collection_begin(provenance: Provenance) -> bytes:
    """The beginning of a feature collection, whose features follow, joined by `JOINT`."""
    member = orjson.dumps(provenance.model_dump(mode="json"))
    return b'{"type":"FeatureCollection","slidecascade":' + member + b',"features":[\n'


COLLECTION_END = b"\n]}\n"
JOINT = b",\n"


def written(
    namespace: bytes,
    rings: Rings,
    classes: Sequence[CellClass],
    measurements: Sequence[Mapping[str, float]],
    *,
    origin_l0: tuple[int, int],
) -> Iterator[bytes]:
    """A feature for each piece of `rings`, whose classes and measurements are given piece by piece.

    Written positions count from `origin_l0`, ids from the corner of level 0.
    """
    origin = np.array(origin_l0, np.float64)
    for start in range(0, len(rings), CHUNK):
        stop = min(start + CHUNK, len(rings))
        places = rings.piece_offsets[start : stop + 1]
        offsets = rings.ring_offsets[places[0] : places[-1] + 1]
        vertices = rings.vertices[offsets[0] : offsets[-1]]
        texts = closed_rings(vertices, offsets - offsets[0])
        pieces = (places - places[0]).tolist()
        outlines = _by_piece(texts, pieces)
        shown = (
            _by_piece(closed_rings(vertices - origin, offsets - offsets[0]), pieces) if origin.any() else outlines
        )
        names = lines(side_by_side(stop - start, *ids(namespace, outlines), b"\n"))
        for name, outline, end, measured in zip(
            names, shown, classes[start:stop], measurements[start:stop], strict=True
        ):
            yield (
                b'{"type":"Feature","id":"'
                + name
                + b'","geometry":{"type":"Polygon","coordinates":[['
                + outline
                + b']]},"properties":{"objectType":"annotation","classification":'
                + class_text(end)
                + b',"measurements":'
                + orjson.dumps(measured)
                + b"}}"
            )


def _by_piece(rings: list[bytes], pieces: list[int]) -> list[bytes]:
    return [b"],[".join(rings[first:end]) for first, end in pairwise(pieces)]


def class_text(end: CellClass) -> bytes:
    """A classification as JSON."""
    return orjson.dumps({"name": end.name, "color": end.color})


def joined(features: Iterator[bytes]) -> Iterator[bytes]:
    """`features` with what joins them, in pieces of many."""
    first = True
    pending: list[bytes] = []
    for feature in features:
        pending.append(feature if first else JOINT + feature)
        first = False
        if len(pending) == CHUNK:
            yield b"".join(pending)
            pending.clear()
    yield b"".join(pending)
