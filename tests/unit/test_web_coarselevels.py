"""Passes over whole slides, of which no more wait than somebody may still want."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from slidecascade.access.caller import ANYONE, Caller
from slidecascade.errors import UnreadableSlideError
from slidecascade.web.coarselevels import MOST_WAITING, CoarseLevels, Look
from slidecascade.web.pool import Pool


class Passes:
    """Notes what levels are made of; the first pass waits until it is released."""

    def __init__(self) -> None:
        self.made: list[Look] = []
        self.released = threading.Event()

    def make(self, look: Look) -> None:
        self.made.append(look)
        assert self.released.wait(60)
        if look.slide_id == "damaged":
            raise UnreadableSlideError("The slide is damaged.")


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
async def levels(passes: Passes) -> AsyncIterator[CoarseLevels]:
    pool = Pool(2, name="picture")
    yield CoarseLevels(passes.make, pool)
    passes.released.set()
    pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in a thread
            await asyncio.sleep(0.005)


def look(number: int, *, slide: str = "a.tif", caller: Caller = ANYONE) -> Look:
    return Look(caller, slide, f"0:ffffff:0:{number}")


async def test_only_the_last_look_of_a_slide_waits(levels: CoarseLevels, passes: Passes) -> None:
    """Ten looks take two passes, of the first, which had begun, and of the last; other callers have theirs."""
    for number in range(10):
        levels.begin(look(number))
        await until(lambda: passes.made != [])
    other = Caller("other", frozenset())
    levels.begin(look(3, caller=other))
    passes.released.set()
    await until(lambda: len(passes.made) == 3)
    levels.begin(look(10))
    await until(lambda: len(passes.made) == 4)
    assert passes.made == [look(0), look(9), look(3, caller=other), look(10)]


async def test_the_look_that_is_made_replaces_one_that_waits(levels: CoarseLevels, passes: Passes) -> None:
    """Who returns to the colours before wants no others; a damaged slide keeps no other one waiting."""
    levels.begin(look(0, slide="damaged"))
    await until(lambda: passes.made != [])
    for number in (1, 0):
        levels.begin(look(number, slide="damaged"))
    levels.begin(look(2))
    passes.released.set()
    await until(lambda: len(passes.made) == 2)
    assert passes.made == [look(0, slide="damaged"), look(2)]


async def test_passes_that_wait_are_limited(levels: CoarseLevels, passes: Passes) -> None:
    """Beyond them a slide is begun when it is asked for again."""
    levels.begin(look(0))
    await until(lambda: passes.made != [])
    for number in range(2 * MOST_WAITING):
        levels.begin(look(0, slide=f"{number}.tif"))
    passes.released.set()
    await until(lambda: len(passes.made) == 1 + MOST_WAITING)
    late = look(0, slide=f"{2 * MOST_WAITING - 1}.tif")
    levels.begin(late)
    await until(lambda: len(passes.made) == 2 + MOST_WAITING)
    assert passes.made[-1] == late
