"""Image files that programs write and attackers make: the bytes of each, from one picture of known cells."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import Any, Final

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from toy_pipeline import blobs

WIDTH, HEIGHT = 160, 120
PIXELS: Final = blobs(5, WIDTH, HEIGHT, 25)
PICTURE: Final = Image.fromarray(PIXELS)
RGB: Final = (WIDTH, HEIGHT, 8, 2, 0, 0, 0)


def saved(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    """`image` as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: NDArray[Any] = PIXELS, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb" if pixels.ndim == 3 else "minisblack"} | options)
    return file.getvalue()


def tiff_with(field: tuple[int, int], *, rows: int = 40) -> bytes:
    """A TIFF file of strips of `rows` in which the value of a tag, ``(tag, value)``, is another."""
    data = bytearray(tiff(rowsperstrip=rows))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == field[0]:
            struct.pack_into("<HI", data, entry + 2, 4, 1)
            struct.pack_into("<I", data, entry + 8, field[1])
    return bytes(data)


def circular_tiff() -> bytes:
    """The directory after the first is the first."""
    data = bytearray(tiff())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


def pyramid() -> bytes:
    """A TIFF of two sizes, the larger first."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS, photometric="rgb", tile=(64, 64))
        writer.write(PIXELS[::2, ::2], photometric="rgb", tile=(64, 64))
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


ROWS: Final = b"".join(b"\0" + row.tobytes() for row in PIXELS)
GREY_ROWS: Final = b"".join(b"\0" + row.tobytes() for row in PIXELS[:, :, 0])


def png(
    data: bytes | None = None, *, header: tuple[int, ...] = RGB, before: bytes = b"", idat: bytes = b""
) -> bytes:
    """A PNG of the compressed rows `data`, or of the IDAT chunks `idat`, with the chunks `before` them."""
    body = idat or chunk(b"IDAT", zlib.compress(ROWS) if data is None else data)
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return b"\x89PNG\r\n\x1a\n" + ihdr + before + body + chunk(b"IEND", b"")


def palette_png(palette: bytes) -> bytes:
    before = chunk(b"PLTE", palette) if palette else b""
    return png(zlib.compress(GREY_ROWS), header=(WIDTH, HEIGHT, 8, 3, 0, 0, 0), before=before)


def pieces(data: bytes) -> bytes:
    return b"".join(chunk(b"IDAT", data[at : at + 1]) for at in range(len(data)))


def jpeg_with(offset: int, value: bytes) -> bytes:
    """A JPEG whose frame header has other bytes from `offset` on: 1 marker, 4 bits, 5 height, 7 width, 9 parts."""
    data = bytearray(saved("JPEG", quality=95))
    at = data.index(b"\xff\xc0") + offset
    data[at : at + len(value)] = value
    return bytes(data)


def after_start(data: bytes, segment: bytes) -> bytes:
    return data[:2] + segment + data[2:]


def cut_webp() -> bytes:
    """A WebP file whose length fits its missing half."""
    data = saved("WEBP", lossless=True)
    data = data[: len(data) // 4 * 2]
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def opaque(alpha: int = 255) -> Image.Image:
    return Image.fromarray(np.dstack([PIXELS, np.full((HEIGHT, WIDTH), alpha, np.uint8)]))


SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_JPEG: Final = saved("JPEG", quality=95)
_PNG: Final = saved("PNG")

READ: Final[dict[str, bytes]] = {
    "palette": saved("PNG", PICTURE.quantize(64)),
    "one bit": saved("PNG", PICTURE.convert("1")),
    "grey and alpha": saved("PNG", PICTURE.convert("LA")),
    "16-bit grey PNG": bytes(cv2.imencode(".png", cv2.cvtColor(PIXELS, cv2.COLOR_RGB2GRAY) * np.uint16(257))[1]),
    "gamma": png(before=chunk(b"gAMA", struct.pack(">I", 100_000))),
    "ICC profile": saved("PNG", icc_profile=SRGB),
    "damaged ICC profile": png(before=chunk(b"iCCP", b"x\0\0notzlib")),
    "text that grows to 50 MB": png(before=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))),
    "bytes behind the PNG": _PNG + b"<html>" * 1000,
    "IDAT chunks of one byte": png(idat=pieces(zlib.compress(ROWS))),
    "text between IDAT chunks": png(
        idat=chunk(b"IDAT", zlib.compress(ROWS)[:500])
        + chunk(b"tEXt", b"a\0b")
        + chunk(b"IDAT", zlib.compress(ROWS)[500:])
    ),
    "EXIF that is none": png(before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "colour that is transparent": png(before=chunk(b"tRNS", struct.pack(">HHH", 230, 190, 210))),
    "CMYK JPEG": saved("JPEG", PICTURE.convert("CMYK"), quality=95),
    "progressive JPEG": saved("JPEG", quality=95, progressive=True),
    "4:1:1": saved("JPEG", quality=95, subsampling="4:1:1"),
    "restart markers": saved("JPEG", quality=95, restart_marker_blocks=1),
    "several pictures": saved("MPO", save_all=True, append_images=[PICTURE]),
    "bytes behind the JPEG": _JPEG + b"junk" * 1000,
    "damaged EXIF": after_start(_JPEG, b"\xff\xe1\0\x14Exif\0\0" + b"\xff" * 12),
    "3 MB of comments": after_start(_JPEG, (b"\xff\xfe\xff\xff" + b"x" * 65_533) * 50),
    "BigTIFF": tiff(bigtiff=True),
    "Motorola order": tiff(byteorder=">"),
    "planes": tiff(np.ascontiguousarray(PIXELS.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"),
    "five samples": tiff(np.dstack([PIXELS, PIXELS[:, :, :2]]), extrasamples=(0, 0)),
    "multiplied alpha": tiff(np.asarray(opaque()), extrasamples=(1,)),
    "ImageJ": tiff(imagej=True),
    "a pyramid": pyramid(),
    "white is zero": tiff(255 - PIXELS[:, :, 1], photometric="miniswhite"),
    "CMYK TIFF": saved("TIFF", PICTURE.convert("CMYK")),
    "fax": saved("TIFF", PICTURE.convert("1"), compression="group4"),
    "zstd": saved("TIFF", compression="zstd"),
    "lossless WebP with alpha": saved("WEBP", opaque(), lossless=True),
    "bytes behind the WebP": saved("WEBP", lossless=True) + b"xxxx" * 100,
}
"""What shows the picture's cells."""

