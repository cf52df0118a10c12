"""PNG bytes: the pixels, and the notice that travels with them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from slidecascade import wire
from slidecascade.outputs import png


@pytest.mark.parametrize("channels", [3, 4])
def test_the_research_use_notice_travels_with_the_picture(channels: int) -> None:
    """Every PNG carries the sentence as its Disclaimer, and still is the picture that was given."""
    pixels = np.random.default_rng(1).integers(0, 256, (7, 9, channels), np.uint8)

    with Image.open(io.BytesIO(png.encode(pixels))) as image:
        image.load()
        assert image.info == {"Disclaimer": wire.RESEARCH_USE_ONLY}
        np.testing.assert_array_equal(np.asarray(image), pixels)
