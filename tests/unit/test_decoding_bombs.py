"""Small files that ask for much: each is refused for what its header says, or costs no more than it shows."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from PIL import Image

import png_files
from slidecascade.errors import RegionTooLargeError, UndecodableImageError
from slidecascade.slides import tiff
from slidecascade.slides.upload import decode_image, open_image

MAX_PX = 100_000_000
SOON_S = 10
"""Far more than any of these takes, even on a busy machine, and far less than what the file asks for."""


def webp_canvas(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of(width: int, height: int) -> bytes:
    """A deflated grey TIFF that states this size and has one strip of a few bytes."""
    fields = (
        (256, width),
        (257, height),
        (258, 8),
        (259, 8),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 8),
    )
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(fields)) + entries + bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        png_files.png(png_files.header(2**20, 2**11, 16, png_files.RGBA), b"x"),
        tiff_of(2**31, 2**31),
        tiff_of(100_000, 100_000),
        webp_canvas(16_384, 16_384),
        webp_canvas(2**24, 2**24),
    ],
    ids=["png", "tiff beyond all memory", "tiff", "webp", "webp beyond its own limits"],
)
def test_more_pixels_than_are_taken_are_refused_by_the_header(data: bytes) -> None:
    """413, before a byte of the pixels is looked at."""
    with pytest.raises(RegionTooLargeError, match="at most 100000000"):
        open_image(data, max_px=MAX_PX)


def test_a_row_longer_than_any_scanner_writes_is_refused() -> None:
    """A PNG of one row has to be held whole, so its length is bounded."""
    row = png_files.png(png_files.header(2**20 + 1, 1, 16, png_files.RGBA), b"x")
    with pytest.raises(UndecodableImageError, match="1048577 pixels wide, at most 1048576"):
        open_image(row, max_px=MAX_PX)


def animated(kind: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(200)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    """Which frame is meant is not guessed, and the others are not decoded."""
    with pytest.raises(UndecodableImageError, match=f"(?i){kind} image is an animation: send one frame"):
        open_image(animated(kind), max_px=MAX_PX)


def test_of_a_tiff_with_thousands_of_pages_two_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is decoded, the second tells whether it is a stack."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for number in range(2000):
            writer.write(np.full((8 + number % 2, 8), number % 256, np.uint8), metadata=None)
    read, seen = tiff.read_directory, list[int]()

    def counted(source: tiff.ByteSource, offset: int) -> tiff.Directory:
        seen.append(offset)
        return read(source, offset)

    monkeypatch.setattr(tiff, "read_directory", counted)
    assert decode_image(stream.getvalue(), max_px=MAX_PX).pixels.shape == (8, 8, 3)
    assert len(set(seen)) == 2


def jpeg_of(scans: int, side: int) -> bytes:
    """Markers only: a progressive JPEG of `side` pixels that says it has so many scans."""
    frame = struct.pack(">HBHHB", 11, 8, side, side, 1) + bytes([1, 0x11, 0])
    scan = struct.pack(">HB", 8, 1) + bytes([1, 0, 0, 0, 0])
    return b"\xff\xd8\xff\xc2" + frame + (b"\xff\xda" + scan + b"\0") * scans + b"\xff\xd9"


def test_scans_of_a_jpeg_are_bounded_by_what_they_cost() -> None:
    """Each scan is a pass over the whole image: a hundred of a small one, twenty of the largest."""
    for scans, side in ((100, 3000), (20, 10_000), (40, 5000)):
        assert open_image(jpeg_of(scans, side), max_px=MAX_PX).header.size.width == side
        with pytest.raises(UndecodableImageError, match=f"{scans + 1} scans, at most {scans} are read"):
            open_image(jpeg_of(scans + 1, side), max_px=MAX_PX)


def strip_of_zeros() -> bytes:
    """A TIFF of 64 x 64 pixels whose one strip inflates to a gigabyte."""
    packed = png_files.zlib_zeros(2**30)
    data = bytearray(tiff_of(64, 64) + packed)
    for at in range(18, 18 + 12 * 9, 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (273, 279):
            struct.pack_into("<I", data, at + 8, len(data) - len(packed) if tag == 273 else len(packed))
    return bytes(data)


def rows_without_end() -> bytes:
    """A PNG of 64 x 64 pixels whose stream inflates to a gigabyte."""
    return png_files.png(png_files.header(64, 64, 8, png_files.GREY), png_files.zlib_zeros(2**30))


@pytest.mark.parametrize("make", [strip_of_zeros, rows_without_end])
def test_what_is_beyond_the_pixels_is_not_inflated(make: Callable[[], bytes]) -> None:
    """The pixels that the header states come out, and soon."""
    data = make()
    started = time.monotonic()
    assert not decode_image(data, max_px=MAX_PX).pixels.any()
    assert time.monotonic() - started < SOON_S
