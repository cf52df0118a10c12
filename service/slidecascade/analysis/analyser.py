"""The analyser: models, pipelines, slides, runner and threads of a process, created from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slidecascade import wire
from slidecascade.analysis.catalogue import model_info, pipeline_info, slide_info
from slidecascade.analysis.flow import AnyWork, Failure, Progress, analyse, prepare, run_tiles, say_nothing
from slidecascade.analysis.lanes import Lanes
from slidecascade.analysis.plan import RegionTask
from slidecascade.analysis.preparation import Preparation, Sent, decoded_image
from slidecascade.analysis.uploading import Uploading
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.cores import usable_cores
from slidecascade.errors import (
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
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.outputs.encoders import Encoders
from slidecascade.outputs.files import Overview
from slidecascade.pipelines.load import load_pipelines
from slidecascade.pipelines.spec import Pipeline
from slidecascade.runners.choice import open_runner
from slidecascade.runners.precision import served_packages
from slidecascade.runners.runner import RemoteRunner, Runner, RunObserver, Unobserved, bound, trim
from slidecascade.settings import Settings
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.slides.dicomwebslide import slides_of
from slidecascade.slides.openslides import SlideOpener
from slidecascade.slides.source import Source
from slidecascade.slides.stackimage import StackImage
from slidecascade.slides.store import SlideStore
from slidecascade.slides.tiling import Tile
from slidecascade.slides.upload import EncodedImage, RegionImage
from slidecascade.slides.visible import ALL_SLIDES, Visible
from slidecascade.timing import Observer, Stopwatch


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
        decoder: decodes uploads, stacks of channels and frames of DICOMweb servers; closed with the analyser.
        opener: opens slides, by default in this process; closed with the analyser.
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
        decoder: Decoder = DIRECT,
        opener: SlideOpener | None = None,
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._opener = opener
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
            settings.slide_roots,
            handles=settings.slide_handles,
            max_listing=settings.max_slide_listing,
            dicomweb=slides_of(
                settings.dicomweb,
                settings.dicomweb_tokens_dir,
                handles=settings.slide_handles,
                cache_bytes=settings.dicomweb_cache_mib * 2**20,
                decode=decoder.frame,
            ),
            decoder=decoder,
            opener=opener,
        )
        self._preparation = Preparation(
            self._slides, self._find_pipeline, self.expected_bytes, max_region_px=settings.max_region_px
        )
        self._threads = settings.threads or usable_cores()
        self.memory = Budget(
            settings.memory_mib * 2**20 or usable_bytes() // 2,
            retry_after_s=settings.retry_after_s,
            notify=observer.memory,
        )
        self._lanes = Lanes(self._threads, name="tile")

    def trim(self) -> None:
        """Give back the memory that networks keep for their next runs; those in progress keep theirs."""
        trim(self._runner)

    def close(self) -> None:
        """Stop the threads and close slides and sessions."""
        self._lanes.shutdown()
        self._decoder.close()
        self._runner.close()
        self._slides.close()
        if self._opener is not None:
            self._opener.close()

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
        visible: Visible = ALL_SLIDES,
    ) -> Report:
        """Analyse the region of `request`, in `image` (an encoded upload) or in the slide it names.

        Blocks until finished; `progress(done, total)` is called after each tile. Raises the errors of requests
        in `slidecascade.errors`.

        Args:
            share: a share of `memory` in which the region's memory is reserved, released after the response.
            overview_side_px: longest side of the overview that the report must provide; 0: none.
            visible: the slides that exist for who asks.
        """
        with Uploading(share, control, self._decoder) as uploading:
            task = self._preparation.task(
                request,
                image,
                control,
                share,
                uploading.begin,
                overview_side_px=overview_side_px,
                is_bounded=True,
                visible=visible,
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
        visible: Visible = ALL_SLIDES,
    ) -> RegionTask:
        """Validate `request`, decode its image or open its slide, and resolve all defaults; see `analyse`.

        If `is_bounded`, a region has at most the setting's `max_region_px` pixels; a region analysed
        by fields may be larger.
        """

        def decoded(encoded: EncodedImage, kept_bytes: int) -> RegionImage | StackImage:
            return decoded_image(encoded, share, control, self._decoder, kept_bytes=kept_bytes)

        return self._preparation.task(
            request,
            image,
            control,
            share,
            decoded,
            overview_side_px=overview_side_px,
            is_bounded=is_bounded,
            visible=visible,
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
    def decoder(self) -> Decoder:
        """Where images that callers send are decoded."""
        return self._decoder

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

    def slides(self, visible: Visible = ALL_SLIDES) -> wire.SlideList:
        ids, truncated = self._slides.list_ids(visible)
        return wire.SlideList(slides=tuple(wire.SlideRef(id=slide_id) for slide_id in ids), truncated=truncated)

    def slide(self, slide_id: str, visible: Visible = ALL_SLIDES) -> wire.SlideInfo:
        with self._slides.open(slide_id, visible=visible) as slide:
            return slide_info(slide_id, slide.info, slide.content_id)

    def recognises(self, path: Path) -> bool:
        """Whether a file that the service itself has stored is a slide, by its format; it may be damaged."""
        return self._slides.recognises(path)

    def open_slide(self, slide_id: str, visible: Visible = ALL_SLIDES) -> AbstractContextManager[Source]:
        """The pixels of a slide, shared with other readers; raises UnknownSlideError or UnreadableSlideError."""
        return self._slides.open(slide_id, visible=visible)

    def _find_pipeline(self, name: str) -> Pipeline:
        if name not in self._pipelines:
            known = ", ".join(self._pipelines)
            raise UnknownPipelineError(f"There is no pipeline {name!r}: choose one of {known}.")
        return self._pipelines[name]
