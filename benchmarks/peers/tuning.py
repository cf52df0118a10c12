"""Which of a contender's settings are its best, on regions that are measured nowhere else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.peers.agreement import Agreement, agreement
from benchmarks.peers.cases import Case
from benchmarks.peers.contenders import Candidate, Contender, Place
from benchmarks.peers.figures import Trial
from benchmarks.peers.process import PeerFailedError
from benchmarks.peers.rounds import closed

from slidecascade.errors import SlideCascadeError

TOLERATED = 0.01
"""Cells that may differ from the expected ones, as a part of all; beyond, a contender takes no part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is tried: the first `candidates` of each contender, `rounds` rounds of `regions` by `callers`."""

    candidates: int
    rounds: int
    regions: int
    callers: int


def tune(
    contender: Contender, make_place: Callable[[str], Place], cases: Sequence[Case], effort: Effort
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Start each candidate by itself and measure it; the one with most regions per second, and all trials.

    A contender without a choice is not tried. `make_place` gives a folder of the name it is given.

    Raises:
        PeerFailedError: no candidate started and gave the expected cells.
    """
    tried = contender.candidates[: effort.candidates]
    if len(tried) == 1:
        return tried[0], ()
    trials = [
        _trial(candidate, make_place(f"{contender.name}-{number}"), cases, effort)
        for number, candidate in enumerate(tried)
    ]
    best = max(range(len(tried)), key=lambda number: trials[number].regions_per_s)
    if not trials[best].regions_per_s:
        raise PeerFailedError(f"{contender.title} failed with all of its settings: {trials[0].failure}")
    return tried[best], tuple(trials)


def tolerable(found: Agreement) -> bool:
    """Whether nearly all cells are the expected ones."""
    return found.missing + found.added + found.other_class <= TOLERATED * found.cells


def _trial(candidate: Candidate, place: Place, cases: Sequence[Case], effort: Effort) -> Trial:
    try:
        with candidate.start(place) as started:
            if not tolerable(agreement(cases[0].answer, started.ask(cases[0]))):
                return Trial(knobs=str(candidate.knobs), failure="other cells than expected")
            closed(started, cases, callers=2, regions=2)  # warm-up
            rounds = [
                closed(started, cases, callers=effort.callers, regions=effort.regions)
                for _ in range(effort.rounds)
            ]
    except (PeerFailedError, SlideCascadeError, ValueError) as error:
        return Trial(knobs=str(candidate.knobs), failure=str(error).strip().splitlines()[-1][:200])
    median = statistics.median(each.regions_per_s for each in rounds)
    return Trial(knobs=str(candidate.knobs), regions_per_s=round(median, 3))
