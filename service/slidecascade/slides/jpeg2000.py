"""JPEG 2000 codestreams that were cut in place and closed with an end marker, which OpenJPEG decodes in silence.

ITU-T T.800 annex A: a tile part states its length, and packets hold no two bytes from FF90 on but the markers
that may stand between them (SOP, EPH). So an end marker before a tile part's end is damage: whole data has none.
Bytes that are overwritten with others are not noticed, for the format has no checksum, and a tile part that states
no length is not judged.
"""

from __future__ import annotations

import re
import struct

_START, _TILE_PART, _DATA = b"\xff\x4f", 0xFF90, b"\xff\x93"
_NOT_IN_PACKETS = re.compile(rb"\xff[\x90\x93-\xff]", re.DOTALL)
_MAX_TILE_PARTS = 2**16


def damage(data: bytes) -> str | None:
    """The damage of a codestream; None without damage, or for data that is not a bare codestream."""
    if not data.startswith(_START):
        return None
    try:
        return _first_damage(data)
    except struct.error:
        return "premature end of JPEG 2000 data"


def _first_damage(data: bytes) -> str | None:
    position = len(_START)
    for _ in range(_MAX_TILE_PARTS):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker != _TILE_PART:
            position += 2 + length
            continue
        (part_length,) = struct.unpack_from(">I", data, position + 6)
        end = position + part_length
        if part_length == 0:  # goes on to the end marker, wherever that is
            return None
        start = data.find(_DATA, position + 12, end)
        if start < 0 or end > len(data):
            return "premature end of JPEG 2000 data"
        found = _NOT_IN_PACKETS.search(data, start + 2, end)
        if found is not None:
            return f"marker {found[0].hex().upper()} inside JPEG 2000 data"
        position = end
        if data[position : position + 2] in (b"\xff\xd9", b""):
            return None
    return None
