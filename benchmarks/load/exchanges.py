"""What became of each request, and the figures of many."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Outcome(enum.StrEnum):
    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    WRONG = "wrong"
    REJECTED = "rejected"
    """429 `overloaded` that says when to try again."""
    ERROR = "error"
    """Anything else: another status, a broken connection, a rejection that does not say when to try again."""


ANSWERED = frozenset({Outcome.IDENTICAL, Outcome.EQUIVALENT})


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came back. `ended_s` counts from the start of the round.

    `latency_s` counts from when the request was due: where requests arrive at a rate, one that could only be sent
    late has waited too.
    """

    ended_s: float
    latency_s: float
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles in seconds."""

    p50_s: float
    p95_s: float
    p99_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency | None:
        """Nearest rank: each is the latency of some request. None without any."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        p50, p95, p99 = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.95, 0.99))
        return cls(p50_s=round(p50, 4), p95_s=round(p95, 4), p99_s=round(p99, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A round. `throughput_per_s` counts right answers that ended within `seconds`."""

    users: int | None
    rate_per_s: float | None
    seconds: float
    sent: int
    answered: int
    equivalent: int
    rejected: int
    wrong: int
    errors: int
    error_details: tuple[str, ...]
    throughput_per_s: float
    latency: Latency | None
    rejection_latency: Latency | None

    @classmethod
    def of(
        cls,
        exchanges: Sequence[Exchange],
        *,
        seconds: float,
        users: int | None = None,
        rate_per_s: float | None = None,
    ) -> Figures:
        def having(*outcomes: Outcome) -> list[Exchange]:
            return [exchange for exchange in exchanges if exchange.outcome in outcomes]

        answered, rejected, errors = having(*ANSWERED), having(Outcome.REJECTED), having(Outcome.ERROR)
        in_time = sum(exchange.ended_s <= seconds for exchange in answered)
        return cls(
            users=users,
            rate_per_s=rate_per_s,
            seconds=seconds,
            sent=len(exchanges),
            answered=len(answered),
            equivalent=len(having(Outcome.EQUIVALENT)),
            rejected=len(rejected),
            wrong=len(having(Outcome.WRONG)),
            errors=len(errors),
            error_details=tuple(sorted({exchange.detail for exchange in errors})[:10]),
            throughput_per_s=round(in_time / seconds, 3),
            latency=Latency.of([exchange.latency_s for exchange in answered]),
            rejection_latency=Latency.of([exchange.latency_s for exchange in rejected]),
        )


def write(path: Path, exchanges: Sequence[Exchange]) -> None:
    """One JSON array a line."""
    lines = (json.dumps(dataclasses.astuple(exchange)) for exchange in exchanges)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read(path: Path) -> list[Exchange]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Exchange(ended, latency, Outcome(outcome), detail) for ended, latency, outcome, detail in rows]
