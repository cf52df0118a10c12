"""The bright-field images of the reference data."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.slides.facts import sample_boxes
from slidecascade.slides.slide import Slide
from slidecascade.slides.tissue import is_dark_field


def real_images(folder: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Stained bright-field images and slides below `folder`, with their names."""
    images = []
    for path in sorted(folder.rglob("*")):
        name = f"/{path.relative_to(folder).as_posix()}"
        if path.suffix in {".png", ".jpg", ".jpeg"} and "mask" not in name and "sparse" not in name:
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if pixels is not None and not is_dark_field(pixels) and np.ptp(pixels, axis=2).max() > 20:
                images.append((name, np.asarray(pixels, np.uint8)))
        elif path.suffix in {".svs", ".dcm"} and "broken" not in name:
            try:
                slide = Slide.open(path)
            except Exception:  # noqa: BLE001, S112 - not what is asked here
                continue
            sample = np.concatenate(
                [slide.read_level(0, box).reshape(-1, 3) for box in sample_boxes(slide.size_l0)]
            )
            images.append((name, sample))
            slide.close()
    return images
