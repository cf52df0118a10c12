"""GeoJSON as gzip, while it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from isal import igzip, isal_zlib

LEVEL = 1
GZIP_WINDOW = 31
"""What zlib's interface calls a window of 32 KiB in a gzip file instead of a bare stream."""


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The gzip file of `pieces` joined, in pieces. It holds no date: the same cells give the same bytes."""
    stream = isal_zlib.compressobj(LEVEL, wbits=GZIP_WINDOW)
    for piece in pieces:
        yield stream.compress(piece)
    yield stream.flush()


def gunzipped(path: Path) -> Iterator[bytes]:
    """The content of a gzip file, in pieces of 1 MiB."""
    with igzip.open(path, "rb") as file:  # type: ignore[no-untyped-call]  # the library leaves it untyped
        while piece := file.read(2**20):
            yield piece
