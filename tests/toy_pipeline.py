"""A pipeline of toy models over images of dark blobs: fast, and its cells are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.geometry import Box
from slidecascade.kinds.table import KINDS, Kind
from slidecascade.models.repository import load_repository
from slidecascade.pipelines.cells import FILE, CellsPipeline
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner
from slidecascade.slides.facts import compute_facts
from slidecascade.slides.source import OpenSource
from slidecascade.slides.upload import RegionImage
from slidecascade.timing import Observer, Silent

WHOLE_PX = 1 << 20
BACKGROUND = (230, 190, 210)
HALO_PX = 32
FIELDS = {
    "name": "toy",
    "title": "Toy",
    "description": "Dark blobs by colour.",
    "segmenter": "toy-segmenter",
    "cascade": [{"model": "toy-classifier"}, {"model": "toy-second", "select": "Red"}],
    "heatmaps": [{"name": "red", "title": "Red", "kind": "fraction", "classes": ["Red: Green"], "of": ["Red"]}],
}


class ToyPipeline:
    """Packages in a folder, loaded; `run` analyses an image with them.

    `segmenter`: fields of its segmenter; `network`: its graph, by default `toy_models.darkness_segmenter`.
    """

    def __init__(self, folder: Path, *, network: bytes | None = None, **segmenter: Any) -> None:
        self.models_dir = folder / "models"
        self.pipelines_dir = folder / "pipelines"
        self.pipelines_dir.mkdir(parents=True)
        (self.pipelines_dir / "toy.yaml").write_text(yaml.safe_dump(FIELDS), encoding="utf-8")
        fields = toy_models.segmenter_fields(**{"halo_px": HALO_PX} | segmenter)
        toy_models.write_package(self.models_dir, fields, network or toy_models.darkness_segmenter())
        for name, side_px in (("toy-classifier", 72), ("toy-second", 96)):
            fields = toy_models.classifier_fields(name, side_px)
            toy_models.write_package(self.models_dir, fields, toy_models.redness_classifier(side_px))
        packages = load_repository(self.models_dir)
        self.pipeline: CellsPipeline = load_pipelines(packages, self.pipelines_dir, (FILE,))["toy"]
        self.runner: Runner = LocalRunner(packages.values())

    def run(
        self,
        image: NDArray[np.uint8],
        *,
        region_l0: Box | None = None,
        mpp: float = 0.5,
        tile_px: int | None = WHOLE_PX,
        shift: tuple[int, int] = (0, 0),
        threads: int = 1,
        runner: Runner | None = None,
        control: Control | None = None,
        observer: Observer | None = None,
        allow_partial: bool = False,
        open_source: OpenSource | None = None,
        progress: Callable[[int, int], None] | None = None,
        kinds: Mapping[str, Kind] = KINDS,
    ) -> Analysis:
        """The analysis of `image` (or of `region_l0` of it) at `mpp` um/px."""
        source = RegionImage(image)
        opened: OpenSource = open_source or (lambda *, private=False: nullcontext(source))
        task = RegionTask(
            pipeline=self.pipeline,
            open_source=opened,
            region_l0=region_l0 or Box(0, 0, image.shape[1], image.shape[0]),
            mpp=mpp,
            coordinate_space="image-pixels",
            find_facts=known(compute_facts(opened)),
            thresholds={"toy-segmenter": 0.5, "toy-classifier": 0.0, "toy-second": 0.0},
            tile_px=tile_px,
            shift=shift,
            allow_partial=allow_partial,
        )
        with ThreadPoolExecutor(threads) as pool:
            return cells_of(
                analyse(
                    task,
                    runner=runner or self.runner,
                    pool=pool,
                    threads=threads,
                    control=control or Control(),
                    observer=observer or Silent(),
                    progress=progress or (lambda done, total: None),
                    kinds=kinds,
                )
            )


def blobs(seed: int, width: int, height: int, count: int) -> NDArray[np.uint8]:
    """Dark ellipses of up to 24 px on pink, some of them touching, some cut by the edge.

    The toy network cannot tell touching ones apart, so clumps are objects of any length.
    """
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    for _ in range(count):
        centre = (int(rng.integers(-4, width + 4)), int(rng.integers(-4, height + 4)))
        axes = (int(rng.integers(4, 13)), int(rng.integers(4, 13)))
        colour = [int(value) for value in rng.integers(0, 110, 3)]
        cv2.ellipse(image, centre, axes, int(rng.integers(0, 180)), 0, 360, colour, -1)
    return image
