"""Closed loops: callers who each send a region, wait for the answer and send the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.peers.cases import Case
from benchmarks.peers.process import PeerFailedError

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """`regions` regions by `callers` callers; `again` is how often one had to be asked again."""

    callers: int
    seconds: float
    latencies_s: tuple[float, ...]
    again: int
    answers: tuple[tuple[int, bytes], ...]

    @property
    def regions_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds


def closed(ask: Callable[[Case], bytes], cases: Sequence[Case], *, callers: int, regions: int) -> Round:
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
            answer, attempts = _insist(ask, case)
            with lock:
                latencies.append(time.perf_counter() - began)
                answers.append((case.number, answer))
                again += attempts - 1

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(call) for _ in range(callers)]:
            future.result()
    return Round(
        callers=callers,
        seconds=time.perf_counter() - started,
        latencies_s=tuple(latencies),
        again=again,
        answers=tuple(answers),
    )


def _insist(ask: Callable[[Case], bytes], case: Case) -> tuple[bytes, int]:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return ask(case), attempt
        except (PeerFailedError, OSError) as error:
            if attempt == _ATTEMPTS:
                raise PeerFailedError(f"A region failed {_ATTEMPTS} times: {error}") from error
    raise AssertionError
