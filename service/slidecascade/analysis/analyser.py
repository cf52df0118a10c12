"""The analyser: models, pipelines, slides, runner and threads of a process, created from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from slidecascade import wire
from slidecascade.analysis import footprint
from slidecascade.analysis.catalogue import model_info, pipeline_info, slide_info
from slidecascade.analysis.flow import AnyWork, Failure, Progress, analyse, prepare, run_tiles, say_nothing
from slidecascade.analysis.lanes import Lanes
from slidecascade.analysis.plan import RegionTask, known, no_wait
from slidecascade.analysis.uploading import Uploading
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
    UnusableStainError,
)
from slidecascade.geometry import Box, Grid
from slidecascade.kinds.result import RegionResult
from slidecascade.kinds.sink import Sink
from slidecascade.kinds.table import KINDS, Kind
from slidecascade.memory import UNLIMITED, Budget, Share, usable_bytes
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.outputs.encoders import Encoders
from slidecascade.outputs.files import Overview
from slidecascade.pipelines.load import load_pipelines
from slidecascade.pipelines.spec import Pipeline
from slidecascade.runners.choice import open_runner
from slidecascade.runners.precision import served_packages
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, Unobserved, bound
from slidecascade.settings import Settings
from slidecascade.slides.arriving import ArrivingImage
from slidecascade.slides.channels import RGB, ChannelUse, resolve
from slidecascade.slides.channels import doubts_of as channel_doubts
from slidecascade.slides.doubts import doubts_of
from slidecascade.slides.facts import FactsCache, SlideFacts, compute_facts, with_stain
from slidecascade.slides.region import require_workable, resolve_mpp, resolve_region
from slidecascade.slides.source import OpenSource, Pyramid, Source
from slidecascade.slides.stackimage import StackImage
from slidecascade.slides.store import SlideStore
from slidecascade.slides.tiling import Tile
from slidecascade.slides.upload import EncodedImage, RegionImage, open_image
from slidecascade.slides.view import SlideFrame
from slidecascade.timing import Observer, Stopwatch

Sent: TypeAlias = bytes | RegionImage | Path | None
"""What is analysed where the request names no slide: an encoded image, a decoded one, or a stored slide's file."""

KEPT_FACTS = 256
"""Number of slides with cached facts; each takes less than a kilobyte."""


Upload = RegionImage | StackImage | ArrivingImage


@dataclass(frozen=True, slots=True)
class Report:
    """A finished analysis, and access to the region's pixels for overlays."""

    analysis: RegionResult
    overview: Overview

    @property
    def cells(self) -> Analysis:
        """The analysis of a pipeline of cells; raises InvalidRequestError for another kind."""
        return cells_of(self.analysis)


