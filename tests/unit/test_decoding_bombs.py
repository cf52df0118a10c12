"""Small files that ask for much: each is refused for what its header says, or costs no more than it shows."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import png_files
from slidecascade.errors import RegionTooLargeError, UndecodableImageError
from slidecascade.geometry import Box
from slidecascade.slides import omexml, tiff
from slidecascade.slides.stack import stack_in
from slidecascade.slides.upload import decode_image, open_image
from slidecascade_convert.keras_files import read_archive

MAX_PX = 100_000_000
SOON_S = 0.5
"""Far more of a core than these take, and less than a gigabyte does."""


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
    """The first is decoded, the second shows whether it is a stack."""
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


def test_what_is_beyond_the_pixels_is_not_inflated() -> None:
    """A gigabyte in a few kilobytes: of a PNG the pixels come out, a TIFF is refused, and both soon."""
    packed = (rows_without_end(), strip_of_zeros())
    started = time.process_time()
    assert not decode_image(packed[0], max_px=MAX_PX).pixels.any()
    with pytest.raises(UndecodableImageError, match="more deflate data than there are pixels, in strip 0 of 1"):
        decode_image(packed[1], max_px=MAX_PX)
    assert time.process_time() - started < SOON_S


def stack_of_zeros() -> bytes:
    """Two channels of 64 x 64 pixels, the first of which inflates to a gigabyte."""
    stream, packed = io.BytesIO(), png_files.zlib_zeros(2**30)
    tifffile.imwrite(stream, np.zeros((2, 64, 64), np.uint8), compression="zlib", photometric="minisblack")
    data = bytearray(stream.getvalue())
    directory = struct.unpack_from("<I", data, 4)[0]
    for at in range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0], 12):
        tag, _, count = struct.unpack_from("<HHI", data, at)
        if tag in (273, 279):
            assert count == 1
            value = len(data) if tag == 273 else len(packed)
            struct.pack_into("<HHII", data, at, tag, 4, 1, value)
    return bytes(data + packed)


def read_stack_of_zeros(folder: Path) -> object:
    stack = stack_in((folder / "bomb").read_bytes())
    assert stack is not None
    return stack.read(0, Box(0, 0, 64, 64), (0, 1))


def keras_archive() -> bytes:
    """A Keras archive whose configuration has a gigabyte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("config.json", "w") as member:
        for _ in range(2**10):
            member.write(bytes(2**20))
    return stream.getvalue()


def laughs() -> str:
    """OME-XML of a few lines that are a gigabyte when its entities are put in."""
    lines = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY e0 "x">{lines}]><OME>&e9;</OME>'


@dataclass(frozen=True)
class Door:
    """What unpacks a file, and the sentence that it refuses the bomb with; empty: it takes what is asked for."""

    bomb: Callable[[], bytes]
    unpack: Callable[[Path], object]
    sentence: str


def read_image(folder: Path) -> object:
    return decode_image((folder / "bomb").read_bytes(), max_px=MAX_PX)


DOORS = {
    "png": Door(rows_without_end, read_image, ""),
    "tiff": Door(strip_of_zeros, read_image, "more deflate data than there are pixels"),
    "stack": Door(stack_of_zeros, read_stack_of_zeros, "more deflate data than there are pixels"),
    "ome-xml": Door(lambda: laughs().encode(), lambda at: omexml.channels((at / "bomb").read_text()), ""),
    "keras": Door(keras_archive, lambda at: read_archive(at / "bomb", at), "config.json"),
}

BOUNDED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_decoding_bombs as bombs
from slidecascade.errors import SlideCascadeError
bombs.decode_image(bombs.png_files.zeros(64, 64), max_px=10**6)
used = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (int(used.split()[1]) * 1024 + 2**28,) * 2)
try:
    bombs.DOORS[sys.argv[2]].unpack(Path(sys.argv[3]))
except SlideCascadeError as error:
    print(error.detail)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux")
@pytest.mark.parametrize("name", DOORS)
def test_a_bomb_is_met_with_bounded_memory(name: str, tmp_path: Path) -> None:
    """At every door: a gigabyte in a megabyte or less, with 256 MiB to unpack it in."""
    data = DOORS[name].bomb()
    assert len(data) < 2**21
    (tmp_path / "bomb").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(Path(__file__).parent), name, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert DOORS[name].sentence in done.stdout
    assert bool(DOORS[name].sentence) == bool(done.stdout)


def test_tiles_that_are_mostly_empty_are_refused() -> None:
    """A narrow image in tiles that are 128 times as high: all of each would be decoded."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((64, 64), np.uint8), tile=(64, 64), metadata=None)
    data = bytearray(stream.getvalue())
    wanted = {256: 10_000, 257: 64, 322: 16, 323: 8192}
    directory = struct.unpack_from("<I", data, 4)[0]
    for at in range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0], 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in wanted:
            struct.pack_into("<HII", data, at + 2, 4, 1, wanted[tag])

    assert open_image(bytes(data), max_px=30_000_000).header.size.width == 10_000
    with pytest.raises(RegionTooLargeError, match="mostly empty: save it with smaller tiles"):
        open_image(bytes(data), max_px=10_000_000)


def test_scans_of_a_jpeg_strip_are_bounded() -> None:
    """A strip of a TIFF is followed to its end, so what it may cost is looked at first."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "TIFF", compression="jpeg", tiffinfo={278: 64})
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as file:
        tags = file.pages[0].tags
        places = [(tags["StripOffsets"], len(data)), (tags["StripByteCounts"], 0)]
    strip = jpeg_of(101, 64)
    for tag, value in places:
        size, kind = (2, "<H") if tag.dtype == 3 else (4, "<I")
        data[tag.valueoffset : tag.valueoffset + size] = struct.pack(kind, value or len(strip))

    with pytest.raises(UndecodableImageError, match="more than 100 scans, in strip 0 of 1"):
        decode_image(bytes(data) + strip, max_px=MAX_PX)
