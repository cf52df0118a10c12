"""The strips and tiles a TIFF image is stored in, and which of them are damaged."""

from __future__ import annotations

from slidecascade.slides import jpeg, tiff
from slidecascade.slides.tiff import ByteSource, Directory


def part_damage(source: ByteSource, directory: Directory, index: int) -> str | None:
    """What is damaged in a stored strip or tile; None when it is whole, empty, or cannot be judged.

    JPEG alone is judged: the decoders of every other compression report missing data themselves.
    """
    if directory.first(tiff.COMPRESSION, 1) != tiff.JPEG_COMPRESSION or not directory.part_bytes[index]:
        return None
    return jpeg.damage(jpeg.with_tables(directory.jpeg_tables, directory.part(source, index)))


def first_damage(source: ByteSource, directory: Directory) -> str | None:
    """What is damaged in the first damaged part of an image, which is named; None when there is none."""
    if directory.first(tiff.COMPRESSION, tiff.UNCOMPRESSED) != tiff.JPEG_COMPRESSION:
        return None
    for index in range(len(directory.part_offsets)):
        if (damage := part_damage(source, directory, index)) is not None:
            kind = "tile" if tiff.TILE_OFFSETS in directory.tags else "strip"
            return f"{damage}, in {kind} {index} of {len(directory.part_offsets)}"
    return None