class Analyser:
    """Models, pipelines, slides, a runner and a pool of threads; usable from many threads at once.

    Args:
        observer: notified of stages, tiles and cells.
        runs: notified of the runs of networks.
        kinds: the kinds of pipelines by name.
        make_runner: creates the runner of the given packages; default: by the settings.

    Raises:
        ModelPackageError, PipelineSpecError: for an invalid package or pipeline; no thread is left running.
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
        self._packages: Mapping[str, ModelPackage] = served_packages(settings)
        self._kinds = kinds
        files = [kind.file for kind in kinds.values()]
        self._pipelines: Mapping[str, Pipeline] = load_pipelines(self._packages, settings.pipelines_dir, files)
        if not self._pipelines:
            raise PipelineSpecError(
                f"No pipeline can be served with the models {', '.join(self._packages) or 'none'}: "
                "use another models folder, or add a pipeline for these models."
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
        """Stop the threads and close slides and sessions."""
        self._lanes.shutdown()
        self._runner.close()
        self._slides.close()

    def check_ready(self) -> None:
        """Check whether remote networks can be run; blocks.

        Raises:
            NotReadyError: when one cannot, or differs from its package.
        """
        if not isinstance(self._runner, RemoteRunner):
            return
        with self._matching_packages():
            self._runner.check_ready()

    def infer(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        """The outputs of the network `model` for `inputs`; raises the errors of `Runner` and `SharedRunner`."""
        with self._matching_packages():
            return bound(self._runner, control).run(model, inputs)

    @contextmanager
    def _matching_packages(self) -> Iterator[None]:
        """Raise NotReadyError for a remote network that differs from its package."""
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

        Blocks until finished; `progress(done, total)` is called after each tile. Raises the errors of requests
        in `slidecascade.errors`.

        Args:
            share: a share of `memory` in which the region's memory is reserved, released after the response.
            overview_side_px: longest side of the overview that the report must provide; 0: none.
        """
        with Uploading(share, control) as uploading:
            task = self._prepare(
                request, image, control, share, uploading.begin, overview_side_px=overview_side_px, is_bounded=True
            )
            return self._run(task, control, uploading.hold, progress)

    def prepare(
        self,
        request: wire.RegionRequest,
        image: Sent,
        control: Control,
        *,
        share: Share = UNLIMITED,
        overview_side_px: int = 0,
        is_bounded: bool = True,
    ) -> RegionTask:
        """Validate `request`, decode its image or open its slide, and resolve all defaults; see `analyse`.

        If `is_bounded`, a region has at most the setting's `max_region_px` pixels; a region analysed
        by fields may be larger.
        """

        def decoded(encoded: EncodedImage, kept_bytes: int) -> RegionImage | StackImage:
            return _decoded(encoded, share, control, kept_bytes=kept_bytes)

        return self._prepare(
            request, image, control, share, decoded, overview_side_px=overview_side_px, is_bounded=is_bounded
        )

    def _prepare(
        self,
        request: wire.RegionRequest,
        image: Sent,
        control: Control,
        share: Share,
        decode: Callable[[EncodedImage, int], Upload],
        *,
        overview_side_px: int,
        is_bounded: bool,
    ) -> RegionTask:
        """As `prepare`; `decode` gives the pixels of an upload, with the number of bytes that are kept."""
        control.check()  # queued requests may have been cancelled; nothing is decoded after that
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
        upload: Upload | None = image if isinstance(image, RegionImage) else None
        if encoded is None:
            share.reserve(held + found, control)
        else:
            held += len(encoded.data) + encoded.decoded_bytes
            upload = decode(encoded, held + found)
        control.check()  # decoding and waiting can take long
        file = image if isinstance(image, Path) else None
        open_source = self._opener(request, upload, file)
        with open_source() as source:
            content_id = source.content_id
        facts: Callable[[], SlideFacts] = partial(self._facts.of, content_id, partial(compute_facts, open_source))
        arriving = upload if isinstance(upload, ArrivingImage) else None
        # What channels are scaled by, and a stain's fit, has to be known before the first tile.
        method = pipeline.stain if request.stain is None else request.stain.method
        is_plain = not request.channels and pipeline.channels in ((), RGB) and method == "none"
        is_late = arriving is not None and is_plain
        uses = () if is_late else _channels(pipeline, request.channels, facts())
        if method != "none":
            facts = self._with_stain(facts, content_id, open_source, method, uses)
        return RegionTask(
            pipeline=pipeline,
            open_source=open_source,
            region_l0=region,
            mpp=mpp,
            coordinate_space=space,
            find_facts=facts if is_late else known(replace(facts(), channels=uses)),
            channels=uses,
            stain=None if is_late else facts().stain,
            thresholds=thresholds,
            tile_px=request.tile_px,
            allow_partial=request.allow_partial,
            held_bytes=held,
            stated_doubts=(*doubts, *channel_doubts(uses)),
            origin=request.origin,
            wait_for_rows=arriving.wait_for if arriving else no_wait,
        )

    def run(
        self,
        task: RegionTask,
        control: Control,
        *,
        share: Share = UNLIMITED,
        progress: Progress = say_nothing,
    ) -> Report:
        """Analyse a prepared region; the memory of the results is reserved in `share`."""
        return self._run(task, control, share.require, progress)

    def _run(self, task: RegionTask, control: Control, hold: Callable[[int], None], progress: Progress) -> Report:
        with self._matching_packages():
            analysis = analyse(
                task,
                runner=self._runner,
                pool=self._lanes.people,
                threads=self._threads,
                control=control,
                observer=self._observer,
                progress=progress,
                kinds=self._kinds,
                hold=lambda found: hold(task.held_bytes + found),
            )
        return Report(analysis, partial(task.overview, damaged=bool(analysis.tiles.failed)))

    def tile_work(self, task: RegionTask, control: Control, stopwatch: Stopwatch) -> AnyWork:
        """The work shared by all tiles of `task`; raises the errors of `flow.prepare`."""
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
        """Pass the results of `tiles` to `sink`, and return the tiles that failed twice; see `flow.run_tiles`.

        The threads are those of jobs, which yield the cores to regions that are asked for meanwhile.
        """
        with self._matching_packages():
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
        """Number of concurrent tiles."""
        return self._threads

    @property
    def observer(self) -> Observer:
        """Notified of stages, tiles and cells."""
        return self._observer

    def pipelines(self) -> tuple[wire.PipelineInfo, ...]:
        return tuple(map(pipeline_info, self._pipelines.values()))

    def pipeline(self, name: str) -> wire.PipelineInfo:
        return pipeline_info(self._find_pipeline(name))

    def encoders(self, pipeline: str) -> Encoders[Any]:
        """The encoders for results of a pipeline; raises UnknownPipelineError."""
        return self._kinds[self._find_pipeline(pipeline).kind].encoders

    def models(self) -> tuple[wire.ModelInfo, ...]:
        return tuple(model_info(package.spec) for package in self._packages.values())

    def model(self, name: str) -> wire.ModelInfo:
        return model_info(self.package(name).spec)

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
            return slide_info(slide_id, slide.info, slide.content_id)

    def open_slide(self, slide_id: str) -> AbstractContextManager[Source]:
        """The pixels of a slide, shared with other readers; raises UnknownSlideError or UnreadableSlideError."""
        return self._slides.open(slide_id)

    def _find_pipeline(self, name: str) -> Pipeline:
        if name not in self._pipelines:
            known = ", ".join(self._pipelines)
            raise UnknownPipelineError(f"There is no pipeline {name!r}: choose one of {known}.")
        return self._pipelines[name]

    def _expected(self, pipeline: Pipeline, region_l0: Box, frame: SlideFrame) -> int:
        """Expected memory of the results of `pipeline`; rejects regions that a model's grid enlarges too much."""
        grids: dict[str, Grid] = {}
        for model in pipeline.models:
            grids[model.name] = frame.grid(pipeline.mpp_of(model))
            require_workable(region_l0, grids[model.name])
        return self.expected_bytes(pipeline, region_l0, grids)

    @contextmanager
    def _pyramid(self, request: wire.RegionRequest, image: Sent) -> Iterator[Pyramid]:
        """The metadata of the upload or slide; no pixels are read."""
        if (image is None) == (request.slide is None):
            raise InvalidRequestError(
                "The request needs either an image or the id of a slide: send one of them.",
                errors=(("slide", "send either an image or a slide id"),),
            )
        if isinstance(image, RegionImage):
            yield image
            return
        if isinstance(image, bytes):
            yield open_image(image, max_px=self._settings.max_region_px)
            return
        if isinstance(image, Path):
            with self._slides.open_file(image) as slide:
                yield slide
            return
        with self._slides.open(str(request.slide)) as slide:
            yield slide

    def _with_stain(
        self,
        facts: Callable[[], SlideFacts],
        content_id: str,
        open_source: OpenSource,
        method: wire.StainMethod,
        uses: tuple[ChannelUse, ...],
    ) -> Callable[[], SlideFacts]:
        """As `facts`, with the fit of the slide's stain by `method`; raises UnusableStainError."""
        if uses or len(facts().intensities) != len(RGB):
            raise UnusableStainError(
                "Stain normalisation is for the colours of a stained slide, but the pipeline is given channels of "
                "this one: send `stain` with the method none."
            )
        return partial(self._facts.of, f"{content_id} {method}", lambda: with_stain(facts(), open_source, method))

    def _opener(self, request: wire.RegionRequest, upload: Upload | None, file: Path | None) -> OpenSource:
        if upload is not None:
            return lambda *, private=False: nullcontext(upload)  # noqa: ARG005 - an upload has nothing private
        if file is not None:
            return lambda *, private=False: self._slides.open_file(file, private=private)
        slide_id = str(request.slide)
        return lambda *, private=False: self._slides.open(slide_id, private=private)


