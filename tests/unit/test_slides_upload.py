"""Uploaded images: the pixels that come out, and the bytes that are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from slidecascade.errors import RegionTooLargeError, SlideCascadeError, UndecodableImageError
from slidecascade.geometry import Box, Size
from slidecascade.slides.upload import decode_image

RANDOM = np.random.default_rng(3)
PIXELS = cv2.GaussianBlur(RANDOM.integers(0, 256, (61, 83, 3), np.uint8), (0, 0), 2)
RGB = Image.fromarray(PIXELS)
ALPHA = Image.fromarray(RANDOM.integers(0, 256, (61, 83), np.uint8))
MODES = {
    "rgb": RGB,
    "rgba": Image.merge("RGBA", [*RGB.split(), ALPHA]),
    "grey": RGB.convert("L"),
    "grey and alpha": Image.merge("LA", [RGB.convert("L"), ALPHA]),
    "palette": RGB.quantize(64),
    "one bit": RGB.convert("1"),
}
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


def encoded(kind: str, image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def encoded_tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    return decode_image(data, max_px=10**6).pixels


def shown_on_white(image: Image.Image) -> NDArray[np.uint8]:
    """What Pillow itself shows of an image laid on white."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return np.asarray(white.convert("RGB"))


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_on_white(kind: str, mode: str) -> None:
    """Lossless files of any mode give exactly the pixels that were saved, laid on white."""
    assert np.array_equal(decoded(encoded(kind, MODES[mode], **LOSSLESS[kind])), shown_on_white(MODES[mode]))