TURNED: Final[dict[str, bytes]] = {
    "PNG": saved("PNG", exif=oriented(6)),
    "JPEG": saved("JPEG", quality=95, exif=oriented(5)),
    "TIFF": tiff(extratags=[(274, 3, 1, 8, True)]),
}
"""What shows them on its side."""

_OTHER = "is not a PNG, JPEG, TIFF or WebP file"
REFUSED: Final[dict[str, tuple[bytes, str]]] = {
    "no IEND": (_PNG[:-12], "truncated"),
    "animated PNG": (saved("PNG", save_all=True, append_images=[PICTURE.rotate(90)]), "animation"),
    "PNG of no width": (png(header=(0, *RGB[1:])), "zero pixels"),
    "PNG of 2**31 columns": (png(header=(2**31 - 1, *RGB[1:])), "send a part"),
    "more rows stated": (png(header=(WIDTH, 2 * HEIGHT, *RGB[2:])), "incomplete"),
    "depth of 3": (png(header=(WIDTH, HEIGHT, 3, *RGB[3:])), "header is damaged"),
    "unknown compression": (png(header=(*RGB[:4], 1, 0, 0)), "header is damaged"),
    "unknown filter": (png(zlib.compress(b"\x09" + ROWS[1:])), "damaged"),
    "wrong checksum of the rows": (png(zlib.compress(ROWS)[:-4] + b"abcd"), "damaged"),
    "no zlib": (png(zlib.compress(ROWS)[2:-4]), "damaged"),
    "a preset dictionary": (png(b"\x78\xbb" + zlib.compress(ROWS)[2:]), "damaged"),
    "one byte short": (png(zlib.compress(ROWS[:-1])), "damaged"),
    "no palette": (palette_png(b""), "palette"),
    "half a colour": (palette_png(b"\1\2"), "palette"),
    "257 colours": (palette_png(b"\1\2\3" * 257), "palette"),
    "pixels beyond the palette": (palette_png(b"\1\2\3"), "damaged"),
    "100,000 empty IDAT chunks": (png(idat=chunk(b"IDAT", b"") * 100_000), "parts"),
    "12-bit JPEG": (jpeg_with(4, b"\x0c"), "cannot be decoded"),
    "lossless JPEG": (jpeg_with(1, b"\xc3"), "cannot be decoded"),
    "fewer rows stated": (jpeg_with(5, struct.pack(">H", 60)), "damaged"),
    "no rows": (jpeg_with(5, b"\0\0"), "zero pixels"),
    "two components": (jpeg_with(9, b"\2"), "cannot be decoded"),
    "200,000 segments": (after_start(_JPEG, b"\xff\xe5\0\2" * 200_000), "parts"),
    "start and end alone": (b"\xff\xd8\xff\xd9", "truncated"),
    "pages": (tiff(np.stack([PIXELS, PIXELS[::-1]])), "240 channels, at most 8"),
    "floats": (tiff((PIXELS / 255).astype(np.float32)), "8 or 16 bits"),
    "NaN": (tiff(np.full((50, 60), np.nan, np.float32)), "8 or 16 bits"),
    "signed bytes": (tiff(PIXELS[:, :, 0].astype(np.int8)), "8 or 16 bits"),
    "complex numbers": (tiff(PIXELS[:, :, 0].astype(np.complex64)), "8 or 16 bits"),
    "directories in a circle": (circular_tiff(), "circle"),
    "strips without rows": (tiff_with((278, 0)), "strips without rows"),
    "strips beyond the file": (tiff_with((273, 2**32 - 100), rows=HEIGHT), "truncated"),
    "more rows than strips": (tiff_with((257, 2 * HEIGHT)), "cannot be decoded"),
    "TIFF of no width": (tiff_with((256, 0)), "zero pixels"),
    "unknown TIFF compression": (tiff_with((259, 999)), "cannot be decoded"),
    "no samples": (tiff_with((277, 0)), "cannot be decoded"),
    "unknown colour space": (tiff_with((262, 99)), "cannot be decoded"),
    "no directory": (b"II*\0\0\0\0\0", "directory is damaged"),
    "animated WebP": (saved("WEBP", save_all=True, append_images=[PICTURE.rotate(90)]), "animation"),
    "half a WebP": (cut_webp(), "cannot be decoded"),
    "GIF": (saved("GIF"), _OTHER),
    "JPEG 2000": (saved("JPEG2000"), _OTHER),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", _OTHER),
    "DICOM": (bytes(128) + b"DICM" + bytes(100), _OTHER),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", _OTHER),
    "a page that asks for a password": (b"<!doctype html><title>login</title>", _OTHER),
    "gzip": (gzip.compress(_PNG), _OTHER),
    "line ends of Windows": (_PNG.replace(b"\n", b"\r\n"), _OTHER),
    "nothing": (b"", "no bytes"),
    "a byte": (b"\x89", _OTHER),
}
"""What is refused, and words of the sentence that says why."""
