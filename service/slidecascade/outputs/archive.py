"""All answers of a region at once: a zip that is written while it is sent, or a folder."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from slidecascade.outputs.files import Files
from slidecascade.outputs.gzipped import gzipped
from slidecascade.staging import write_file

TEXT_LEVEL = 1
"""Deflate level of text: higher levels save little and cost more than the rest of the encoding."""

PNG_LEVEL = 0
"""A PNG is compressed already. Deflate of level 0 keeps it as it is and, unlike the zip method "stored", says
where it ends, which readers that cannot seek (such as Java's ``ZipInputStream``) need."""

ZIP64_BYTES = 2**31
"""A file that may be larger must be announced before its size is known. Not announced where it is not needed:
readers that cannot seek trip over it."""


def encode(files: Files) -> Iterator[bytes]:
    """A zip of `files`, in pieces.

    One small file or one piece of the large one is in memory at a time. The same files give the same bytes.
    """
    return _zipped(files.small, files.large_name, files.large, zip64=files.most_bytes >= ZIP64_BYTES)


def write_folder(files: Files, folder: Path, *, gzip: bool = False) -> tuple[Path, ...]:
    """`files` in `folder`, which is made when needed; their paths.

    With `gzip` the large one is in ``NAME.gz``, which takes a quarter of the space. A file appears complete or not
    at all; one of the same name is replaced.

    Raises:
        UnwritableOutputError: when the folder cannot be made or written.
    """
    written = []
    for name, content in files.small:
        write_file(folder / name, content)
        written.append(folder / name)
    large = folder / (f"{files.large_name}.gz" if gzip else files.large_name)
    write_file(large, gzipped(files.large) if gzip else files.large)
    return (*written, large)


def _zipped(
    small: Iterator[tuple[str, bytes]], large_name: str, large: Iterator[bytes], *, zip64: bool
) -> Iterator[bytes]:
    """A zip of `small` files by name and of one large one, in chunks, each made on demand."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_DEFLATED, compresslevel=TEXT_LEVEL) as archive:
        for name, content in small:
            entry = zipfile.ZipInfo(name)  # dated 1980: the time of day is no part of the result
            level = PNG_LEVEL if name.endswith(".png") else TEXT_LEVEL
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, level)
            yield outbox.take()
        with archive.open(large_name, "w", force_zip64=zip64) as member:
            for piece in large:
                member.write(piece)
                yield outbox.take()
    yield outbox.take()


class _Outbox:
    """Where `zipfile` writes to; it cannot seek, so the zip is written as for a pipe."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def take(self) -> bytes:
        """What was written since the last time; maybe nothing."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
