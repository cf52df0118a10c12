"""Decoding by bands: the pixels of the whole-image decoder, in a fraction of its memory."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import png_files
from slidecascade.errors import UndecodableImageError
from slidecascade.slides import canvas, pngrows, tiffbands
from slidecascade.slides.upload import decode_image
from whole_image_decoder import decode_whole

RANDOM = np.random.default_rng(11)
PIXELS = cv2.GaussianBlur(RANDOM.integers(0, 256, (61, 83, 3), np.uint8), (0, 0), 2)
ALPHA = RANDOM.integers(0, 256, (61, 83), np.uint8)
RGB = Image.fromarray(PIXELS)
MODES = {
    "rgb": RGB,
    "rgba": Image.merge("RGBA", [*RGB.split(), Image.fromarray(ALPHA)]),
    "grey": RGB.convert("L"),
    "grey and alpha": Image.merge("LA", [RGB.convert("L"), Image.fromarray(ALPHA)]),
    "palette": RGB.quantize(64),
    "one bit": RGB.convert("1"),
    "cmyk": RGB.convert("CMYK"),
}
PNG_KINDS = [(colour, bits) for colour, depths in png_files.DEPTHS.items() for bits in depths]


@pytest.fixture(params=[2**20, 700], ids=["one band", "many bands"])
def band_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bands as large as ever, and so small that a test image has many."""
    for module in (canvas, pngrows, tiffbands):
        monkeypatch.setattr(module, "BAND_BYTES", request.param)
    return int(request.param)


def same_as_whole(data: bytes) -> bool:
    return np.array_equal(decode_image(data, max_px=10**6).pixels, decode_whole(data))


