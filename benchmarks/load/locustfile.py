"""The callers, for Locust. ``python -m benchmarks.load`` runs it; by hand:

locust -f benchmarks/load/locustfile.py --headless --host URL --cases FOLDER --records FILE --run-time 20 Caller
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any

import gevent
from benchmarks.load import exchanges
from benchmarks.load.cases import CONTENT_TYPE, Case, read_cases
from benchmarks.load.exchanges import Exchange, Outcome
from gevent.pool import Pool
from locust import FastHttpUser, events, task
from locust.exception import StopUser

_PATH = "/v1/regions"
_HEADERS = {"Content-Type": CONTENT_TYPE, "Accept": "application/geo+json"}


class _Round:
    """What this run of Locust sends and what it has seen."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.exchanges: list[Exchange] = []
        self.order = random.Random(0)  # noqa: S311 - which region comes next is no secret
        self.started = 0.0

    def note(self, due: float, outcome: Outcome, detail: str = "") -> None:
        now = time.perf_counter()
        self.exchanges.append(Exchange(round(now - self.started, 4), round(now - due, 4), outcome, detail))


ROUND = _Round()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # locust is untyped, here and below
def add_arguments(parser: Any) -> None:
    parser.add_argument("--cases", required=True, help="folder of requests and their answers")
    parser.add_argument("--records", required=True, help="file for what became of each request")
    parser.add_argument("--rate", type=float, default=0.0, help="arrivals per second, of Arrivals")
    parser.add_argument("--arrivals-s", type=float, default=0.0, help="how long they arrive")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Any, **_: object) -> None:
    ROUND.cases = read_cases(Path(environment.parsed_options.cases))
    ROUND.started = time.perf_counter()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def keep(environment: Any, **_: object) -> None:
    exchanges.write(Path(environment.parsed_options.records), ROUND.exchanges)


def post(client: Any, *, due: float) -> float:
    """Send a region and judge the answer; how long the server asks to wait, in seconds."""
    case = ROUND.order.choice(ROUND.cases)
    with client.post(_PATH, data=case.body, headers=_HEADERS, catch_response=True) as answer:
        if answer.status_code == 200:
            outcome = Outcome(case.reference.judge(answer.content))
            ROUND.note(due, outcome)
            if outcome is Outcome.WRONG:
                answer.failure("another answer than the reference")
            return 0.0
        wait_s = (answer.headers or {}).get("retry-after", "")
        if answer.status_code == 429 and wait_s.isdecimal() and answer.json()["type"].endswith(":overloaded"):
            ROUND.note(due, Outcome.REJECTED)
            answer.success()
            return float(wait_s)
        detail = f"status {answer.status_code}"
        if answer.status_code == 0:
            detail = f"no answer: {type(answer.error).__name__} {answer.error}"
        ROUND.note(due, Outcome.ERROR, detail)
        answer.failure(detail)
        return 0.0


class Caller(FastHttpUser):  # type: ignore[misc]  # untyped base
    """Sends one region after the other; after a 429 it waits for `Retry-After`."""

    network_timeout = 300.0

    @task  # type: ignore[untyped-decorator]
    def analyse(self) -> None:
        gevent.sleep(post(self.client, due=time.perf_counter()))


class Arrivals(FastHttpUser):  # type: ignore[misc]  # untyped base
    """Regions that arrive at a rate, whether or not earlier ones are done; a 429 is not sent again.

    The gaps are those of independent callers (exponential), the same in every run.
    """

    fixed_count = 1
    network_timeout = 300.0
    concurrency = 4096

    @task  # type: ignore[untyped-decorator]
    def arrive(self) -> None:
        options = self.environment.parsed_options
        gaps = random.Random(1)  # noqa: S311 - no secret either
        started, pool = time.perf_counter(), Pool()
        offsets = itertools.accumulate(iter(lambda: gaps.expovariate(options.rate), None))
        for offset in itertools.takewhile(lambda offset: offset < options.arrivals_s, offsets):
            gevent.sleep(max(started + offset - time.perf_counter(), 0))
            pool.spawn(post, self.client, due=started + offset)
        pool.join()
        raise StopUser
