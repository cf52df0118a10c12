"""Slide files that writers, copies and attackers leave: each written from one picture of known cells."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from leica_slide import write_leica
from toy_pipeline import blobs
from unwritten_slide import write_unwritten

WIDTH, HEIGHT = 400, 300
PIXELS: Final = blobs(3, WIDTH, HEIGHT, 60)
SMALL: Final = PIXELS[::2, ::2]
TILES: Final = 12
APERIO: Final = "Aperio Image Library v1.0\n400x300 [0,0 400x300] (128x128) |AppMag = {}|MPP = {}"
OME: Final = "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image><Pixels {}/></Image></OME>"
ENTITIES: Final = "<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"

Write = Callable[[Path], object]


def write(
    path: Path, pixels: NDArray[Any] = PIXELS, *, levels: tuple[NDArray[Any], ...] = (), **options: Any
) -> None:
    """A tiled TIFF of `pixels`, and of smaller `levels`."""
    shared = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "metadata": None} | options
    first = {name: shared.pop(name) for name in ("description", "resolution", "resolutionunit") if name in shared}
    big = shared.pop("bigtiff", False)
    with tifffile.TiffWriter(path, bigtiff=big) as file:
        file.write(pixels, **shared, **first)
        for level in levels:
            file.write(level, subfiletype=1, **shared)


def described(text: str) -> Write:
    return partial(write, description=text)


def with_field(tag: int, value: int) -> Write:
    """A slide whose `tag` has another value."""

    def change(path: Path) -> None:
        write(path)
        data = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from("<H", data, entry)[0] == tag:
                struct.pack_into("<HI", data, entry + 2, 4, 1)
                struct.pack_into("<I", data, entry + 8, value)
        path.write_bytes(data)

    return change


def with_tiles(name: str, value: int) -> Write:
    """A slide whose tiles all have the same ``TileOffsets`` or ``TileByteCounts``."""

    def change(path: Path) -> None:
        write(path)
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages[0].tags[name].overwrite([value] * TILES)

    return change


def overwritten(path: Path) -> None:
    write(path)
    data = bytearray(path.read_bytes())
    data[2000:6000] = np.random.default_rng(1).bytes(4000)
    path.write_bytes(data)


def cut(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:3000])


def circular(path: Path) -> None:
    write(path)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    path.write_bytes(data)


def alpha(value: int) -> NDArray[np.uint8]:
    return np.dstack([PIXELS, np.full((HEIGHT, WIDTH), value, np.uint8)])


def linked(target: str) -> Write:
    return lambda path: path.symlink_to(target)


READ: Final[dict[str, Write]] = {
    "two levels.tif": partial(write, levels=(SMALL, SMALL[::2, ::2])),
    "eight levels.tif": partial(
        write, levels=tuple(PIXELS[: max(1, HEIGHT >> n), : max(1, WIDTH >> n)] for n in range(1, 9))
    ),
    "the same level twice.tif": partial(write, levels=(PIXELS,)),
    "a blank level.tif": partial(write, levels=(np.zeros_like(SMALL),)),
    "a level of 133 columns.tif": partial(write, levels=(PIXELS[:100, :133],)),
    "a level that is too narrow.tif": partial(write, levels=(PIXELS[:, :100],)),
    "no pixel size.tif": partial(write, resolution=(0, 0), resolutionunit=3),
    "MPP of NaN.svs": described(APERIO.format("20", "NaN")),
    "MPP below 0.svs": described(APERIO.format("20", "-0.5")),
    "MPP with a comma.svs": described(APERIO.format("20", "0,5")),
    "MPP in millimetres.svs": described(APERIO.format("20", "0.0005")),
    "MPP in words.svs": described(APERIO.format("20x", "0.5 um")),
    "objective of 0.svs": described(APERIO.format("0", "0.5")),
    "OME size in letters.ome.tif": described(OME.format("PhysicalSizeX='x' PhysicalSizeY='0.5'")),
    "OME size in parsec.ome.tif": described(OME.format("PhysicalSizeX='1' PhysicalSizeXUnit='pc'")),
    "OME entities.ome.tif": described(ENTITIES + OME.format("PhysicalSizeX='&b;' PhysicalSizeY='1'")),
    "tiles of 4096.tif": partial(write, tile=(4096, 4096)),
    "tiles of 16.tif": partial(write, tile=(16, 16)),
    "BigTIFF.tif": partial(write, bigtiff=True),
    "grey.tif": partial(write, pixels=PIXELS[:, :, 1], photometric="minisblack"),
    "white is zero.tif": partial(write, pixels=255 - PIXELS[:, :, 1], photometric="miniswhite"),
    "16 bits.tif": partial(write, pixels=PIXELS.astype(np.uint16) * 257),
    "opaque.tif": partial(write, pixels=alpha(255), extrasamples=(2,)),
    "planes.tif": partial(write, pixels=np.ascontiguousarray(PIXELS.transpose(2, 0, 1)), planarconfig="separate"),
    "link.tif": linked("BigTIFF.tif"),
    "a+b&c=d?#.tif": write,
    "a%2fb.tif": write,
    "-rf.tif": write,
    "..tif": write,
    ".hidden.tif": write,
    "日本 語.tif": write,
    "e\u0301.tif": write,
    "'\"<script>.tif": write,
    "x" * 240 + ".tif": write,
    "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/deep.tif": write,
}
"""What shows the picture's cells, by the id of the slide."""

