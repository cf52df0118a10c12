"""The work of an app on one job: each rectangle of the slide is analysed by a server, and its cells are posted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from slidecascade.empaia.platform import EmpaiaError, Platform, Rectangle, Wsi
from slidecascade.errors import SlideCascadeError
from slidecascade_client import Client, RegionResult, SlideCascadeClientError

HALO_PX: Final = 256
"""Pixels around a rectangle that the network also sees, so that cells at its sides are as within the slide."""
_MAX_MESSAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of inputs and outputs in the app's description, and the namespace of its classes."""

    slide: str
    regions: str
    cells: str
    classes: str
    counts: str
    namespace: str


def run_job(platform: Platform, client: Client, pipeline: str, keys: Keys) -> Mapping[str, int]:
    """Do a job and finalize it, or fail it with a sentence; the number of cells of each class.

    Raises:
        EmpaiaError, SlideCascadeClientError, SlideCascadeError: after the job was failed.
    """
    try:
        counts = _analysed(platform, client, pipeline, keys)
        platform.finalize()
    except (SlideCascadeClientError, SlideCascadeError) as error:
        platform.fail(str(error)[:_MAX_MESSAGE])
        raise
    return counts


def _analysed(platform: Platform, client: Client, pipeline: str, keys: Keys) -> Mapping[str, int]:
    slide = platform.slide(keys.slide)
    rectangles = platform.rectangles(keys.regions)
    if not rectangles:
        raise EmpaiaError(f"The input {keys.regions} has no rectangle: draw one.")
    targets = (
        platform.post_collections(keys.cells, "polygon", rectangles),
        platform.post_collections(keys.classes, "class", rectangles),
        platform.post_collections(keys.counts, "integer", rectangles),
    )
    counts: dict[str, int] = {}
    for rectangle, cells_id, classes_id, counts_id in zip(rectangles, *targets, strict=True):
        found = _posted(platform, client, pipeline, keys, slide, rectangle, (cells_id, classes_id, counts_id))
        for name, count in found.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _posted(
    platform: Platform, client: Client, pipeline: str, keys: Keys, slide: Wsi, rectangle: Rectangle,
    collections: Sequence[str],
) -> Mapping[str, int]:  # fmt: skip
    """Analyse one rectangle and fill its collections; its counts."""
    box_l0 = _with_halo(slide, rectangle)
    x_l0, y_l0 = box_l0[:2]
    inside = (rectangle.upper_left[0] - x_l0, rectangle.upper_left[1] - y_l0, rectangle.width, rectangle.height)
    pixels = platform.pixels(slide, box_l0)
    with client.analyze_region(
        pixels, pipeline=pipeline, mpp=slide.pixel_size_nm.x / 1000, region=inside
    ) as result:
        polygons, values = _annotations(platform, result, slide, keys.namespace, (x_l0, y_l0))
        counts = dict(result.counts)
    cells_id, classes_id, counts_id = collections
    ids = platform.post_items(cells_id, polygons)
    platform.post_items(
        classes_id, [platform.item("class", found, value=value) for found, value in zip(ids, values, strict=True)]
    )
    numbers = [
        platform.item("integer", rectangle.id, name=f"Number of {name}", value=count)
        for name, count in counts.items()
    ]
    platform.post_items(counts_id, numbers)
    return counts


def _with_halo(slide: Wsi, rectangle: Rectangle) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) of level 0 to read."""
    left, top = (max(0, corner - HALO_PX) for corner in rectangle.upper_left)
    right = min(slide.extent.x, rectangle.upper_left[0] + rectangle.width + HALO_PX)
    bottom = min(slide.extent.y, rectangle.upper_left[1] + rectangle.height + HALO_PX)
    if right - left <= 0 or bottom - top <= 0:
        raise EmpaiaError("A rectangle lies outside of the slide: draw it on the slide.")
    return left, top, right - left, bottom - top


def _annotations(
    platform: Platform, result: RegionResult, slide: Wsi, namespace: str, corner_l0: tuple[int, int]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Polygons in whole level-0 pixels, and the class of each."""
    polygons, values = [], []
    for cell in result.cells:
        vertices = np.maximum(np.rint(cell.polygon + corner_l0), 0).astype(int).tolist()
        polygons.append(platform.annotation("polygon", slide, name=cell.class_name, coordinates=vertices))
        values.append(class_value(namespace, cell.class_name))
    return polygons, values


def class_value(namespace: str, name: str) -> str:
    """A class as EMPAIA names it, such as ``org.vendor.app.v1.classes.hepatocyte_ballooning``."""
    return f"{namespace}.classes.{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}"
