"""Annotation XML of ASAP and of Aperio ImageScope.

Structures as ASAP reads them (``XmlRepository.cpp``, ``ImageScopeRepository.cpp``). Positions are level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import quoteattr

import numpy as np

from slidecascade.errors import InvalidRequestError
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.points import ring_texts
from slidecascade.exports.shapes import Shapes, shapes
from slidecascade.wire import RESEARCH_USE_ONLY

_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def asap(folder: ResultFolder) -> Iterator[bytes]:
    """ASAP's XML, in pieces: an annotation for each outline, a group for each class.

    Raises:
        InvalidRequestError: an outline has holes, which the format has not.
    """
    colors = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in folder.colors().items()}
    heads = [
        f' Type="Polygon" PartOfGroup={quoteattr(name)} Color="{colors[name]}">\n<Coordinates>\n'.encode()
        for name in folder.classes
    ]
    yield _DECLARATION + f"<!-- {RESEARCH_USE_ONLY} -->\n<ASAP_Annotations>\n<Annotations>\n".encode()
    for batch in shapes(folder):
        if batch.has_holes:
            raise InvalidRequestError(
                "ASAP's format has no holes, which this result has: export it as dsa or aperio."
            )
        rings = ring_texts(batch, b'" X="', b'" Y="', b'"/>\n', order=b'<Coordinate Order="')
        yield b"".join(
            b'<Annotation Name="' + name.encode() + b'"' + heads[place] + ring + b"</Coordinates>\n</Annotation>\n"
            for name, place, ring in zip(batch.ids, batch.class_index.tolist(), rings, strict=True)
        )
    yield b"</Annotations>\n<AnnotationGroups>\n"
    for name in folder.classes:
        yield (
            f'<Group Name={quoteattr(name)} PartOfGroup="None" Color="{colors[name]}"><Attributes/></Group>\n'
        ).encode()
    yield b"</AnnotationGroups>\n</ASAP_Annotations>\n"


def aperio(folder: ResultFolder) -> Iterator[bytes]:
    """ImageScope's XML, in pieces: a layer for each class, a negative region for each hole.

    The shapes are read once for each class, because its regions lie together. Whether programs take the bytes of
    ``LineColor`` as RGB or BGR differs: it is written as ImageScope is reported to, blue in the highest byte.
    """
    colors = folder.colors()
    yield _DECLARATION + f"<!-- {RESEARCH_USE_ONLY} -->\n".encode()
    mpp = folder.summary.mpp
    yield b"<Annotations>\n" if mpp is None else f'<Annotations MicronsPerPixel="{mpp:.6g}">\n'.encode()
    for place, name in enumerate(folder.classes):
        red, green, blue = colors[name]
        yield (
            f'<Annotation Id="{place + 1}" Name={quoteattr(name)} Type="4" Visible="1" ReadOnly="0"'
            f' LineColor="{red | green << 8 | blue << 16}">\n<Regions>\n'
        ).encode()
        regions = 0
        for batch in shapes(folder) if folder.summary.counts[name] else ():
            chosen = batch.of_class(place)
            if len(chosen):
                yield _regions(chosen, name, first=regions + 1)
                regions += len(chosen.ring_offsets) - 1
        yield b"</Regions>\n</Annotation>\n"
    yield b"</Annotations>\n"


def _regions(chosen: Shapes, name: str, *, first: int) -> bytes:
    """A region for each ring, numbered from `first`."""
    rings = ring_texts(chosen, b'<Vertex X="', b'" Y="', b'" Z="0"/>\n')
    is_hole = np.ones(len(rings), np.bool_)
    is_hole[chosen.shape_offsets[:-1]] = False
    end = f' Type="0" Text={quoteattr(name)} NegativeROA="'.encode()
    return b"".join(
        b'<Region Id="%d"' % number
        + end
        + (b'1">\n<Vertices>\n' if hole else b'0">\n<Vertices>\n')
        + ring
        + b"</Vertices>\n</Region>\n"
        for number, (hole, ring) in enumerate(zip(is_hole.tolist(), rings, strict=True), start=first)
    )
