"""Temporary files for bodies that may be large."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

MEMORY_BYTES = 8 * 2**20
"""Larger responses are stored on disk."""


@contextmanager
def spool() -> Iterator[IO[bytes]]:
    """A file to write to; rewound and left open at the end of the block, closed when the block fails."""
    file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115  # it outlives the block
    try:
        yield file
        file.seek(0)
    except BaseException:
        file.close()
        raise
