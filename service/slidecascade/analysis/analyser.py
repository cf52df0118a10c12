"""Everything one process needs to analyse regions, put together once from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.flow import Failure, Progress, analyse, prepare, run_tiles, say_nothing
from slidecascade.analysis.lanes import Lanes
from slidecascade.analysis.plan import RegionTask
from slidecascade.analysis.sink import Sink
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.cells.tile import TileWork
from slidecascade.cores import usable_cores
from slidecascade.errors import (
    InvalidRequestError,
    ModelPackageError,
    NotReadyError,
    PipelineSpecError,
    UnknownModelError,
    UnknownPipelineError,
)
from slidecascade.geometry import Box
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade.models.tensors import Tensors
from slidecascade.pipelines.load import Pipeline, load_pipelines
from slidecascade.runners.choice import open_runner
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, Unobserved, bound
from slidecascade.settings import Settings
from slidecascade.slides.facts import FactsCache, compute_facts
from slidecascade.slides.region import resolve_mpp, resolve_region
from slidecascade.slides.slide import SlideInfo
from slidecascade.slides.source import OpenSource
from slidecascade.slides.store import SlideStore
from slidecascade.slides.tiling import Tile
from slidecascade.slides.upload import decode_image
from slidecascade.timing import Observer, Stopwatch

KEPT_FACTS = 256
"""Slides whose facts are kept; those of one take less than a kilobyte."""


@dataclass(frozen=True, slots=True)
class Report:
    """A finished analysis, and the region's pixels for those who draw on them.

    `overview(max_side_px)` returns the region as ``(H, W, 3)`` uint8 RGB with no side longer than that, and the
    level-0 pixels per pixel of it.
    """

    analysis: Analysis
    overview: Callable[[int], tuple[NDArray[np.uint8], float]]


class Analyser:
    """Models, pipelines, slides, a runner and a pool of threads; usable from many threads at once.

    Args:
        observer: told about stages, tiles and cells.
        runs: told about the runs of networks.
        make_runner: builds what runs the networks of the packages it is given; default: what the settings choose.

    Raises:
        ModelPackageError, PipelineSpecError: when something must not be served; nothing is left running.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer,
        runs: RunObserver | None = None,
        make_runner: Callable[[Iterable[ModelPackage]], Runner] | None = None,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._packages: Mapping[str, ModelPackage] = load_repository(settings.models_dir)
        self._pipelines = load_pipelines(self._packages, settings.pipelines_dir)
        if not self._pipelines:
            raise PipelineSpecError(
                f"No pipeline can be served: the models folder holds {', '.join(self._packages) or 'no models'}; "
                "mount the right one, or add a pipeline for these models."
            )
        make_runner = make_runner or partial(open_runner, settings=settings, observer=runs or Unobserved())
        self._runner = make_runner(self._packages.values())
        self._slides = SlideStore(
            settings.slide_roots, handles=settings.slide_handles, max_listing=settings.max_slide_listing
        )
        self._facts = FactsCache(KEPT_FACTS)
        self._threads = settings.threads or usable_cores()
        self._lanes = Lanes(self._threads, name="tile")

    def close(self) -> None:
        """Stop the threads and let go of slides and sessions."""
        self._lanes.shutdown()
        self._runner.close()
        self._slides.close()

    def check_ready(self) -> None:
        """Ask the networks that are somewhere else whether they can be run; blocks.

        Raises:
            NotReadyError: when one cannot, or is another one than its package.
        """
        if not isinstance(self._runner, RemoteRunner):
            return
        with self._refusing_strangers():
            self._runner.check_ready()

    def infer(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        """What the network `model` returns for `inputs`; raises what a `Runner` and a `SharedRunner` do."""
        with self._refusing_strangers():
            return bound(self._runner, control).run(model, inputs)

    @contextmanager
    def _refusing_strangers(self) -> Iterator[None]:
        """A network elsewhere that is another one than its package is as good as away: raises NotReadyError."""
        try:
            yield
        except ModelPackageError as error:
            raise NotReadyError(error.detail, retry_after_s=self._settings.retry_after_s) from error

    def analyse(
        self,
        request: wire.RegionRequest,
        image: bytes | None,
        control: Control,
        *,
        progress: Progress = say_nothing,
    ) -> Report:
        """Analyse the region of `request`, in `image` (an encoded upload) or in the slide it names.

        Blocks until done; `progress(done, total)` is called after each tile. Raises any of the request's errors
        in `slidecascade.errors`.
        """
        return self.run(self.prepare(request, image, control), control, progress=progress)

    def prepare(
        self, request: wire.RegionRequest, image: bytes | None, control: Control, *, is_bounded: bool = True
    ) -> RegionTask:
        """Check `request`, decode its image or open its slide, and fill in every default.

        Where `is_bounded`, a region of a slide has at most the setting's `max_region_px` pixels; what is worked on
        field by field may have any number.
        """
        control.check()  # it may have waited for its thread: nothing is decoded for a caller who has left
        pipeline = self._find_pipeline(request.pipeline)
        thresholds = _thresholds(pipeline, request.thresholds)
        open_source = self._source(request, image)
        with open_source() as source:
            mpp = resolve_mpp(source, request.mpp)
            asked = None if request.region is None else Box(**request.region.model_dump())
            region = resolve_region(source, asked, max_px=self._settings.max_region_px if is_bounded else None)
            space, content_id = source.coordinate_space, source.content_id
        control.check()  # decoding and opening can take long
        facts = self._facts.of(content_id, partial(compute_facts, open_source))
        return RegionTask(
            pipeline=pipeline,
            open_source=open_source,
            region_l0=region,
            mpp=mpp,
            coordinate_space=space,
            facts=facts,
            thresholds=thresholds,
            tile_px=request.tile_px,
            allow_partial=request.allow_partial,
        )

    def run(self, task: RegionTask, control: Control, *, progress: Progress = say_nothing) -> Report:
        """Analyse a region whose every default is filled in."""
        with self._refusing_strangers():
            analysis = analyse(
                task,
                runner=self._runner,
                pool=self._lanes.people,
                threads=self._threads,
                control=control,
                observer=self._observer,
                progress=progress,
            )
        return Report(analysis, partial(task.overview, damaged=bool(analysis.tiles.failed)))

    def tile_work(self, task: RegionTask, control: Control, stopwatch: Stopwatch) -> TileWork:
        """What all tiles of `task` share; raises what `flow.prepare` does."""
        return prepare(task, self._runner, control, stopwatch)

    def run_tiles(
        self,
        task: RegionTask,
        work: TileWork,
        tiles: Sequence[Tile],
        sink: Sink,
        *,
        progress: Progress = say_nothing,
    ) -> tuple[Failure, ...]:
        """Hand every one of `tiles` to `sink`; those that failed twice are returned; see `flow.run_tiles`.

        Tiles of regions that are asked for meanwhile are worked on first.
        """
        with self._refusing_strangers():
            return run_tiles(
                task,
                work,
                tiles,
                sink,
                pool=self._lanes.jobs,
                threads=self._threads,
                observer=self._observer,
                progress=progress,
            )

    @property
    def threads(self) -> int:
        """Tiles worked on at a time."""
        return self._threads

    @property
    def observer(self) -> Observer:
        """Who is told about stages, tiles and cells."""
        return self._observer

    def pipelines(self) -> tuple[wire.PipelineInfo, ...]:
        return tuple(map(_pipeline_info, self._pipelines.values()))

    def pipeline(self, name: str) -> wire.PipelineInfo:
        return _pipeline_info(self._find_pipeline(name))

    def models(self) -> tuple[wire.ModelInfo, ...]:
        return tuple(_model_info(package.spec) for package in self._packages.values())

    def model(self, name: str) -> wire.ModelInfo:
        return _model_info(self.package(name).spec)

    def package(self, name: str) -> ModelPackage:
        """The package of a model; raises UnknownModelError."""
        if name not in self._packages:
            raise UnknownModelError(f"There is no model {name!r}: GET /v1/models lists them.")
        return self._packages[name]

    def slides(self) -> wire.SlideList:
        ids, truncated = self._slides.list_ids()
        return wire.SlideList(slides=tuple(wire.SlideRef(id=slide_id) for slide_id in ids), truncated=truncated)

    def slide(self, slide_id: str) -> wire.SlideInfo:
        with self._slides.open(slide_id) as slide:
            return _slide_info(slide_id, slide.info, slide.content_id)

    def _find_pipeline(self, name: str) -> Pipeline:
        if name not in self._pipelines:
            known = ", ".join(self._pipelines) or "none: their models are not in the models folder"
            raise UnknownPipelineError(f"There is no pipeline {name!r}; there are {known}.")
        return self._pipelines[name]

    def _source(self, request: wire.RegionRequest, image: bytes | None) -> OpenSource:
        if (image is None) == (request.slide is None):
            raise InvalidRequestError(
                "Send either an image or the id of a slide, and not both.",
                errors=(("slide", "give either an uploaded image or a slide id"),),
            )
        if image is not None:
            upload = decode_image(image, max_px=self._settings.max_region_px)
            return lambda *, private=False: nullcontext(upload)
        slide_id = str(request.slide)
        return lambda *, private=False: self._slides.open(slide_id, private=private)


def _thresholds(pipeline: Pipeline, asked: Mapping[str, float]) -> Mapping[str, float]:
    """Defaults of the pipeline's models, with what was asked for in their place."""
    defaults = dict(pipeline.thresholds)
    if unknown := sorted(asked.keys() - defaults.keys()):
        raise InvalidRequestError(
            f"Pipeline {pipeline.name!r} has no model {unknown[0]!r}; it has {', '.join(defaults)}.",
            errors=tuple((f"thresholds.{name}", "no such model in this pipeline") for name in unknown),
        )
    return defaults | dict(asked)


def _slide_info(slide_id: str, info: SlideInfo, content_id: str) -> wire.SlideInfo:
    return wire.SlideInfo(
        id=slide_id,
        width=info.size_l0.width,
        height=info.size_l0.height,
        mpp=info.mpp,
        objective_power=info.objective_power,
        vendor=info.vendor,
        content_id=content_id,
        bounds=None if info.bounds_l0 is None else wire.RegionBox.of(*info.bounds_l0.as_tuple()),
        levels=tuple(
            wire.LevelInfo(width=size.width, height=size.height, downsample=downsample)
            for size, downsample in zip(info.level_sizes, info.level_downsamples, strict=True)
        ),
    )


def _class_info(name: str, color: tuple[int, int, int]) -> wire.ClassInfo:
    return wire.ClassInfo(name=name, color=color)


def _pipeline_info(pipeline: Pipeline) -> wire.PipelineInfo:
    return wire.PipelineInfo(
        name=pipeline.name,
        title=pipeline.title,
        description=pipeline.description,
        segmenter=pipeline.segmenter.name,
        classifiers=tuple(stage.model.name for stage in pipeline.stages),
        thresholds=dict(pipeline.thresholds),
        classes=tuple(_class_info(item.name, item.color) for item in pipeline.classes.ends),
        heatmaps=tuple(
            wire.HeatmapInfo(name=item.name, title=item.title, kind=item.kind) for item in pipeline.heatmaps
        ),
    )


def _model_info(spec: SegmenterSpec | ClassifierSpec) -> wire.ModelInfo:
    return wire.ModelInfo(
        name=spec.name,
        version=spec.version,
        task=spec.task,
        head=spec.head,
        mpp=spec.mpp,
        inputs=tuple(wire.InputInfo.model_validate(tensor.model_dump()) for tensor in spec.inputs),
        outputs=tuple(wire.OutputInfo.model_validate(tensor.model_dump()) for tensor in spec.outputs),
        classes=tuple(_class_info(item.name, item.color) for item in spec.classes),
        licence=spec.licence,
        training_data=tuple(item.model_dump() for item in spec.training_data),
        accuracy=spec.accuracy,
        sha256=spec.sha256,
    )
