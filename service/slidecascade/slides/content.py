"""What identifies a slide: a digest of its files that needs no full read.

A slide of gigabytes is identified by the sizes of its files, their heads and tails, and blocks spread
evenly over them: two scans differ in all of these, for scanners write compressed pixels. OpenSlide's
``quickhash-1`` (a digest of properties and of the smallest level, where the format has one) takes part. Names of
files do not, so that a copy under another name is the same slide.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

EDGE_BYTES: Final = 65_536
"""Read of each file from its start and from its end."""

BLOCKS: Final = 16
BLOCK_BYTES: Final = 4_096
"""Blocks read of each file between the two, and their size."""

_VERSION: Final = b"slidecascade-content-1"
_SERIES_TAG: Final = b"\x20\x00\x0e\x00UI"
_INSTANCE_TAG: Final = b"\x08\x00\x18\x00UI"
_FOLDER_FORMATS: Final = frozenset({".mrxs"})
_NAMED_FORMATS: Final = frozenset({".vms", ".vmu"})


def id_of_bytes(data: bytes | memoryview) -> str:
    """The content id of an uploaded image: 64 hexadecimal digits of all its bytes."""
    return hashlib.sha256(data, usedforsecurity=False).hexdigest()


def id_of_files(paths: Sequence[Path], *, quickhash: str | None = None) -> str:
    """The content id of a slide in `paths`, whatever their names and order: 64 hexadecimal digits.

    Reads 192 KiB of each file at most.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256(_VERSION, usedforsecurity=False)
    digest.update(f"|{quickhash or ''}|{len(paths)}|".encode())
    for part in sorted(map(_digest_of_file, paths)):
        digest.update(part)
    return digest.hexdigest()


def files_of(path: Path, *, series: str | None = None) -> tuple[Path, ...]:
    """The files that make the slide at `path`, itself included.

    A MIRAX slide is a file and a folder of the same name, a Hamamatsu VMS or VMU slide a file and those whose
    names begin as its own does, a DICOM slide the files of the same folder that belong to the same `series` (its
    SeriesInstanceUID); other formats are one file.

    Raises:
        OSError: a folder cannot be listed.
    """
    suffix = path.suffix.lower()
    if suffix in _FOLDER_FORMATS:
        folder = path.with_suffix("")
        return (path, *(item for item in sorted(folder.rglob("*")) if item.is_file()))
    if suffix in _NAMED_FORMATS:
        return tuple(item for item in sorted(path.parent.iterdir()) if item.name.startswith(path.stem))
    if series is not None:
        beside = (item for item in sorted(path.parent.iterdir()) if item != path and item.is_file())
        return (path, *(item for item in beside if _is_of_series(item, series)))
    return (path,)


def is_instance(path: Path, instance: str) -> bool:
    """Whether a DICOM file holds the instance with this SOPInstanceUID; raises OSError."""
    return _has_element(path, _INSTANCE_TAG, instance)


def _is_of_series(path: Path, series: str) -> bool:
    return _has_element(path, _SERIES_TAG, series)


def _has_element(path: Path, tag: bytes, uid: str) -> bool:
    """Whether the head of a file holds the element with this value (explicit little endian)."""
    value = uid.encode("ascii", "replace")
    value += b"\0" * (len(value) % 2)
    element = tag + len(value).to_bytes(2, "little") + value
    with path.open("rb") as file:
        return element in file.read(EDGE_BYTES)


def _digest_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"), usedforsecurity=False)
        _update(digest, file, 0, EDGE_BYTES)
        between = size - 2 * EDGE_BYTES
        if between > BLOCKS * BLOCK_BYTES:
            for index in range(BLOCKS):
                _update(digest, file, EDGE_BYTES + index * (between - BLOCK_BYTES) // (BLOCKS - 1), BLOCK_BYTES)
        elif between > 0:
            _update(digest, file, EDGE_BYTES, between)
        _update(digest, file, max(EDGE_BYTES, size - EDGE_BYTES), EDGE_BYTES)
        return digest.digest()


def _update(digest: hashlib._Hash, file: BinaryIO, start: int, length: int) -> None:
    file.seek(start)
    digest.update(file.read(length))
