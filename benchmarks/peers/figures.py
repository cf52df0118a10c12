"""From rounds to figures: throughput, latency, and both as ratios taken round by round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.agreement import Agreement
from benchmarks.peers.rounds import Round


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float], digits: int = 3) -> Spread:
        parts = (statistics.median(values), min(values), max(values))
        return cls(*(round(part, digits) for part in parts))


def percentile(values: Sequence[float], part: float) -> float:
    """Nearest rank: the value of some request, at least as large as `part` of all."""
    return sorted(values)[math.ceil(part * len(values)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a contender did under `callers` callers.

    Attributes:
        p50_s, p95_s: over the regions of all rounds.
        throughput_ratio: the service's regions per second over the contender's, round by round.
        latency_ratio: the contender's p95 over the service's, round by round.
        cpu_s: processor seconds per region, the callers' own included.
        cpu_ratio: the contender's over the service's, round by round.
        again: how many times a region failed and was sent again.
    """

    callers: int
    rounds: int
    regions: int
    regions_per_s: Spread
    p50_s: float
    p95_s: float
    throughput_ratio: Spread
    latency_ratio: Spread
    cpu_s: Spread
    cpu_ratio: Spread
    again: int

    @classmethod
    def of(cls, rounds: Sequence[Round], ours: Sequence[Round]) -> Load:
        """Figures of `rounds`, each compared with the service's round next to it."""
        latencies = [seconds for each in rounds for seconds in each.latencies_s]
        pairs = list(zip(rounds, ours, strict=False))  # some contenders have fewer rounds
        return cls(
            callers=rounds[0].callers,
            rounds=len(rounds),
            regions=len(latencies),
            regions_per_s=Spread.of([each.regions_per_s for each in rounds]),
            p50_s=round(percentile(latencies, 0.5), 3),
            p95_s=round(percentile(latencies, 0.95), 3),
            throughput_ratio=Spread.of([mine.regions_per_s / each.regions_per_s for each, mine in pairs]),
            latency_ratio=Spread.of([_p95(each) / _p95(mine) for each, mine in pairs]),
            cpu_s=Spread.of([_cpu_s(each) for each in rounds]),
            cpu_ratio=Spread.of([_cpu_s(each) / _cpu_s(mine) for each, mine in pairs]),
            again=sum(each.again for each in rounds),
        )


def _p95(one: Round) -> float:
    return percentile(one.latencies_s, 0.95)


def _cpu_s(one: Round) -> float:
    return one.cpu_s / len(one.latencies_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Settings that were tried before measuring; with a `failure` in place of regions per second, or 0."""

    knobs: str
    regions_per_s: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A contender and what was found. `absent` says why there are no figures, where there are none.

    `knobs` are the settings that were chosen of `trials`, or the only ones.
    """

    name: str
    title: str
    setup: str
    target: float | None
    knobs: str = ""
    trials: tuple[Trial, ...] = ()
    agreement: Agreement | None = None
    loads: tuple[Load, ...] = ()
    absent: str = ""

    def met(self) -> bool | None:
        """Whether the service is `target` times better under the most callers, in throughput and in latency."""
        if self.target is None or not self.loads:
            return None
        load = max(self.loads, key=lambda each: each.callers)
        return min(load.throughput_ratio.median, load.latency_ratio.median) >= self.target