def png_samples(width: int, height: int, colour: int, bits: int, *, dim: int = 1) -> NDArray[np.uint16]:
    shape = (height, width, png_files.CHANNELS[colour])
    return (RANDOM.integers(0, 2**bits, shape) // dim).astype(np.uint16)


def png_palette(bits: int, *, transparent: bool) -> list[bytes]:
    chunks = [png_files.chunk(b"PLTE", RANDOM.bytes(3 * 2**bits))]
    return [*chunks, png_files.chunk(b"tRNS", RANDOM.bytes(2**bits // 2))] if transparent else chunks


@pytest.mark.usefixtures("band_bytes")
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "bits"), PNG_KINDS)
def test_every_kind_of_png_has_the_pixels_of_the_whole_image_decoder(
    colour: int, bits: int, interlaced: bool
) -> None:
    """All colour types, depths and sizes with all five filters; interlaced ones have passes without pixels."""
    for (width, height), transparent in itertools.product([(37, 23), (1, 1), (3, 9), (64, 5)], [False, True]):
        samples = png_samples(width, height, colour, bits)
        before = png_palette(bits, transparent=transparent) if colour == png_files.PALETTE else []
        if transparent and colour in (png_files.GREY, png_files.RGB):
            before = [png_files.chunk(b"tRNS", samples[height // 2, width // 2].astype(">u2").tobytes())]
        data = png_files.encode(samples, bits, colour, interlaced=interlaced, before=before, idat_bytes=53)
        assert same_as_whole(data), (width, height, transparent)


@pytest.mark.usefixtures("band_bytes")
@pytest.mark.parametrize("colour", [png_files.GREY, png_files.RGB, png_files.RGBA, png_files.GREY_ALPHA])
@pytest.mark.parametrize("dim", [1, 5, 17, 70, 300])
def test_16_bits_are_narrowed_by_all_of_the_image(colour: int, dim: int) -> None:
    """Also where the first bands are much darker than the last, and look like fewer bits."""
    samples = png_samples(37, 23, colour, 16, dim=dim)
    assert same_as_whole(png_files.encode(samples, 16, colour))
    samples[:12] //= np.uint16(30)
    assert same_as_whole(png_files.encode(samples, 16, colour))


def tiffs(pixels: NDArray[Any], **how: Any) -> list[bytes]:
    """The image in strips and tiles of several sizes, compressions, byte orders and orientations."""
    files = []
    layouts: list[dict[str, Any]] = [{}, {"rowsperstrip": 7}, {"tile": (32, 48)}, {"tile": (128, 128)}]
    compressions: list[dict[str, Any]] = [{}, {"compression": "zlib"}]
    for layout, compression, (order, big) in itertools.product(
        layouts, compressions, [("<", False), (">", False), ("<", True)]
    ):
        stream = io.BytesIO()
        tags = [(274, 3, 1, int(RANDOM.integers(1, 9)), True)]
        options = {**how, **layout, **compression, "byteorder": order, "bigtiff": big, "extratags": tags}
        tifffile.imwrite(stream, pixels, metadata=None, **options)
        files.append(stream.getvalue())
    return files


@pytest.mark.usefixtures("band_bytes")
@pytest.mark.parametrize(
    ("kind", "dtype"), [*itertools.product(["grey", "rgb", "rgba"], [np.uint8, np.uint16]), ("planes", np.uint8)]
)
def test_every_layout_of_tiff_has_the_pixels_of_the_whole_image_decoder(kind: str, dtype: type) -> None:
    """Strips, tiles, with and without compression, both byte orders and BigTIFF, in some orientation each."""
    pixels = PIXELS.astype(dtype) * dtype(1 if dtype is np.uint8 else 37)
    rgba = np.dstack([pixels, pixels[..., 0]])
    match kind:
        case "grey":
            files = tiffs(pixels[..., 0])
        case "rgb":
            files = tiffs(pixels, photometric="rgb")
        case "rgba":
            files = tiffs(rgba, photometric="rgb", extrasamples=["unassalpha"])
        case _:
            files = tiffs(np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate")
    for number, data in enumerate(files):
        assert same_as_whole(data), number


@pytest.mark.usefixtures("band_bytes")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_has_the_pixels_of_the_whole_image_decoder(mode: str) -> None:
    """TIFF compressions only libtiff writes, with predictor, JPEG and WebP, each turned in all ways."""
    ways: list[tuple[str, dict[str, Any]]] = [
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"compression": "tiff_lzw", "tiffinfo": {} if mode == "one bit" else {317: 2}}),
        ("TIFF", {"compression": "group4"} if mode == "one bit" else {"compression": "zstd"}),
    ]
    if mode in ("rgb", "grey", "cmyk"):
        ways += [("TIFF", {"compression": "jpeg"}), ("JPEG", {}), ("JPEG", {"progressive": True})]
    if mode != "cmyk":
        ways += [("WEBP", {}), ("WEBP", {"lossless": True})]
    for orientation, (kind, options) in itertools.product(range(1, 9), ways):
        exif = Image.Exif()
        exif[274] = orientation
        stream = io.BytesIO()
        MODES[mode].save(stream, kind, exif=exif, **options)
        assert same_as_whole(stream.getvalue()), (orientation, kind, options)


def png_of(rows: bytes, *, width: int, height: int, end: bytes = b"") -> bytes:
    stream = zlib.compress(rows)
    return png_files.png(png_files.header(width, height, 8, png_files.GREY), stream + end)


def test_a_png_is_refused_wherever_its_data_is_wrong() -> None:
    """Missing rows, a filter there is not, wrong checksums of stream and chunk, and foreign bytes for pixels."""
    rows = b"".join(b"\0" + RANDOM.bytes(40) for _ in range(50))
    whole = png_of(rows, width=40, height=50)
    assert decode_image(whole, max_px=10**6).pixels.shape == (50, 40, 3)
    assert decode_image(png_of(rows * 2, width=40, height=50), max_px=10**6).pixels.shape == (50, 40, 3)

    at = whole.index(b"IDAT")
    header, length = png_files.header(40, 50, 8, png_files.GREY), struct.unpack_from(">I", whole, at - 4)[0]
    stream = whole[at + 4 : at + 4 + length]
    damaged = {
        "missing rows": png_of(rows[:-41], width=40, height=50),
        "a row of which the last byte is missing": png_of(rows[:-1], width=40, height=50),
        "filter 5": png_of(b"\5" + rows[1:], width=40, height=50),
        "checksum of the stream": png_files.png(header, stream[:-1] + bytes([stream[-1] ^ 1])),
        "checksum of the chunk": whole[: at + 4 + length] + b"none" + whole[at + 8 + length :],
        "no zlib stream": png_files.png(header, RANDOM.bytes(500)),
        "no pixels": png_files.png(header, b""),
    }
    for what, data in damaged.items():
        with pytest.raises(UndecodableImageError):
            pytest.fail(f"{what}: {decode_image(data, max_px=10**6)}")


def test_a_tiff_with_missing_strips_is_refused() -> None:
    """Fewer strips than the image has rows for."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, PIXELS, rowsperstrip=7, photometric="rgb", metadata=None)
    data = bytearray(stream.getvalue())
    directory = struct.unpack_from("<I", data, 4)[0]
    for field in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * field
        if struct.unpack_from("<H", data, at)[0] in (273, 279):
            struct.pack_into("<I", data, at + 4, 8)  # of nine

    with pytest.raises(UndecodableImageError):
        decode_image(bytes(data), max_px=10**6)
