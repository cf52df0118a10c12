"""Annotation XML: ASAP and Aperio ImageScope, parsed as a stream. defusedxml rejects document type declarations,
since entities can expand a small file or read other files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from slidecascade.errors import UnusableDataError
from slidecascade_evaluation.annotation import Annotation, Points
from slidecascade_evaluation.geojson import MAX_COORDINATE

_SHORTEST: Final = 3  # corners of a polygon


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Carries an error message through the parser."""


@dataclass(slots=True)
class _Shape:
    """A shape whose corners are being read."""

    kind: str
    class_name: str | None
    is_hole: bool = False
    corners: list[tuple[float, float]] = field(default_factory=list)

    @property
    def points(self) -> Points:
        return np.array(self.corners, np.float64).reshape(-1, 2)


class _Document(ContentHandler):
    """Collects shapes of both dialects from start elements; all data is in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.root: str | None = None
        self.shapes: list[_Shape] = []
        self._layer: list[_Shape] = []
        self._layer_name: str | None = None

    def startElement(self, tag: str, found: AttributesImpl) -> None:  # noqa: N802 - the parser's name
        attributes = dict(found.items())
        if self.root is None:
            self.root = tag
        elif self.root == "ASAP_Annotations":
            self._start_asap(tag, attributes)
        elif self.root == "Annotations":
            self._start_aperio(tag, attributes)

    def _start_asap(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "Annotation":
            group = attributes.get("PartOfGroup")
            self.shapes.append(_Shape(attributes.get("Type", "Polygon"), None if group == "None" else group))
        elif tag == "Coordinate" and self.shapes:
            self.shapes[-1].corners.append(_position(attributes))

    def _start_aperio(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "Annotation":
            self._layer, self._layer_name = [], attributes.get("Name") or None
        elif tag == "Attribute" and not self._layer_name:
            # ImageScope names a layer by its Name, or by an attribute called Description.
            if attributes.get("Name") == "Description":
                self._layer_name = attributes.get("Value") or None
        elif tag == "Region":
            own = attributes.get("Text") or None
            shape = _Shape(_APERIO_KINDS.get(attributes.get("Type", "0"), "Other"), own)
            shape.is_hole = attributes.get("NegativeROA") == "1"
            self.shapes.append(shape)
            self._layer.append(shape)
        elif tag == "Vertex" and self.shapes:
            self.shapes[-1].corners.append(_position(attributes))

    def endElement(self, tag: str) -> None:  # noqa: N802 - the parser's name
        if tag == "Annotation" and self.root == "Annotations":
            for shape in self._layer:  # the layer's name may come after its regions
                shape.class_name = self._layer_name or shape.class_name


_APERIO_KINDS: Final[Mapping[str, str]] = {"0": "Polygon", "1": "Rectangle", "2": "Ellipse", "5": "Dot"}


def parse(data: bytes, name: str) -> tuple[tuple[Annotation, ...], int]:
    """The annotations of an ASAP or ImageScope file, and how many shapes were neither points nor polygons.

    The class is ASAP's PartOfGroup; of ImageScope the layer's Name, its Description, or the region's Text.
    Regions with NegativeROA are holes of the containing polygon of their layer.

    Raises:
        UnusableDataError: not XML, neither of the two dialects, or with a document type declaration.
    """
    from defusedxml import DTDForbidden, sax

    document = _Document()
    try:
        sax.parseString(data, document, forbid_dtd=True)
    except DTDForbidden as error:
        raise UnusableDataError(
            f"{name} has a document type declaration, which annotations do not need: export the annotations again."
        ) from error
    except _Refused as error:
        raise UnusableDataError(f"{name} {error}.") from error
    except (SAXException, LookupError, ValueError) as error:
        raise UnusableDataError(f"{name} is not well-formed XML: export the annotations again.") from error
    if document.root not in ("ASAP_Annotations", "Annotations"):
        raise UnusableDataError(
            f"{name} is XML but neither of ASAP nor of Aperio ImageScope: export the annotations as GeoJSON."
        )
    return _assembled(document.shapes)


def _position(attributes: Mapping[str, str]) -> tuple[float, float]:
    try:
        # ASAP writes a decimal comma in locales that use one.
        x, y = (float(attributes[axis].replace(",", ".")) for axis in ("X", "Y"))
    except (KeyError, ValueError):
        raise _Refused("has a corner without a position: export the annotations again") from None
    if not (abs(x) <= MAX_COORDINATE and abs(y) <= MAX_COORDINATE):
        raise _Refused(
            "has a corner without a position, or with one that is on no slide: export the annotations again"
        )
    return x, y


def _assembled(shapes: list[_Shape]) -> tuple[tuple[Annotation, ...], int]:
    annotations: list[Annotation] = []
    holes: list[_Shape] = []
    left_out = 0
    for shape in shapes:
        points = shape.points
        if shape.kind in ("Dot", "PointSet") and len(points):
            annotations.append(Annotation.of_points(shape.class_name, points))
        elif shape.kind == "Ellipse" and len(points) >= 2:
            annotations.append(Annotation.of_polygon(shape.class_name, [_ellipse(points)]))
        elif shape.kind in ("Polygon", "Rectangle", "Spline") and len(points) >= _SHORTEST:
            if shape.is_hole:
                holes.append(shape)
            else:
                annotations.append(Annotation.of_polygon(shape.class_name, [points]))
        else:
            left_out += 1
    return tuple(_with_holes(item, holes) for item in annotations), left_out


def _ellipse(corners: Points) -> Points:
    """ImageScope stores an ellipse as the corners of its bounding box."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    turn = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    circle: Points = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    ellipse: Points = (low + high) / 2 + circle * (high - low) / 2
    return ellipse


def _with_holes(annotation: Annotation, holes: list[_Shape]) -> Annotation:
    inside = [
        hole.points
        for hole in holes
        if hole.class_name == annotation.class_name and annotation.contains(hole.points[:1]).all()
    ]
    if not (annotation.is_polygon and inside):
        return annotation
    return Annotation.of_polygon(annotation.class_name, [*annotation.rings_l0, *inside])
