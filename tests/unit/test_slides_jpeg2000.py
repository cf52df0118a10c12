"""Truncated JPEG 2000 data is detected; complete data of every variant is not reported as truncated."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from slidecascade.slides.jpeg2000 import damage

PIXELS = cv2.GaussianBlur(np.random.default_rng(6).integers(0, 256, (256, 256, 3), np.uint8), (0, 0), 2)
KINDS: dict[str, dict[str, Any]] = {
    "lossless": {},
    "lossy": {"irreversible": True, "quality_mode": "rates", "quality_layers": [20]},
    "layers": {"irreversible": True, "quality_layers": [80, 40, 10]},
    "tiles": {"tile_size": (64, 64)},
    "resolutions first": {"progression": "RLCP", "num_resolutions": 4},
    "grey": {"mode": "L"},
}


def codestream(*, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, "JPEG2000", no_jp2=True, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_data_is_whole(kind: str) -> None:
    """However it is layered and tiled, with trailing bytes and without an end marker."""
    data = codestream(**KINDS[kind])

    assert damage(data) is None
    assert damage(data + bytes(10)) is None
    assert damage(data[:-2]) is None


@pytest.mark.parametrize("kept", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_data_is_damaged(kind: str, kept: float) -> None:
    """Shorter, or as long as before with zeros after the end marker."""
    data = codestream(**KINDS[kind])
    cut = data[: int(len(data) * kept)] + b"\xff\xd9"

    assert damage(cut) is not None
    assert damage(cut + bytes(len(data) - len(cut))) is not None


def test_a_tile_part_that_states_no_length_is_not_judged() -> None:
    """Its end marker may be anywhere, and padding may follow."""
    data = bytearray(codestream())
    part = data.index(b"\xff\x90")
    data[part + 6 : part + 10] = bytes(4)

    assert damage(bytes(data) + bytes(10)) is None


def test_data_that_is_not_a_codestream_is_not_checked() -> None:
    """Such as a file that wraps one in boxes."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG2000")

    assert damage(stream.getvalue()) is None
    assert damage(b"") is None
