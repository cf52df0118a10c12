"""GeoJSON that the Digital Slide Archive and QuPath read alike, with classes and colours.

The Digital Slide Archive (large_image's ``GeoJSONAnnotation``) keeps of a feature's properties only its own:
``label``, ``group``, ``lineColor``, ``fillColor``, ``user`` and others; without them class and colour are lost.
QuPath ignores those and reads ``classification`` and ``measurements``. A feature therefore has both. Positions are
level-0 pixels from the slide's corner.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import orjson

from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.points import ring_texts
from slidecascade.exports.shapes import Shapes, shapes
from slidecascade.outputs.columns import Column, lines, side_by_side
from slidecascade.pipelines.classes import Color

_FILL_OPACITY: Final = 0.25


def dsa(folder: ResultFolder) -> Iterator[bytes]:
    """The feature collection, in pieces."""
    colors = folder.colors()
    object_type = "detection" if folder.summary.kind == "cells" else "annotation"
    tails = [_tail(name, colors[name], object_type) for name in folder.classes]
    head = {
        "research_use_only": folder.summary.research_use_only,
        "coordinate_space": folder.summary.coordinate_space,
        "origin": "slide",
        "mpp": folder.summary.mpp,
        "pipeline": folder.summary.pipeline,
    }
    yield b'{"type":"FeatureCollection","slidecascade":' + orjson.dumps(head) + b',"features":[\n'
    joint = b""
    for batch in shapes(folder):
        yield joint + b",\n".join(_features(batch, tails))
        joint = b",\n"
    yield b"\n]}\n"


def _features(batch: Shapes, tails: list[bytes]) -> Iterator[bytes]:
    rings = [b"[" + ring + ring[: ring.index(b"]") + 1] + b"]" for ring in ring_texts(batch, b"[", b",", b"],")]
    outlines = [b",".join(rings[first:end]) for first, end in pairwise(batch.shape_offsets.tolist())]
    measured = _measurements(batch)
    for name, outline, place, numbers in zip(
        batch.ids, outlines, batch.class_index.tolist(), measured, strict=True
    ):
        yield (
            b'{"type":"Feature","id":"'
            + name.encode()
            + b'","geometry":{"type":"Polygon","coordinates":['
            + outline
            + tails[place]
            + numbers
            + b'},"user":{'
            + numbers
            + b"}}}"
        )


def _tail(name: str, color: Color, object_type: str) -> bytes:
    """What follows the outline in each feature of a class, up to its measurements."""
    red, green, blue = color
    properties = {
        "objectType": object_type,
        "classification": {"name": name, "color": color},
        "label": {"value": name},
        "group": name,
        "lineColor": f"rgb({red},{green},{blue})",
        "fillColor": f"rgba({red},{green},{blue},{_FILL_OPACITY})",
        "lineWidth": 1,
    }
    return b']},"properties":' + orjson.dumps(properties)[:-1] + b',"measurements":{'


def _measurements(batch: Shapes) -> list[bytes]:
    """``"name":0.1234,...`` for each shape, without those it has not."""
    columns: list[Column | bytes] = []
    for name, values in batch.measurements.items():
        column = side_by_side(len(batch), orjson.dumps(name) + b":", _numbers(values), b",").copy()
        column[np.isnan(values)] = b""
        columns.append(column)
    return [text.removesuffix(b",") for text in lines(side_by_side(len(batch), *columns, b"\n"))]


def _numbers(values: np.ndarray) -> Column:
    """Numbers as JSON text with at most 4 decimals; NaN as 0."""
    rounded = np.round(np.nan_to_num(values), 4) + 0.0
    text = orjson.dumps(np.ascontiguousarray(rounded), option=orjson.OPT_SERIALIZE_NUMPY)
    return np.array(text[1:-1].split(b","))
