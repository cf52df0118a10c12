"""Closed loops: callers who each send a region, wait for the answer and send the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.peers.cases import Case
from benchmarks.peers.process import PeerFailedError, Process

Ask = Callable[[Case], bytes]
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A contender that answers regions. `process` is the first of its own processes, if it has any."""

    ask: Ask
    process: Process | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """`regions` regions by `callers` callers.

    `cpu_s` is processor time, the callers' own included: it says the same on a machine that others use. `again` is
    how often a region had to be sent again.
    """

    callers: int
    seconds: float
    cpu_s: float
    latencies_s: tuple[float, ...]
    again: int
    answers: tuple[tuple[int, bytes], ...]

    @property
    def regions_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds


def closed(started: Started, cases: Sequence[Case], *, callers: int, regions: int) -> Round:
    """Send `regions` regions, the cases in turn. A latency counts all attempts.

    Raises:
        PeerFailedError: when a region failed three times.
    """
    left = iter(range(regions))
    lock = threading.Lock()
    latencies: list[float] = []
    answers: list[tuple[int, bytes]] = []
    again = 0

    def call() -> None:
        nonlocal again
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            case = cases[number % len(cases)]
            began = time.perf_counter()
            answer, attempts = _insist(started.ask, case)
            with lock:
                latencies.append(time.perf_counter() - began)
                answers.append((case.number, answer))
                again += attempts - 1

    cpu_s, since = _cpu_s(started), time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(call) for _ in range(callers)]:
            future.result()
    return Round(
        callers=callers,
        seconds=time.perf_counter() - since,
        cpu_s=_cpu_s(started) - cpu_s,
        latencies_s=tuple(latencies),
        again=again,
        answers=tuple(answers),
    )


def _cpu_s(started: Started) -> float:
    return time.process_time() + (started.process.cpu_s() if started.process else 0.0)


def _insist(ask: Ask, case: Case) -> tuple[bytes, int]:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return ask(case), attempt
        except (PeerFailedError, OSError) as error:
            if attempt == _ATTEMPTS:
                raise PeerFailedError(f"A region failed {_ATTEMPTS} times: {error}") from error
    raise AssertionError
