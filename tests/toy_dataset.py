"""Plain images of coloured discs with their annotations: a data set in a second."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

GROUND = (235, 205, 220)
COLOURS = {"Red": (190, 40, 60), "Blue": (50, 60, 170)}
RADIUS = 7


def write_slides(folder: Path, count: int, *, side: int = 256, per_class: int = 8) -> tuple[Path, Path]:
    """`count` images in ``slides`` and their points in ``annotations``; the two folders."""
    slides, annotations = folder / "slides", folder / "annotations"
    slides.mkdir(parents=True)
    annotations.mkdir()
    for number in range(count):
        generator = np.random.default_rng(number)
        image = np.full((side, side, 3), GROUND, np.uint8)
        image = np.clip(image + generator.integers(-12, 12, image.shape), 0, 255).astype(np.uint8)
        features = []
        for name, colour in COLOURS.items():
            for x, y in generator.integers(RADIUS, side - RADIUS, (per_class, 2)).tolist():
                cv2.circle(image, (x, y), RADIUS, colour, -1)
                features.append(feature("Point", [x + 0.5, y + 0.5], name))
        write_image(slides / f"s{number}.png", image)
        write_annotations(annotations / f"s{number}.geojson", features)
    return slides, annotations


def feature(kind: str, coordinates: object, name: str | None) -> dict[str, object]:
    classification = None if name is None else {"name": name, "color": [1, 2, 3]}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": classification},
    }


def write_image(path: Path, rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def write_annotations(path: Path, features: list[dict[str, object]]) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