_CANNOT_OPEN = "cannot be opened"
_DAMAGED = "its file is damaged"
REFUSED: Final[dict[str, tuple[Write, str]]] = {
    "a tile of 2**31 columns.tif": (with_field(322, 2**31 - 16), "smaller tiles"),
    "turned.tif": (partial(write, extratags=[(274, 3, 1, 6, True)]), "upright"),
    "mirrored.tif": (partial(write, extratags=[(274, 3, 1, 2, True)]), "upright"),
    "floats.tif": (partial(write, pixels=(PIXELS / 255).astype(np.float32)), "8 or 16 bits"),
    "signed.tif": (partial(write, pixels=PIXELS.astype(np.int16)), "8 or 16 bits"),
    "32 bits.tif": (partial(write, pixels=PIXELS.astype(np.uint32)), "8 or 16 bits"),
    "no columns.tif": (with_field(256, 0), _CANNOT_OPEN),
    "2**31 columns.tif": (with_field(256, 2**31 - 1), _CANNOT_OPEN),
    "2**31 rows.tif": (with_field(257, 2**31 - 1), _CANNOT_OPEN),
    "tiles without columns.tif": (with_field(322, 0), _CANNOT_OPEN),
    "unknown compression.tif": (with_field(259, 999), _CANNOT_OPEN),
    "no samples.tif": (with_field(277, 0), _CANNOT_OPEN),
    "deflate called JPEG.tif": (with_field(259, 7), "damaged"),
    "unknown colours.tif": (with_field(262, 99), "damaged"),
    "tiles beyond the file.tif": (with_tiles("TileOffsets", 2**31), _CANNOT_OPEN),
    "tiles of 4 GiB.tif": (with_tiles("TileByteCounts", 2**32 - 1), _DAMAGED),
    "tiles in the header.tif": (with_tiles("TileOffsets", 500), _DAMAGED),
    "overwritten.tif": (overwritten, _DAMAGED),
    "cut.tif": (cut, _CANNOT_OPEN),
    "circle.tif": (circular, _CANNOT_OPEN),
    "strips.tif": (lambda path: tifffile.imwrite(path, PIXELS, photometric="rgb"), _CANNOT_OPEN),
    "picture.png": (lambda path: Image.fromarray(PIXELS).save(path), _CANNOT_OPEN),
    "picture called a slide.svs": (lambda path: Image.fromarray(PIXELS).save(path, "PNG"), _CANNOT_OPEN),
    "empty.svs": (lambda path: path.write_bytes(b""), _CANNOT_OPEN),
    "text.svs": (lambda path: path.write_text("not a slide"), _CANNOT_OPEN),
}
"""What is refused as unreadable, and words of the sentence that says why."""

ABSENT: Final[dict[str, Write]] = {
    "link out.tif": linked("/proc/version"),
    "link in a circle.tif": linked("link in a circle.tif"),
    "link to nothing.tif": linked("nothing.tif"),
    "device.tif": linked("/dev/zero"),
    "pipe.tif": os.mkfifo,
    "folder.tif": Path.mkdir,
}
"""What is no slide and is not opened."""

PARTLY: Final[dict[str, Write]] = {
    "bounds.scn": partial(write_leica, pixels=PIXELS, corner=(1000, 500), size=(3000, 2000)),
    "bounds beyond the slide.scn": partial(write_leica, pixels=PIXELS, corner=(2900, 1900), size=(3000, 2000)),
    "bounds before the slide.scn": partial(write_leica, pixels=PIXELS, corner=(-100, -100), size=(3000, 2000)),
    "unwritten.tif": partial(write_unwritten, pixels=PIXELS, tile_px=128, unwritten=5),
    "tiles without bytes.tif": with_tiles("TileByteCounts", 0),
    "transparent.tif": partial(write, pixels=alpha(0), extrasamples=(2,)),
}
"""What is stored in part, or not at all."""
