"""Reads images of every kind, one after the other, and prints what each took of memory and its bound.

Run as a program: ``python decoding_peak.py SIDE``. A line of JSON for each kind: its name, the bytes of the
decoded pixels, the bound of the peak, and the peak measured, which is Linux's high-water mark of this process.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

import png_files
from slidecascade.slides.upload import open_image


def kinds(side: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each image, `side` pixels wide and high."""
    tile = np.random.default_rng(0).integers(0, 256, (256, 256, 4), np.uint8)
    rgba = np.tile(tile, (-(-side // 256), -(-side // 256), 1))[:side, :side]
    rgb, grey = rgba[..., :3], rgba[..., 0]
    yield "png rgba 16", lambda: png_files.zeros(side, side)
    yield "png grey 16", lambda: png_files.zeros(side, side, colour=png_files.GREY)
    yield "png rgb 8", lambda: bytes(cv2.imencode(".png", rgb)[1])
    yield "png rgba 8", lambda: bytes(cv2.imencode(".png", rgba)[1])
    yield "png rgba 16 interlaced", lambda: png_files.zeros(side, side, interlaced=True)
    yield "png one bit", lambda: png_files.zeros(side, side, bits=1, colour=png_files.GREY)
    yield "png with a compressed text of a gigabyte", lambda: _with_long_text(png_files.zeros(side, side, bits=8))
    yield "jpeg", lambda: _pillow(rgb, "JPEG")
    yield "jpeg progressive", lambda: _pillow(rgb, "JPEG", progressive=True, subsampling=0)
    yield "jpeg progressive turned", lambda: _pillow(rgb, "JPEG", progressive=True, exif=_turned())
    yield "jpeg turned", lambda: _pillow(rgb, "JPEG", exif=_turned())
    yield "jpeg cmyk", lambda: _pillow(rgba, "JPEG", mode="CMYK")
    yield "jpeg cmyk progressive", lambda: _pillow(rgba, "JPEG", mode="CMYK", progressive=True)
    yield "webp", lambda: _pillow(rgb, "WEBP", method=0)
    yield "webp rgba", lambda: _pillow(rgba, "WEBP", method=0)
    yield "webp lossless", lambda: _pillow(rgb, "WEBP", lossless=True, method=0, quality=0)
    yield "webp lossless rgba", lambda: _pillow(rgba, "WEBP", lossless=True, method=0, quality=0, exact=True)
    yield "tiff one strip", lambda: _tiff(rgba, extrasamples=["unassalpha"])
    yield "tiff tiles", lambda: _tiff(rgb, tile=(256, 256), compression="zlib")
    yield "tiff one tile", lambda: _tiff(rgb, tile=(-(-side // 16) * 16,) * 2, compression="zlib")
    yield "tiff one packed strip", lambda: _tiff(rgb, rowsperstrip=side, compression="zlib")
    yield (
        "tiff one packed rgba strip",
        lambda: _tiff(rgba, rowsperstrip=side, compression="zlib", extrasamples=["unassalpha"]),
    )
    yield (
        "tiff one packed grey strip",
        lambda: _tiff(grey, rowsperstrip=side, compression="zlib", photometric="minisblack"),
    )
    yield "tiff 16 one strip", lambda: _tiff(rgb.astype(np.uint16) * 257)
    yield (
        "tiff 16 one packed strip",
        lambda: _tiff(
            rgba.astype(np.uint16) * 257, rowsperstrip=side, compression="zlib", extrasamples=["unassalpha"]
        ),
    )
    yield (
        "tiff planes",
        lambda: _tiff(np.moveaxis(rgb, 2, 0), planarconfig="separate", rowsperstrip=side, compression="zlib"),
    )
    yield "tiff one jpeg strip", lambda: _pillow(rgb, "TIFF", compression="jpeg", tiffinfo={278: side})


def _with_long_text(png: bytes) -> bytes:
    """A text and a colour profile that would each fill a gigabyte."""
    packed = png_files.zlib_zeros(2**30)
    chunks = [png_files.chunk(b"zTXt", b"Comment\0\0" + packed), png_files.chunk(b"iCCP", b"ICC\0\0" + packed)]
    return b"".join([png[:33], *chunks, png[33:]])


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


def _pillow(pixels: NDArray[np.uint8], kind: str, *, mode: str | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()) if mode else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def _tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **({"photometric": "rgb"} | options))
    return stream.getvalue()


def _status(name: str) -> int:
    """A line of this process's status, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name)) * 1024


def _peak_bytes(work: Callable[[], object]) -> int:
    """The most memory `work` takes beyond what is there now; memory kept by the heap is released first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
    before = _status("VmRSS")
    result = work()
    peak = _status("VmHWM") - before
    del result
    return peak


def main(side: int) -> None:
    for _, make in list(kinds(256)):  # what decoders load once belongs to no image
        open_image(make(), max_px=10**9).decode()
    for name, make in kinds(side):
        image = open_image(make(), max_px=10**9)
        peak = _peak_bytes(image.decode)
        record = {"kind": name, "decoded": image.decoded_bytes, "bound": image.peak_bytes, "peak": peak}
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
