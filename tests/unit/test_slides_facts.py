"""What is computed once per slide."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
from numpy.typing import NDArray

from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides.facts import FactsCache, SlideFacts, compute_facts, sample_boxes
from slidecascade.slides.source import Rgb, Source
from slidecascade.slides.upload import RegionImage


def opener(source: Source) -> object:
    def open_source(*, private: bool = False) -> AbstractContextManager[Source]:  # noqa: ARG001 - of `OpenSource`
        return nullcontext(source)

    return open_source


def made(content_id: str, unread: int = 0) -> SlideFacts:
    return SlideFacts(content_id=content_id, bounds_l0=None, dark_field=False, unread_squares=unread)


def image(brightness: int) -> NDArray[np.uint8]:
    return np.full((600, 900, 3), brightness, np.uint8)


class Damaged(RegionImage):
    """An image that cannot be read where `broken` is."""

    broken = Box(0, 0, 0, 0)

    def read_level(self, level: int, box: Box) -> Rgb:
        if box.clipped(self.broken).area:
            raise UnreadableSlideError("The slide cannot be read here.")
        return super().read_level(level, box)


@pytest.mark.parametrize(("brightness", "dark"), [(240, False), (10, True)])
def test_facts_detect_dark_field_and_record_their_sample(brightness: int, dark: bool) -> None:
    """Field, glass test and content id, for any reader of the answer."""
    source = RegionImage(image(brightness))
    facts = compute_facts(opener(source))  # type: ignore[arg-type]

    assert (facts.dark_field, facts.content_id) == (dark, source.content_id)
    assert (facts.glass_min, facts.glass_spread, facts.unread_squares) == (210, 20, 0)


def test_squares_that_cannot_be_read_are_left_out() -> None:
    """A damaged half of a dark image leaves it dark; where nothing can be read that is counted."""
    source = Damaged(image(10))
    source.__class__.broken = Box(0, 0, 900, 300)
    facts = compute_facts(opener(source))  # type: ignore[arg-type]
    assert facts.dark_field
    assert 0 < facts.unread_squares < 25

    source.__class__.broken = Box(0, 0, 900, 600)
    assert compute_facts(opener(source)).unread_squares == 25  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [Size(1, 1), Size(30, 700), Size(100_000, 80_000)])
def test_the_sample_lies_in_the_slide_and_covers_it(size: Size) -> None:
    """Corners and middle, at places that depend on the slide's size alone."""
    boxes = sample_boxes(size)
    assert len(boxes) == 25
    assert all(Box(0, 0, size.width, size.height).encloses(box) and box.area for box in boxes)
    assert max(box.right for box in boxes) == size.width
    assert max(box.bottom for box in boxes) == size.height


def test_facts_are_computed_once_for_all_threads() -> None:
    """Eight threads that ask at the same time wait for one of them."""
    cache, calls = FactsCache(4), []
    at_once = threading.Barrier(8)
    may_end = threading.Event()

    def compute() -> SlideFacts:
        calls.append(1)
        assert may_end.wait(10)
        return made("a")

    def ask() -> SlideFacts:
        at_once.wait(10)
        return cache.of("a", compute)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        may_end.set()
        found = {id(future.result()) for future in asked}
    assert len(calls) == len(found) == 1


def test_the_cache_is_bounded_and_keeps_what_was_asked_for_last() -> None:
    """Of three slides in a cache for two the one not asked for longest is computed anew."""
    cache, calls = FactsCache(2), []

    def facts(name: str) -> None:
        def compute() -> SlideFacts:
            calls.append(name)
            return made(name)

        cache.of(name, compute)

    for name in ("a", "b", "a", "c", "a", "b"):
        facts(name)
    assert calls == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_facts_of_a_slide_that_could_not_be_read_are_not_kept() -> None:
    """The file share may be back for the next region; an error leaves no partial state."""
    cache = FactsCache(2)
    assert cache.of("a", lambda: made("a", unread=3)).unread_squares == 3
    assert cache.of("a", lambda: made("a")).unread_squares == 0

    def fail() -> SlideFacts:
        raise UnreadableSlideError("gone")

    with pytest.raises(UnreadableSlideError):
        cache.of("b", fail)
    assert cache.of("b", lambda: made("b")).content_id == "b"
