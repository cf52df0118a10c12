"""JPEG data that ends early is refused wherever it is stored; whole data of every kind is not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cut_jpeg import END, cut_jpeg, cut_parts
from slidecascade.errors import UndecodableImageError
from slidecascade.slides.jpeg import damage
from slidecascade.slides.upload import decode_image

PIXELS = cv2.GaussianBlur(np.random.default_rng(5).integers(0, 256, (203, 301, 3), np.uint8), (0, 0), 1)
IMAGE = Image.fromarray(PIXELS)


def encoded(image: Image.Image = IMAGE, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _sampled(factor: int) -> bytes:
    return cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()


def _with_scan_parameters(data: bytes, parameters: bytes) -> bytes:
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    return data[: end - 3] + parameters + data[end:]


PLAIN = encoded()
WHOLE = {
    "4:2:0": encoded(subsampling="4:2:0"),
    "4:2:2": encoded(subsampling="4:2:2"),
    "4:4:4": encoded(subsampling="4:4:4"),
    "4:1:1": _sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "4:4:0": _sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "progressive": encoded(progressive=True),
    "optimised": encoded(optimize=True),
    "grey": encoded(IMAGE.convert("L")),
    "CMYK": encoded(IMAGE.convert("CMYK")),
    "RGB": encoded(keep_rgb=True),
    "restart markers": encoded(restart_marker_blocks=3),
    "restart markers by rows": encoded(restart_marker_rows=1),
    "coarse": encoded(quality=1),
    "fine": encoded(quality=100),
    "EXIF": encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "colour profile": encoded(icc_profile=b"p" * 100_000),
    "trailing garbage": PLAIN + b"garbage" * 50,
    "trailing zeros": PLAIN + bytes(500),
    "fill bytes before the end": PLAIN[:-2] + b"\xff" * 7 + END,
    "padding before the end": PLAIN[:-2] + bytes(300) + END,
    "a camera's few bytes before the end": PLAIN[:-2] + b"\x12\x34\x56\x78" * 3 + END,
    "odd scan parameters": _with_scan_parameters(PLAIN, b"\0\0\0"),
    "odd JFIF revision": PLAIN.replace(b"JFIF\0\x01", b"JFIF\0\x09"),
    "odd Adobe transform": PLAIN[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x09" + PLAIN[2:],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_jpeg_data_is_taken_as_pillow_decodes_it(kind: str) -> None:
    """Variants of the format and deviations of writers are not reported as damage."""
    data = WHOLE[kind]

    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_image(data, max_px=10**6).pixels, shown)
    assert damage(data) is None


def test_several_pictures_in_one_file_are_not_damage() -> None:
    """MPO: the first picture is taken, and what follows it is not looked at."""
    stream = io.BytesIO()
    IMAGE.save(stream, "MPO", save_all=True, append_images=[IMAGE])

    assert damage(stream.getvalue()) is None
    assert decode_image(stream.getvalue(), max_px=10**6).pixels.shape == PIXELS.shape


def test_a_missing_end_marker_is_not_damage_in_a_stored_tile() -> None:
    """Some scanners leave it out; every code is there."""
    assert damage(PLAIN[:-2]) is None


@pytest.mark.parametrize("kept", [0.75, 0.9, 0.99])
@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "the end" not in kind and "trailing" not in kind])
def test_a_scan_that_is_cut_and_closed_is_refused(kind: str, kept: float) -> None:
    """An end marker after half the pixels does not make the image whole."""
    data = WHOLE[kind]
    scan = data.rindex(b"\xff\xda") if kind != "progressive" else len(data) // 2
    cut = data[: scan + int((len(data) - scan) * kept)] + END

    with pytest.raises(UndecodableImageError, match=r"truncated or damaged: .*premature end of data segment"):
        decode_image(cut, max_px=10**6)
    assert damage(cut) is not None


def test_missing_restart_intervals_are_damage() -> None:
    """Missing data in the middle is detected although the stream continues."""
    data = WHOLE["restart markers"]
    third, fifth = data.index(b"\xff\xd3", len(data) // 2), data.index(b"\xff\xd5", len(data) // 2)
    lost = data[: min(third, fifth)] + data[max(third, fifth) :]

    with pytest.raises(UndecodableImageError, match="truncated or damaged"):
        decode_image(lost, max_px=10**6)


def test_overwritten_bytes_are_damage() -> None:
    """A run of zeros in the scan, as a failing disk leaves it."""
    lost = bytearray(PLAIN)
    lost[len(lost) // 2 : len(lost) // 2 + 300] = bytes(300)

    with pytest.raises(UndecodableImageError, match="truncated or damaged"):
        decode_image(bytes(lost), max_px=10**6)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_cut_strip_of_a_tiff_is_refused_by_its_number(mode: str) -> None:
    """JPEG in TIFF, with tables that all strips share: one cut strip is named, whole ones pass."""
    data = encoded(IMAGE.convert(mode), "TIFF", compression="jpeg", tiffinfo={278: 16})
    assert decode_image(data, max_px=10**6).pixels.shape == PIXELS.shape

    with pytest.raises(UndecodableImageError, match=r"truncated or damaged: .* in strip 7 of 13"):
        decode_image(cut_parts(data, 7), max_px=10**6)


def test_no_real_image_is_taken_for_damaged(shared_data: Path) -> None:
    """Every JPEG of other programs that is at hand decodes to Pillow's pixels."""
    files = sorted(shared_data.rglob("*.jpg"))
    assert files
    for path in files:
        data = path.read_bytes()
        shown = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(decode_image(data, max_px=10**8).pixels, shown)
        with pytest.raises(UndecodableImageError):
            decode_image(cut_jpeg(data), max_px=10**8)
