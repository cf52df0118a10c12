"""An analyser with made-up results whose work waits for a signal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_analysis import make_analysis
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser, Report
from slidecascade.analysis.plan import RegionTask
from slidecascade.cancellation import Control
from slidecascade.errors import SlideCascadeError, UnknownPipelineError, UnknownSlideError
from slidecascade.kinds.table import KINDS
from slidecascade.memory import UNLIMITED, Budget, Share
from slidecascade.outputs.encoders import Encoders
from slidecascade.slides.visible import ALL_SLIDES, Visible

_HUNG_S = 60.0

PIPELINE = wire.PipelineInfo(
    name="nash",
    title="NASH",
    description="Hepatocytes.",
    segmenter="nuclei",
    classifiers=("nash-cell", "nash-hepatocyte"),
    classes=(wire.ClassInfo(name="Immune", color=(0, 114, 178)),),
    heatmaps=(wire.HeatmapInfo(name="steatosis", title="Steatosis", kind="fraction"),),
)


class FakeAnalyser(Analyser):
    """Knows the pipeline `nash` and the slide `a.svs`.

    While `hold` is set, work goes on until it is released or its control says stop; `error` is raised instead of
    an answer. Every region reserves `needs_bytes` of 1 GiB.
    """

    def __init__(self) -> None:
        self.memory = Budget(2**30, retry_after_s=1, notify=lambda _reserved: None)
        self.hold = threading.Event()
        self.error: Exception | None = None
        self.needs_bytes = 0
        self.seen: list[tuple[wire.RegionRequest, bytes | None]] = []
        self.running = 0
        self.stopped: list[str] = []

    def close(self) -> None:
        self.hold.clear()

    def analyse(
        self,
        request: wire.RegionRequest,
        image: bytes | None,
        control: Control,
        *,
        share: Share = UNLIMITED,
        overview_side_px: int = 0,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        visible: Visible = ALL_SLIDES,
    ) -> Report:
        self.seen.append((request, image))
        share.reserve(self.needs_bytes, control)
        self.running += 1
        try:
            while self.hold.is_set():
                control.check()
                time.sleep(0.005)
            control.check()
        except SlideCascadeError as error:
            self.stopped.append(error.problem)
            raise
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return Report(make_analysis(20), _overview)

    def check_ready(self) -> None: ...

    def pipelines(self) -> tuple[wire.PipelineInfo, ...]:
        return (PIPELINE,)

    def pipeline(self, name: str) -> wire.PipelineInfo:
        if name != PIPELINE.name:
            raise UnknownPipelineError(f"There is no pipeline {name!r}.")
        return PIPELINE

    def encoders(self, pipeline: str) -> Encoders[Any]:
        return KINDS[self.pipeline(pipeline).kind].encoders

    def models(self) -> tuple[wire.ModelInfo, ...]:
        return ()

    def slides(self, visible: Visible = ALL_SLIDES) -> wire.SlideList:
        return wire.SlideList(slides=(wire.SlideRef(id="a.svs"),))

    def slide(self, slide_id: str, visible: Visible = ALL_SLIDES) -> wire.SlideInfo:
        if slide_id == "fault":
            raise ValueError(f"opening /data/{slide_id} failed")
        if slide_id != "a.svs":
            raise UnknownSlideError(f"There is no slide {slide_id!r}.")
        return wire.SlideInfo(
            id=slide_id, width=1, height=1, mpp=0.25, objective_power=40, vendor="aperio", levels=()
        )


def _overview(_max_side_px: int) -> tuple[NDArray[np.uint8], float]:
    return np.full((600, 800, 3), 240, np.uint8), 1.0


class HungDisk(FakeAnalyser):
    """All slides are gone; `hung.svs` is not before its disk `answers`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = threading.Event(), threading.Event()

    def prepare(self, request: wire.RegionRequest, *_: object, **__: object) -> RegionTask:
        if request.slide == "hung.svs":
            self.asked.set()
            assert self.answers.wait(_HUNG_S)
        raise UnknownSlideError(f"There is no slide {request.slide!r}.")
