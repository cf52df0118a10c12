"""Everything one process needs to analyse regions, put together once from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from slidecascade import wire
from slidecascade.analysis import footprint
from slidecascade.analysis.flow import AnyWork, Failure, Progress, analyse, prepare, run_tiles, say_nothing
from slidecascade.analysis.lanes import Lanes
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.cores import usable_cores
from slidecascade.errors import (
    InvalidRequestError,
    ModelPackageError,
    NotReadyError,
    PipelineSpecError,
    UnknownModelError,
    UnknownPipelineError,
)
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.result import RegionResult
from slidecascade.kinds.sink import Sink
from slidecascade.kinds.table import KINDS, Kind
from slidecascade.memory import UNLIMITED, Budget, Share, usable_bytes
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade.models.tensors import Tensors
from slidecascade.outputs.encoders import Encoders
from slidecascade.outputs.files import Overview
from slidecascade.pipelines.load import load_pipelines
from slidecascade.pipelines.spec import Pipeline
from slidecascade.runners.choice import open_runner
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, Unobserved, bound
from slidecascade.settings import Settings
from slidecascade.slides.doubts import SWAPPED, doubts_of
from slidecascade.slides.facts import FactsCache, compute_facts
from slidecascade.slides.region import require_workable, resolve_mpp, resolve_region
from slidecascade.slides.slide import SlideInfo
from slidecascade.slides.source import OpenSource, Pyramid
from slidecascade.slides.store import SlideStore
from slidecascade.slides.tiling import Tile
from slidecascade.slides.upload import EncodedImage, RegionImage, open_image
from slidecascade.slides.view import SlideFrame
from slidecascade.timing import Observer, Stopwatch

KEPT_FACTS = 256
"""Slides whose facts are kept; those of one take less than a kilobyte."""


@dataclass(frozen=True, slots=True)
class Report:
    """A finished analysis, and the region's pixels for those who draw on them."""

    analysis: RegionResult
    overview: Overview

    @property
    def cells(self) -> Analysis:
        """The analysis of a pipeline that finds cells; raises InvalidRequestError for one of another kind."""
        return cells_of(self.analysis)


