"""Facts that are computed once per slide and apply to all its regions.

The sample is taken from the whole slide at fixed places of level 0, never from the region asked for: a region of a
bright-field slide that shows a black fold is bright field all the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import UnreadableSlideError, UnusableStainError
from slidecascade.geometry import Box, Size
from slidecascade.slides import tissue
from slidecascade.slides.channels import RGB, ChannelUse, Intensity, Samples, measure
from slidecascade.slides.doubts import is_unlike_he, looks_swapped
from slidecascade.slides.source import OpenSource, Source
from slidecascade.slides.stain import StainFit, fit_stain
from slidecascade.wire.fields import StainMethod

SAMPLES: Final = 5
DENSE_SAMPLES: Final = 12
SAMPLE_PX: Final = 64
"""The sample: 5 x 5 squares of this side, 12 x 12 of a stack of channels and
to fit a stain, spread evenly over level 0."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFacts:
    """What holds for a slide as a whole.

    Attributes:
        content_id: identifies the bytes of the slide, see `slidecascade.slides.content`.
        bounds_l0: the part of level 0 the scanner filled, where the file states one.
        dark_field: whether it is light on black, where nothing is glass.
        glass_min, glass_spread: the glass test that tells tissue, see `slidecascade.slides.tissue`.
        unread_squares: squares of the sample that could not be read.
        intensities: of the slide's channels, in their order.
        stain: the fit by which a request normalises colours; None: they stay as they are.
        channels: those that a request uses by their meaning; empty: the colours as they are.
        unlike_he: whether its colours are not those of H&E.
        red_blue_swapped: whether red and blue look exchanged, see `slidecascade.slides.doubts`.
    """

    content_id: str
    bounds_l0: Box | None
    dark_field: bool
    glass_min: int = tissue.GLASS_MIN
    glass_spread: int = tissue.GLASS_SPREAD
    unread_squares: int = 0
    red_blue_swapped: bool = False
    unlike_he: bool = False
    intensities: tuple[Intensity, ...] = ()
    channels: tuple[ChannelUse, ...] = ()
    stain: StainFit | None = None


def compute_facts(open_source: OpenSource) -> SlideFacts:
    """The facts of a slide.

    Squares of the sample that cannot be read are left out; the tiles that hold them account for them. If none can,
    the sample is one black pixel, and no tile will be readable either.

    Raises:
        UnreadableSlideError: the slide cannot be opened.
    """
    with open_source() as source:
        content_id, bounds, boxes = source.content_id, source.bounds_l0, sample_boxes(source.size_l0)
        names = source.channels
    if names != RGB:
        return _stack_facts(
            open_source, names, SlideFacts(content_id=content_id, bounds_l0=bounds, dark_field=True)
        )

    def read(source: Source, box: Box) -> NDArray[np.uint8]:
        return source.read_level(0, box)

    squares = [np.ascontiguousarray(pixels).reshape(-1, 1, 3) for _, pixels in readable(open_source, boxes, read)]
    sample = np.concatenate([*squares, np.zeros((1, 1, 3), np.uint8)])
    dark_field = tissue.is_dark_field(sample)
    return SlideFacts(
        content_id=content_id,
        bounds_l0=bounds,
        dark_field=dark_field,
        unlike_he=not dark_field and is_unlike_he(sample),
        red_blue_swapped=not dark_field and looks_swapped(sample),
        unread_squares=len(boxes) - len(squares),
        intensities=measure(RGB, squares),
    )


def with_stain(facts: SlideFacts, open_source: OpenSource, method: StainMethod) -> SlideFacts:
    """`facts` and the fit by which `method` normalises the colours of the slide.

    Raises:
        UnusableStainError: the slide is no stained bright-field slide, or has too little tissue.
        UnreadableSlideError: the slide cannot be opened.
    """
    if facts.dark_field:
        raise UnusableStainError(
            "Stain normalisation is for stained bright-field slides, but this one is light on black: send `stain` "
            "with the method none."
        )
    with open_source() as source:
        boxes = sample_boxes(source.size_l0, count=DENSE_SAMPLES)

    def read(source: Source, box: Box) -> NDArray[np.uint8]:
        return source.read_level(0, box)

    squares = [np.ascontiguousarray(pixels).reshape(-1, 3) for _, pixels in readable(open_source, boxes, read)]
    unread = facts.unread_squares + len(boxes) - len(squares)
    sample = np.concatenate([*squares, np.zeros((0, 3), np.uint8)])
    return replace(facts, unread_squares=unread, stain=fit_stain(method, sample))


def _stack_facts(open_source: OpenSource, names: tuple[str, ...], known: SlideFacts) -> SlideFacts:
    """The facts of a stack of channels, light on black; its sample is denser, because cells may be few."""
    with open_source() as source:
        boxes = sample_boxes(source.size_l0, count=DENSE_SAMPLES)

    def read(source: Source, box: Box) -> Samples:
        return source.read_channels(0, box, range(len(names)))

    squares = [counts for _, counts in readable(open_source, boxes, read)]
    return replace(known, unread_squares=len(boxes) - len(squares), intensities=measure(names, squares))


def sample_boxes(size_l0: Size, *, count: int = SAMPLES) -> list[Box]:
    """The squares of the sample, in level-0 pixels; of a small image they overlap."""
    width, height = min(SAMPLE_PX, size_l0.width), min(SAMPLE_PX, size_l0.height)
    return [
        Box(int(x), int(y), width, height)
        for y in np.linspace(0, size_l0.height - height, count)
        for x in np.linspace(0, size_l0.width - width, count)
    ]


def readable(
    open_source: OpenSource, boxes: list[Box], read: Callable[[Source, Box], T]
) -> Iterator[tuple[Box, T]]:
    """What `read` gives for those boxes that can be read; the others are left out.

    After a failed read OpenSlide fails every later read of a handle, so the handles are private ones.
    """
    left = list(boxes)
    while left:
        with suppress(UnreadableSlideError), open_source(private=True) as source:
            while left:
                # Taken off the list first: a box that breaks the handle is not tried again on the next one.
                box = left.pop()
                yield box, read(source, box)


class FactsCache:
    """The facts of recently used slides, by content id; shared by threads.

    Facts of a slide are computed by one thread while others that ask for them wait. Those of a slide whose sample
    could not be read as a whole are not kept: what was unreadable may be readable later.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[str, SlideFacts] = OrderedDict()
        self._computing: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def of(self, content_id: str, compute: Callable[[], SlideFacts]) -> SlideFacts:
        """The facts kept for `content_id`, or else what `compute` returns; raises what that raises."""
        if (known := self._known(content_id)) is not None:
            return known
        with self._lock:
            computing = self._computing.setdefault(content_id, threading.Lock())
        with computing:
            try:
                if (known := self._known(content_id)) is not None:
                    return known
                facts = compute()
                if not facts.unread_squares:
                    self._keep(content_id, facts)
                return facts
            finally:
                with self._lock:
                    self._computing.pop(content_id, None)

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def _known(self, content_id: str) -> SlideFacts | None:
        with self._lock:
            facts = self._kept.get(content_id)
            if facts is not None:
                self._kept.move_to_end(content_id)
            return facts

    def _keep(self, content_id: str, facts: SlideFacts) -> None:
        with self._lock:
            self._kept[content_id] = facts
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
