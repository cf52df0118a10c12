"""GeoJSON as gzip, while it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from isal import isal_zlib

LEVEL = 1
GZIP_WINDOW = 31
"""What zlib's interface calls a window of 32 KiB in a gzip file instead of a bare stream."""

READ_BYTES = 2**18


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The gzip file of `pieces` joined, in pieces. It holds no date: the same cells give the same bytes."""
    stream = isal_zlib.compressobj(LEVEL, wbits=GZIP_WINDOW)
    for piece in pieces:
        if packed := stream.compress(piece):
            yield packed
    yield stream.flush()


def gunzipped(path: Path) -> Iterator[bytes]:
    """The content of a file that `gzipped` made, in pieces; raises EOFError when its end is missing."""
    stream = isal_zlib.decompressobj(GZIP_WINDOW)
    with path.open("rb") as file:
        while packed := file.read(READ_BYTES):
            yield stream.decompress(packed)
    if not stream.eof:
        raise EOFError(f"{path.name} is incomplete.")