def _decoded(image: EncodedImage, share: Share, control: Control, *, kept_bytes: int) -> RegionImage | StackImage:
    """The pixels of `image`, after reserving memory for decoding in `share`; `kept_bytes` stay reserved."""
    share.reserve(max(kept_bytes, len(image.data) + image.peak_bytes), control)
    upload = image.decode()
    share.shrink(kept_bytes)
    return upload


def _channels(pipeline: Pipeline, asked: Mapping[str, int | str], facts: SlideFacts) -> tuple[ChannelUse, ...]:
    """The channels that `pipeline` is given; none: colours as they are, or the one channel of a stack as grey."""
    is_picture = len(facts.intensities) == 1 or tuple(item.name for item in facts.intensities) == RGB
    if not asked and is_picture and pipeline.channels in ((), RGB):
        return ()
    if not pipeline.channels and not asked:
        message = (
            f"The pipeline {pipeline.name!r} takes colours, but the slide is a stack of channels: send a picture."
        )
        raise InvalidRequestError(message, errors=(("slide", message),))
    if not pipeline.channels:
        message = f"The pipeline {pipeline.name!r} takes the colours of a slide as they are: leave out `channels`."
        raise InvalidRequestError(message, errors=(("channels", message),))
    intensities = [intensity.between(pipeline.percentiles) for intensity in facts.intensities]
    uses = resolve(pipeline.channels, asked, intensities, dark_field=facts.dark_field)
    return tuple(use.in_counts() if use.meaning in pipeline.count_channels else use for use in uses)


def _thresholds(pipeline: Pipeline, asked: Mapping[str, float]) -> Mapping[str, float]:
    """The default thresholds of the pipeline's models, overridden by those of the request."""
    defaults = dict(pipeline.thresholds)
    if unknown := sorted(asked.keys() - defaults.keys()):
        raise InvalidRequestError(
            f"Pipeline {pipeline.name!r} has no model {unknown[0]!r}: use {', '.join(defaults)}.",
            errors=tuple((f"thresholds.{name}", "no such model in this pipeline") for name in unknown),
        )
    return defaults | dict(asked)
