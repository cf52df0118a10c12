"""Ids that are the same for the same place on a slide, whatever region it was found in.

An id is the UUID version 5 of the outline as it is written (``[x,y],[x,y],...`` in level-0 pixels) in a namespace
that is itself the UUID version 5 of the slide's content, the pipeline, its models, thresholds and the pixel size.
Companions of a pipeline find nothing that has an id, and do not change ids.
"""

from __future__ import annotations

import hashlib
import uuid

import numpy as np
import orjson

from slidecascade.kinds.result import RegionResult
from slidecascade.outputs.columns import Column

ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:slidecascade:cells")
_UUID_DIGITS = np.dtype([(f"{group}", f"S{size}") for group, size in enumerate((8, 4, 4, 4, 12))])


def id_namespace(result: RegionResult) -> uuid.UUID:
    """The namespace of the ids: one for a slide's content, a pipeline, its models, thresholds, pixel size,
    channels, stain normalisation and averaging.
    """
    companions = {model.name for model in result.models if model.role == "companion"}
    parts = [
        result.facts.content_id,
        result.pipeline,
        [model.sha256 for model in result.models if model.name not in companions],
        sorted(item for item in result.thresholds.items() if item[0] not in companions),
        result.mpp,
        *([use.meaning, use.index] for use in result.facts.channels),
        *([] if result.tta == "none" else [["tta", result.tta]]),
        *([] if result.facts.stain is None else [["stain", result.facts.stain.method]]),
    ]
    return uuid.uuid5(ID_NAMESPACE, orjson.dumps(parts).decode())


def ids(namespace: bytes, outlines: list[bytes]) -> list[Column | bytes]:
    """``uuid.uuid5(namespace, outline)`` of every outline as columns, with the bit work done for all at once."""
    new = hashlib.sha1(namespace, usedforsecurity=False).copy  # in half the time of one from nothing
    digests = b"".join([_digest(new(), outline) for outline in outlines])
    octets = np.frombuffer(digests, np.uint8).reshape(len(outlines), 20)[:, :16].copy()
    octets[:, 6] = octets[:, 6] & 0x0F | 0x50
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(octets.tobytes().hex().encode(), _UUID_DIGITS)
    first, *others = (digits[name] for name in digits.dtype.names or ())
    return [first, *(part for other in others for part in (b"-", other))]


def _digest(started: hashlib._Hash, outline: bytes) -> bytes:
    started.update(outline)
    return started.digest()