@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_jpeg_pixels_are_those_pillow_shows(mode: str) -> None:
    """JPEG is decoded to the pixels Pillow decodes it to."""
    data = encoded("JPEG", MODES[mode], quality=80)

    assert np.array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_transparent_palette_entry_is_white() -> None:
    """Transparency of a palette PNG is laid on white too."""
    data = encoded("PNG", MODES["palette"], transparency=3)

    assert np.array_equal(decoded(data), shown_on_white(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_exact(compression: str) -> None:
    """The lossless compressions of TIFF give the saved pixels."""
    assert np.array_equal(decoded(encoded("TIFF", RGB, compression=compression)), PIXELS)


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """The image is turned as EXIF says, in every format, exactly once."""
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(kind, RGB, exif=exif, **LOSSLESS.get(kind, {}))

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decoded(data), np.asarray(expected))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_of_a_16_bit_tiff_is_applied(orientation: int) -> None:
    """The other decoder, used for 16 bits, turns the image the same way."""
    grey = PIXELS[..., 0].astype(np.uint16) * 257
    tags = [(274, 3, 1, orientation, True)]

    turned = decoded(encoded_tiff(grey, extratags=tags))

    turns = {1: grey, 3: grey[::-1, ::-1], 6: np.rot90(grey, -1)}
    assert np.corrcoef(turned[..., 0].ravel(), turns[orientation].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
def test_colour_profiles_are_left_alone(kind: str) -> None:
    """The stored values come out, whatever profile the file carries."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    options = LOSSLESS.get(kind, {})

    plain, profiled = (encoded(kind, RGB, **options, **extra) for extra in ({}, {"icc_profile": profile}))
    assert len(profiled) > len(plain)
    assert np.array_equal(decoded(profiled), decoded(plain))


def test_resolution_tags_are_not_trusted() -> None:
    """An upload has no pixel size of its own, whatever its dpi tag says."""
    image = decode_image(encoded("TIFF", RGB, dpi=(50800, 50800)), max_px=10**6)

    assert image.mpp is None
    assert (image.size_l0, image.level_sizes, image.level_downsamples) == (Size(83, 61), (Size(83, 61),), (1.0,))
    assert image.coordinate_space == "image-pixels"
    assert np.array_equal(image.read_level(0, Box(5, 7, 20, 10)), PIXELS[7:17, 5:25])
    with pytest.raises(ValueError, match="level 1"):
        image.read_level(1, Box(0, 0, 1, 1))


def test_decoded_pixels_cannot_be_written_to() -> None:
    """Tiles share the pixels, so they are read-only."""
    image = decode_image(encoded("PNG", RGB), max_px=10**6)

    with pytest.raises(ValueError, match="read-only"):
        image.read_level(0, Box(0, 0, 5, 5))[0, 0] = 0


def test_12_bit_grey_in_16_bits_is_not_black() -> None:
    """A camera's counts fill the grey scale: 0.1th percentile black, 99.9th white, linear between."""
    counts = np.linspace(100, 4000, 61 * 83).reshape(61, 83).astype(np.uint16)
    for data in (cv2.imencode(".png", counts)[1].tobytes(), encoded_tiff(counts)):
        grey = decoded(data)[..., 0].astype(float)
        expected = np.clip((counts - 103.9) / (3996.1 - 103.9) * 255, 0, 255)
        assert np.abs(grey - expected).max() <= 1


def test_one_hot_pixel_does_not_darken_a_16_bit_image() -> None:
    """A saturated pixel is clipped, not used as the scale."""
    counts = RANDOM.integers(500, 3000, (61, 83)).astype(np.uint16)
    counts[30, 40] = 65535

    assert decoded(encoded_tiff(counts)).mean() > 100


def test_an_empty_16_bit_field_stays_flat() -> None:
    """Camera noise of a few counts is not stretched into structure; a constant image is black."""
    noise = RANDOM.integers(100, 110, (61, 83)).astype(np.uint16)

    assert int(np.ptp(decoded(encoded_tiff(noise)))) <= 10
    assert not decoded(encoded_tiff(np.full((61, 83), 7000, np.uint16))).any()


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_16_bit_colour_is_divided_by_its_bit_depth(bits: int, largest: int) -> None:
    """Colour keeps its proportions: full scale of the camera's depth is 255 in every channel."""
    colour = (PIXELS.astype(np.float64) / PIXELS.max() * largest).astype(np.uint16)
    expected = np.rint(colour * (255 / largest))

    png = cv2.imencode(".png", colour[..., ::-1])[1].tobytes()
    for data in (png, encoded_tiff(colour, photometric="rgb")):
        assert np.abs(decoded(data) - expected).max() == 0, bits


def test_16_bit_alpha_is_laid_on_white() -> None:
    """Transparent pixels of a 16-bit PNG are white."""
    colour = np.dstack([PIXELS.astype(np.uint16) * 257, np.zeros((61, 83), np.uint16)])

    assert decoded(cv2.imencode(".png", colour)[1].tobytes()).min() == 255


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
def test_a_truncated_image_is_refused(kind: str) -> None:
    """No format is filled up with grey: what is cut off is missed, wherever it is cut."""
    data = encoded(kind, RGB, **LOSSLESS.get(kind, {}))

    for length in (*range(0, len(data), 211), len(data) - 30, len(data) - 13, len(data) - 2):
        with pytest.raises(UndecodableImageError):
            decode_image(data[:length], max_px=10**6)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_truncated_compressed_tiff_is_refused(compression: str) -> None:
    """The same for strips inside a TIFF file."""
    data = encoded("TIFF", RGB, compression=compression)

    for length in range(0, len(data) - 2, 211):
        with pytest.raises(UndecodableImageError):
            decode_image(data[:length], max_px=10**6)


def test_too_many_pixels_are_rejected_before_decoding() -> None:
    """The limit is checked on the header: here the pixels do not even exist."""
    data = bytearray(encoded("PNG", RGB))
    data[16:24] = (30_000).to_bytes(4, "big") * 2

    with pytest.raises(RegionTooLargeError, match="30000 x 30000 pixels; at most 1000000"):
        decode_image(bytes(data), max_px=10**6)


def test_a_tile_larger_than_the_limit_is_refused() -> None:
    """A decoder holds whole tiles, so a small image in a huge tile is detected by its header."""
    data = encoded_tiff(PIXELS[:16, :16], photometric="rgb", tile=(1024, 1024), compression="zlib")

    assert decode_image(data, max_px=1024 * 1024).size_l0 == Size(16, 16)
    with pytest.raises(RegionTooLargeError, match="16 x 16 pixels is stored in tiles of 1024 x 1024; at most"):
        decode_image(data, max_px=1024 * 1024 - 1)


@pytest.mark.parametrize("data", [b"", b"a text file called .png", b"\xff\xd8\xff\xd9", encoded("GIF", RGB)])
def test_data_that_is_not_an_image_is_rejected(data: bytes) -> None:
    """Empty, foreign and hollow bytes end in one named error."""
    with pytest.raises(UndecodableImageError):
        decode_image(data, max_px=10**6)


FUZZED = (
    encoded("PNG", RGB),
    encoded("JPEG", RGB),
    encoded("WEBP", RGB),
    encoded("TIFF", RGB),
    encoded("TIFF", RGB, compression="tiff_lzw"),
    encoded_tiff(PIXELS[..., 0].astype(np.uint16)),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data: st.DataObject) -> None:
    """A file with a few bytes changed either decodes or is refused by a named error."""
    damaged = bytearray(data.draw(st.sampled_from(FUZZED)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decoded(bytes(damaged))
    except SlideCascadeError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_failures_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Decoders say nothing on stderr about a truncated upload; the error reports it instead."""
    for data in (encoded("JPEG", RGB), encoded("PNG", RGB), encoded("WEBP", RGB), encoded_tiff(PIXELS[..., 0])):
        with pytest.raises(UndecodableImageError):
            decode_image(data[:-100], max_px=10**6)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd", "jpeg"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_strip_that_ends_early_is_refused_in_silence(
    compression: str, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """libtiff, which writes what it finds to stderr, is kept from it: there is the log."""
    data = encoded("TIFF", RGB, compression=compression, tiffinfo={278: 16})
    assert decoded(data).shape == PIXELS.shape
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset, length = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    damaged = bytearray(data)
    damaged[offset + int(length * kept) : offset + length] = bytes(length - int(length * kept))
    capfd.readouterr()

    with pytest.raises(UndecodableImageError):
        decoded(bytes(damaged))
    assert capfd.readouterr() == ("", "")


def test_a_png_with_missing_rows_is_refused() -> None:
    """A file whole in its structure whose pixel data ends early: a fifth of the rows, properly compressed."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    rows = b"".join(b"\x00" + row.tobytes() for row in pixels[:10])

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 40, 50, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(UndecodableImageError):
        decode_image(data, max_px=10**6)
