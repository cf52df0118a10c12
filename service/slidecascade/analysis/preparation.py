"""What a request asks for, resolved against pipelines and slides: the task that is then run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from slidecascade import wire
from slidecascade.analysis import footprint
from slidecascade.analysis.plan import RegionTask, known, no_wait
from slidecascade.analysis.uploading import decoding_bytes
from slidecascade.cancellation import Control
from slidecascade.errors import InvalidRequestError, UnusableStainError
from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.kinds.turns import require_turnable
from slidecascade.memory import Share
from slidecascade.pipelines.spec import Pipeline
from slidecascade.slides.arriving import ArrivingImage
from slidecascade.slides.channels import RGB, ChannelUse, resolve
from slidecascade.slides.channels import doubts_of as channel_doubts
from slidecascade.slides.decoder import Decoder
from slidecascade.slides.doubts import doubts_of
from slidecascade.slides.facts import FactsCache, SlideFacts, compute_facts, with_stain
from slidecascade.slides.region import require_workable, resolve_mpp, resolve_region
from slidecascade.slides.source import OpenSource, Pyramid
from slidecascade.slides.stackimage import StackImage
from slidecascade.slides.store import SlideStore
from slidecascade.slides.upload import EncodedImage, RegionImage, open_image
from slidecascade.slides.view import SlideFrame
from slidecascade.slides.visible import ALL_SLIDES, Visible

Sent: TypeAlias = bytes | RegionImage | Path | None
"""What is analysed where the request names no slide: an encoded image, a decoded one, or a stored slide's file."""

KEPT_FACTS = 256
"""Number of slides with cached facts; each takes less than a kilobyte."""

Upload = RegionImage | StackImage | ArrivingImage
"""The pixels of an upload, decoded or arriving."""

ExpectedBytes: TypeAlias = Callable[[Pipeline, Box, Mapping[str, Grid]], int]
"""Memory of what a pipeline may find in a region of level 0; grids by model."""


class Preparation:
    """Turns requests into tasks; usable from many threads at once.

    Args:
        find_pipeline: the pipeline of a name; raises UnknownPipelineError.
        max_region_px: most pixels of a bounded region.
    """

    def __init__(
        self,
        slides: SlideStore,
        find_pipeline: Callable[[str], Pipeline],
        expected_bytes: ExpectedBytes,
        *,
        max_region_px: int,
    ) -> None:
        self._slides = slides
        self._find_pipeline = find_pipeline
        self._expected_bytes = expected_bytes
        self._max_region_px = max_region_px
        self._facts = FactsCache(KEPT_FACTS)

    def task(
        self,
        request: wire.RegionRequest,
        image: Sent,
        control: Control,
        share: Share,
        decode: Callable[[EncodedImage, int], Upload],
        *,
        overview_side_px: int,
        is_bounded: bool,
        visible: Visible = ALL_SLIDES,
    ) -> RegionTask:
        """Validate `request`, decode its image or open its slide, and resolve all defaults.

        Args:
            decode: gives the pixels of an upload, with the number of bytes that are kept.
            overview_side_px: longest side of the overview that the report must provide; 0: none.
            is_bounded: whether a region has at most `max_region_px` pixels.
            visible: the slides that exist for who asks; another raises UnknownSlideError.
        """
        control.check()  # queued requests may have been cancelled; nothing is decoded after that
        pipeline = self._find_pipeline(request.pipeline)
        thresholds = _thresholds(pipeline, request.thresholds)
        require_turnable(pipeline, request.options.tta)
        with self._pyramid(request, image, visible) as pyramid:
            diameter_px = request.object_diameter_px
            mpp = resolve_mpp(pyramid, request.mpp) if diameter_px is None else mpp_of(pipeline, diameter_px)
            asked = None if request.region is None else Box(**request.region.model_dump())
            region = resolve_region(pyramid, asked, max_px=self._max_region_px if is_bounded else None)
            encoded = pyramid if isinstance(pyramid, EncodedImage) else None
            found = self._expected(pipeline, region, SlideFrame(pyramid, mpp_l0=mpp))
            space = pyramid.coordinate_space
            doubts = doubts_of(pyramid.stated, mpp if diameter_px is None else None)
        held = footprint.answer_bytes(region, overview_side_px=overview_side_px, decoded=encoded is not None)
        upload: Upload | None = image if isinstance(image, RegionImage) else None
        if encoded is None:
            share.reserve(held + found, control)
        else:
            held += len(encoded.data) + encoded.decoded_bytes
            upload = decode(encoded, held + found)
        control.check()  # decoding and waiting can take long
        file = image if isinstance(image, Path) else None
        open_source = self._opener(request, upload, file, visible)
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
            object_diameter_px=diameter_px,
            tta=request.options.tta,
        )

    def _expected(self, pipeline: Pipeline, region_l0: Box, frame: SlideFrame) -> int:
        """Expected memory of the results of `pipeline`; rejects regions that a model's grid enlarges too much."""
        grids: dict[str, Grid] = {}
        for model in pipeline.models:
            grids[model.name] = frame.grid(pipeline.mpp_of(model))
            require_workable(region_l0, grids[model.name])
        return self._expected_bytes(pipeline, region_l0, grids)

    @contextmanager
    def _pyramid(self, request: wire.RegionRequest, image: Sent, visible: Visible) -> Iterator[Pyramid]:
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
            yield open_image(image, max_px=self._max_region_px)
            return
        if isinstance(image, Path):
            with self._slides.open_file(image) as slide:
                yield slide
            return
        with self._slides.open(str(request.slide), visible=visible) as slide:
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

    def _opener(
        self, request: wire.RegionRequest, upload: Upload | None, file: Path | None, visible: Visible
    ) -> OpenSource:
        if upload is not None:
            return lambda *, private=False: nullcontext(upload)  # noqa: ARG005 - an upload has nothing private
        if file is not None:
            return lambda *, private=False: self._slides.open_file(file, private=private)
        slide_id = str(request.slide)
        return lambda *, private=False: self._slides.open(slide_id, private=private, visible=visible)


def decoded_image(
    image: EncodedImage, share: Share, control: Control, decoder: Decoder, *, kept_bytes: int
) -> RegionImage | StackImage:
    """The pixels of `image`, after reserving memory for decoding in `share`; `kept_bytes` stay reserved."""
    share.reserve(max(kept_bytes, decoding_bytes(image, decoder)), control)
    if image.stack is not None:
        stack = replace(image.stack, decode_strip=decoder.strip)
        upload: RegionImage | StackImage = StackImage(stack, image.content_id)
    else:
        upload = RegionImage(decoder.pixels(image), image.content_id)
    share.shrink(kept_bytes)
    return upload


def mpp_of(pipeline: Pipeline, object_diameter_px: float) -> Mpp:
    """The size of level-0 pixels if objects of `object_diameter_px` had the usual size of those of `pipeline`.

    Raises:
        InvalidRequestError: the pipeline finds no objects, or its segmenter does not state their usual size.
    """
    usual_um = pipeline.object_diameter_um
    if usual_um is None:
        message = (
            f"The pipeline {pipeline.name!r} states no usual diameter of objects: send `mpp`, the micrometres per "
            "level-0 pixel, in place of `object_diameter_px`."
        )
        raise InvalidRequestError(message, errors=(("object_diameter_px", message),))
    return usual_um / object_diameter_px


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
