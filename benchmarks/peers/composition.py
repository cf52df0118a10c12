"""What every peer does with a region: the service's own reading, decoding, crops and encoding, one tile at a time.

Peers differ in how networks are run and how regions and calls meet, and in nothing else: each of them gives its
own runner to the same code. Imported in the peers' own environments too, so it asks for little.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from slidecascade.analysis.flow import analyse
from slidecascade.analysis.plan import RegionTask, known
from slidecascade.cancellation import Control
from slidecascade.cells.result import cells_of
from slidecascade.geometry import Box
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.outputs.cells import geojson
from slidecascade.pipelines.cells import FILE, CellsPipeline
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.runner import Runner
from slidecascade.settings import bundled_models_dir
from slidecascade.slides.facts import compute_facts
from slidecascade.slides.upload import decode_image
from slidecascade.timing import Silent

PIPELINE = "nash"
MPP = 0.25
TILE_PX = 512
"""What the service itself takes for regions of up to 2048 x 2048 px at this pixel size."""

_MAX_PX = 100_000_000

P = ParamSpec("P")
T = TypeVar("T")


class Here(Executor):
    """Runs what it is given at once, in the caller's thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - an executor's own boundary: the future carries it
            future.set_exception(error)
        return future


@dataclass(frozen=True, slots=True)
class Composition:
    """The `nash` pipeline from an encoded image to GeoJSON."""

    pipeline: CellsPipeline
    packages: tuple[ModelPackage, ...]

    @classmethod
    def load(cls, models_dir: Path | None = None) -> Composition:
        found = load_repository(models_dir or bundled_models_dir())
        pipeline = load_pipelines(found, None, (FILE,))[PIPELINE]
        return cls(pipeline, tuple(found[model.name] for model in pipeline.models))

    def package(self, model: str) -> ModelPackage:
        return next(package for package in self.packages if package.spec.name == model)

    def answer(self, image: bytes, runner: Runner) -> bytes:
        """The GeoJSON of all cells in `image`, an encoded upload; every network call is made by `runner`."""
        source = decode_image(image, max_px=_MAX_PX)

        def open_source(*, private: bool = False) -> Any:  # noqa: ARG001 - of `OpenSource`
            return nullcontext(source)

        task = RegionTask(
            pipeline=self.pipeline,
            open_source=open_source,
            region_l0=Box(0, 0, source.size_l0.width, source.size_l0.height),
            mpp=MPP,
            coordinate_space="image-pixels",
            find_facts=known(compute_facts(open_source)),
            thresholds=self.pipeline.thresholds,
            tile_px=TILE_PX,
        )
        analysis = analyse(task, runner=runner, pool=Here(), threads=1, control=Control(), observer=Silent())
        return b"".join(geojson.encode(cells_of(analysis)))
