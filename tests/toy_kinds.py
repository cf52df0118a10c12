"""Pipelines of all kinds over toy models, and their results worked out the slow way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

import toy_models
from slidecascade.analysis.flow import analyse
from slidecascade.analysis.plan import RegionTask, known
from slidecascade.cancellation import Control
from slidecascade.geometry import Box
from slidecascade.kinds.result import RegionResult
from slidecascade.kinds.table import KINDS
from slidecascade.models.repository import load_repository
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner
from slidecascade.slides.facts import SlideFacts
from slidecascade.slides.source import OpenSource
from slidecascade.slides.upload import RegionImage
from slidecascade.timing import Silent

AREAS: dict[str, Any] = {
    "name": "toy-areas",
    "kind": "areas",
    "title": "Toy areas",
    "description": "Places that are red or green.",
    "segmenter": "toy-mask",
    "min_area_um2": 0.0,
    "heatmaps": [{"name": "red", "title": "Red", "class": "Red", "grid_um": 16}],
}
PATCHES: dict[str, Any] = {
    "name": "toy-patches",
    "kind": "patches",
    "title": "Toy patches",
    "description": "Dark squares.",
    "classifier": "toy-dark",
    "patch": {"context_px": 44, "stride_px": 16, "mpp": 0.5},
    "heatmaps": [{"name": "dark", "title": "Dark", "class": "Dark"}],
}
CLASSES = [{"name": "Red", "color": [213, 94, 0]}, {"name": "Green", "color": [0, 158, 115]}]
FACTS = SlideFacts(content_id="e" * 64, bounds_l0=None, dark_field=False)
TISSUE = (230, 190, 210)


def write_models(folder: Path, *, mask_head: str = "classes") -> Path:
    """The packages of both pipelines."""
    mask = toy_models.segmenter_fields(
        "toy-mask",
        head=mask_head,
        halo_px=8,
        classes=CLASSES,
        outputs=[toy_models.maps_fields("Red", "Green")],
        options={"foreground": 0.5, "min_area_um2": 0.0},
    )
    toy_models.write_package(folder, mask, toy_models.color_mask_segmenter(2))
    dark = toy_models.classifier_fields(
        "toy-dark",
        44,
        head="sigmoid",
        mpp=0.5,
        crop={"size_px": 44},
        classes=[{"name": "Dark", "color": [0, 0, 0]}],
    )
    toy_models.write_package(folder, dark, toy_models.brightness_classifier(44))
    return folder


def write_pipelines(folder: Path, *files: dict[str, Any]) -> Path:
    """Pipeline files."""
    folder.mkdir(parents=True, exist_ok=True)
    for fields in files:
        (folder / f"{fields['name']}.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    return folder


class ToyKinds:
    """Pipelines of `areas` and `patches`, loaded; `run` analyses an image with one of them.

    `run` hands on what else it is given to `analyse`.
    """

    def __init__(self, folder: Path, **changes: dict[str, Any]) -> None:
        head = changes.get("mask", {}).get("head", "classes")
        packages = load_repository(write_models(folder / "models", mask_head=head))
        files = (AREAS | changes.get("areas", {}), PATCHES | changes.get("patches", {}))
        pipelines = write_pipelines(folder / "pipelines", *files)
        self.pipelines = load_pipelines(packages, pipelines, [kind.file for kind in KINDS.values()])
        self.runner = LocalRunner(packages.values())

    def run(
        self,
        pipeline: str,
        image: NDArray[np.uint8],
        *,
        region_l0: Box | None = None,
        mpp: float = 0.5,
        tile_px: int | None = 1 << 12,
        shift: tuple[int, int] = (0, 0),
        threads: int = 1,
        thresholds: Mapping[str, float] | None = None,
        runner: Runner | None = None,
        **more: Any,
    ) -> RegionResult:
        source = RegionImage(image)
        opened: OpenSource = lambda *, private=False: nullcontext(source)  # noqa: E731 - as short as it is
        task = RegionTask(
            pipeline=self.pipelines[pipeline],
            open_source=opened,
            region_l0=region_l0 or Box(0, 0, image.shape[1], image.shape[0]),
            mpp=mpp,
            coordinate_space="image-pixels",
            find_facts=known(FACTS),
            thresholds=thresholds or self.pipelines[pipeline].thresholds,
            tile_px=tile_px,
            shift=shift,
        )
        with ThreadPoolExecutor(threads) as pool:
            return analyse(
                task,
                runner=runner or self.runner,
                pool=pool,
                threads=threads,
                control=Control(),
                observer=Silent(),
                **more,
            )


def coloured(seed: int, width: int, height: int, count: int) -> NDArray[np.uint8]:
    """Rings and discs of red and green on tissue, some of them long, with glass at the right."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), TISSUE, np.uint8)
    image[:, width - width // 5 :] = 250
    for _ in range(count):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(2, width // 3)), int(rng.integers(2, 40)))
        colour = [(230, 40, 40), (40, 210, 40)][int(rng.integers(0, 2))]
        thickness = int(rng.choice([-1, 3, 8]))
        cv2.ellipse(image, centre, axes, int(rng.integers(0, 180)), 0, 360, colour, thickness)
    return image


def filled(rings: Any, number: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of piece `number` of `rings`, by even-odd counting of the edges to their left."""
    ys, xs = (axis + 0.5 for axis in np.mgrid[: shape[0], : shape[1]])
    crossed = np.zeros(shape, np.int64)
    for ring in rings_of(rings, number):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if x0 == x1:
                crossed += (ys > min(y0, y1)) & (ys < max(y0, y1)) & (xs > x0)
    return np.asarray(crossed % 2 == 1, np.bool_)


def rings_of(rings: Any, number: int) -> Iterator[NDArray[np.float64]]:
    """The rings of a piece."""
    for index in range(rings.piece_offsets[number], rings.piece_offsets[number + 1]):
        yield rings.vertices[rings.ring_offsets[index] : rings.ring_offsets[index + 1]]