class Analyser:
    """Models, pipelines, slides, a runner and a pool of threads; usable from many threads at once.

    Args:
        observer: told about stages, tiles and cells.
        runs: told about the runs of networks.
        kinds: of pipeline, by name.
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
        kinds: Mapping[str, Kind] = KINDS,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._packages: Mapping[str, ModelPackage] = load_repository(settings.models_dir)
        self._kinds = kinds
        files = [kind.file for kind in kinds.values()]
        self._pipelines: Mapping[str, Pipeline] = load_pipelines(self._packages, settings.pipelines_dir, files)
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
        self.memory = Budget(
            settings.memory_mib * 2**20 or usable_bytes() // 2,
            retry_after_s=settings.retry_after_s,
            notify=observer.memory,
        )
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
        share: Share = UNLIMITED,
        overview_side_px: int = 0,
        progress: Progress = say_nothing,
    ) -> Report:
        """Analyse the region of `request`, in `image` (an encoded upload) or in the slide it names.

        Blocks until done; `progress(done, total)` is called after each tile. Raises any of the request's errors
        in `slidecascade.errors`.

        Args:
            share: of `memory`; the region's memory is reserved in it, to be released when the answer is sent.
            overview_side_px: longest side of the overview that will be asked of the report; 0: none will be.
        """
        task = self.prepare(request, image, control, share=share, overview_side_px=overview_side_px)
        return self.run(task, control, share=share, progress=progress)

    def prepare(
        self,
        request: wire.RegionRequest,
        image: bytes | None,
        control: Control,
        *,
        share: Share = UNLIMITED,
        overview_side_px: int = 0,
        is_bounded: bool = True,
    ) -> RegionTask:
        """Check `request`, decode its image or open its slide, and fill in every default; see `analyse`.

        Where `is_bounded`, a region of a slide has at most the setting's `max_region_px` pixels; what is worked on
        field by field may have any number.
        """
        control.check()  # it may have waited for its thread: nothing is decoded after a client disconnect
        pipeline = self._find_pipeline(request.pipeline)
        thresholds = _thresholds(pipeline, request.thresholds)
        with self._pyramid(request, image) as pyramid:
            mpp = resolve_mpp(pyramid, request.mpp)
            asked = None if request.region is None else Box(**request.region.model_dump())
            region = resolve_region(pyramid, asked, max_px=self._settings.max_region_px if is_bounded else None)
            encoded = pyramid if isinstance(pyramid, EncodedImage) else None
            found = self._expected(pipeline, region, SlideFrame(pyramid, mpp_l0=mpp))
            space = pyramid.coordinate_space
            doubts = doubts_of(pyramid.stated, mpp)
        held = footprint.answer_bytes(region, overview_side_px=overview_side_px, decoded=encoded is not None)
        upload = None
        if encoded is None:
            share.reserve(held + found, control)
        else:
            held += len(encoded.data) + encoded.decoded_bytes
            upload = _decoded(encoded, share, control, kept_bytes=held + found)
        control.check()  # decoding and waiting can take long
        open_source = self._opener(request, upload)
        with open_source() as source:
            content_id = source.content_id
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
            held_bytes=held,
            doubts=(*doubts, SWAPPED) if facts.red_blue_swapped else doubts,
            origin=request.origin,
        )

    def run(
        self,
        task: RegionTask,
        control: Control,
        *,
        share: Share = UNLIMITED,
        progress: Progress = say_nothing,
    ) -> Report:
        """Analyse a region whose every default is filled in; what is found is held in `share`."""
        with self._refusing_strangers():
            analysis = analyse(
                task,
                runner=self._runner,
                pool=self._lanes.people,
                threads=self._threads,
                control=control,
                observer=self._observer,
                progress=progress,
                kinds=self._kinds,
                hold=lambda found: share.require(task.held_bytes + found),
            )
        return Report(analysis, partial(task.overview, damaged=bool(analysis.tiles.failed)))

    def tile_work(self, task: RegionTask, control: Control, stopwatch: Stopwatch) -> AnyWork:
        """What all tiles of `task` share; raises what `flow.prepare` does."""
        return prepare(task, self._kinds[task.pipeline.kind], self._runner, control, stopwatch)

    def run_tiles(
        self,
        task: RegionTask,
        work: AnyWork,
        tiles: Sequence[Tile],
        sink: Sink[Any],
        *,
        progress: Progress = say_nothing,
    ) -> tuple[Failure, ...]:
        """Pass every one of `tiles` to `sink`, and return those that failed twice; see `flow.run_tiles`.

        The threads are those of jobs, which yield the cores to regions that are asked for meanwhile.
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

    def expected_bytes(self, pipeline: Pipeline, region_l0: Box, grids: Mapping[str, Grid]) -> int:
        """Memory of what `pipeline` may find in a region or a field; `grids` by model."""
        expected: int = self._kinds[pipeline.kind].footprint.expected(pipeline, region_l0, grids)
        return expected

    @property
    def threads(self) -> int:
        """Tiles worked on at a time."""
        return self._threads

    @property
    def observer(self) -> Observer:
        """Notified of stages, tiles and cells."""
        return self._observer

    def pipelines(self) -> tuple[wire.PipelineInfo, ...]:
        return tuple(map(_pipeline_info, self._pipelines.values()))

    def pipeline(self, name: str) -> wire.PipelineInfo:
        return _pipeline_info(self._find_pipeline(name))

    def encoders(self, pipeline: str) -> Encoders[Any]:
        """What the results of a pipeline can be answered as; raises UnknownPipelineError."""
        return self._kinds[self._find_pipeline(pipeline).kind].encoders

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

    def _expected(self, pipeline: Pipeline, region_l0: Box, frame: SlideFrame) -> int:
        """Memory of what `pipeline` may find; raises what is wrong with the pixel size of any model."""
        grids: dict[str, Grid] = {}
        for model in pipeline.models:
            grids[model.name] = frame.grid(pipeline.mpp_of(model))
            require_workable(region_l0, grids[model.name])
        return self.expected_bytes(pipeline, region_l0, grids)

    @contextmanager
    def _pyramid(self, request: wire.RegionRequest, image: bytes | None) -> Iterator[Pyramid]:
        """What the upload or the slide states; no pixel is read."""
        if (image is None) == (request.slide is None):
            raise InvalidRequestError(
                "Send either an image or the id of a slide, and not both.",
                errors=(("slide", "give either an uploaded image or a slide id"),),
            )
        if image is not None:
            yield open_image(image, max_px=self._settings.max_region_px)
            return
        with self._slides.open(str(request.slide)) as slide:
            yield slide

    def _opener(self, request: wire.RegionRequest, upload: RegionImage | None) -> OpenSource:
        if upload is not None:
            return lambda *, private=False: nullcontext(upload)  # noqa: ARG005 - an upload has nothing private
        slide_id = str(request.slide)
        return lambda *, private=False: self._slides.open(slide_id, private=private)


def _decoded(image: EncodedImage, share: Share, control: Control, *, kept_bytes: int) -> RegionImage:
    """The pixels of `image`, once there is memory in `share` for decoding it, of which `kept_bytes` are kept."""
    share.reserve(max(kept_bytes, len(image.data) + image.peak_bytes), control)
    upload = image.decode()
    share.shrink(kept_bytes)
    return upload


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
    by_task = {
        task: [model.name for model in pipeline.models if model.task == task] for task in ("segment", "classify")
    }
    return wire.PipelineInfo(
        name=pipeline.name,
        kind=pipeline.kind,
        title=pipeline.title,
        description=pipeline.description,
        segmenter=next(iter(by_task["segment"]), None),
        classifiers=tuple(by_task["classify"]),
        thresholds=dict(pipeline.thresholds),
        classes=tuple(_class_info(item.name, item.color) for item in pipeline.classes.ends),
        heatmaps=tuple(
            wire.HeatmapInfo(name=item.name, title=item.title, kind=item.kind) for item in pipeline.heatmap_titles
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
