"""``python -m benchmarks.load.stress``: past saturation while processes are killed, and stopped often.

Two proofs, by default in under six minutes:

- 32 callers send regions, jobs run, and once in a while a process of a network and a decoder are killed. Every
  answer is right, or 429, or 503, or 422 of the upload whose decoder was killed; memory levels off.
- The service gets SIGTERM under load, time after time: a request whose connection was accepted is answered in
  full.

Exits with 1 where one does not hold. Figures go to ``stress.json`` in ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from benchmarks import record
from benchmarks.load.answers import Verdict
from benchmarks.load.cases import CONTENT_TYPE, Case, read_cases, write_cases

from slidecascade.commands.service_process import served
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions

CALLERS = 32
SIDE_PX = 512
CASES = 4
_NETWORK, _DECODER = "slidecascade.hosting.model_worker", "slidecascade.slides.decoderprocess"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """What became of the regions; `rss_mib` is that of the service and its processes, over time."""

    seconds: float
    outcomes: dict[str, int]
    networks_killed: int
    decoders_killed: int
    jobs: dict[str, int]
    rss_mib: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """422 only for uploads whose decoder was killed."""
        known = {"right", "429", "503", "422"}
        return set(self.outcomes) <= known and self.outcomes.get("422", 0) <= self.decoders_killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """What became of the regions around each SIGTERM, and how the processes ended."""

    times: int
    outcomes: dict[str, int]
    exit_codes: dict[str, int]
    longest_s: float

    @property
    def holds(self) -> bool:
        return set(self.outcomes) <= {"right", "429", "503", "refused"} and set(self.exit_codes) == {"0"}


@dataclass
class Callers:
    """Threads that send regions to `url` until `stopped`, each on a connection of its own for every request."""

    url: str
    cases: Sequence[Case]
    stopped: threading.Event = field(default_factory=threading.Event)
    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def calling(self, count: int) -> Iterator[None]:
        """`count` of them; at the end all answers have come."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _call(self, number: int) -> None:
        order = random.Random(number)  # noqa: S311 - no secret
        while not self.stopped.is_set():
            outcome, wait_s = self._send(order.choice(self.cases))
            with self.lock:
                self.outcomes[outcome] += 1
            if outcome == "refused":
                return
            self.stopped.wait(wait_s)

    def _send(self, case: Case) -> tuple[str, float]:
        """What became of one region, and how long to wait for the next."""
        headers = {"Content-Type": CONTENT_TYPE, "Accept": "application/geo+json", "Connection": "close"}
        try:
            answer = httpx.post(
                f"{self.url}/v1/regions", content=case.body, headers=headers, timeout=300, trust_env=False
            )
        except httpx.ConnectError:
            return "refused", 0.0
        except httpx.TransportError as error:
            return f"lost: {type(error).__name__}", 0.0
        if answer.status_code == httpx.codes.OK:
            return ("wrong" if case.reference.judge(answer.content) is Verdict.WRONG else "right"), 0.0
        return str(answer.status_code), float(answer.headers.get("retry-after", "0"))


def saturate(cases: Sequence[Case], folder: Path, *, seconds: float, kill_every_s: float) -> Saturation:
    """The first proof."""
    (folder / "slides").mkdir()
    write_slide(folder / "slides" / "a.tiff", TissueOptions(seed=1, mpp=0.5), 2048, 2048)
    settings = {
        "RUNNER": "bento",
        "SLIDE_ROOTS": folder / "slides",
        "JOBS_DIR": folder / "jobs",
        "JOBS_MIN_FREE_BYTES": 0,
    }
    killed, rss = Counter[str](), list[int]()
    with served({f"SLIDECASCADE_{name}": str(value) for name, value in settings.items()}) as (url, process):
        callers = Callers(url, cases)
        with callers.calling(CALLERS), httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            ends_at, kill_at = time.monotonic() + seconds, time.monotonic() + kill_every_s
            while time.monotonic() < ends_at:
                client.post("/v1/jobs", json={"pipeline": "nash", "slide": "a.tiff"})
                if time.monotonic() >= kill_at:
                    kill_at += kill_every_s
                    killed.update(name for name in (_NETWORK, _DECODER) if _kill_one(process.pid, name))
                rss.append(sum(map(_rss_mib, _tree(process.pid))))
                time.sleep(min(5.0, max(0.0, ends_at - time.monotonic())))
            listed = client.get("/v1/jobs").json()["jobs"]
    return Saturation(
        seconds=seconds,
        outcomes=dict(callers.outcomes),
        networks_killed=killed[_NETWORK],
        decoders_killed=killed[_DECODER],
        jobs=dict(Counter(str(job["status"]) for job in listed)),
        rss_mib=tuple(rss),
    )


def stop_often(cases: Sequence[Case], *, times: int) -> Stops:
    """The second proof."""
    outcomes, codes, longest_s = Counter[str](), Counter[str](), 0.0
    for _ in range(times):
        with served({}) as (url, process):
            callers = Callers(url, cases)
            with callers.calling(8):
                ends_at = time.monotonic() + 120
                while callers.outcomes.total() < 8 and time.monotonic() < ends_at:
                    time.sleep(0.05)
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)
                codes[str(process.wait(120))] += 1
                longest_s = max(longest_s, time.monotonic() - started)
            outcomes += callers.outcomes
    return Stops(times=times, outcomes=dict(outcomes), exit_codes=dict(codes), longest_s=round(longest_s, 2))


def _kill_one(pid: int, name: str) -> bool:
    """Kill one of the processes of the service that run `name`."""
    for child in _tree(pid):
        with suppress(OSError):
            if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
                return True
    return False


def _tree(pid: int) -> list[int]:
    """A process and those it has started."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has ended meanwhile
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _rss_mib(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    return 0


def main() -> int:
    """Run both and write the figures; the exit code."""
    parser = argparse.ArgumentParser(description="The service past saturation, and stopped often.")
    parser.add_argument("--seconds", type=float, default=120.0, help="past saturation (default: 120)")
    parser.add_argument("--kill-every", type=float, default=60.0, metavar="S", help="default: 60")
    parser.add_argument("--stops", type=int, default=20, help="default: 20")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args()
    provenance = record.Provenance.here()
    with tempfile.TemporaryDirectory(prefix="slidecascade-") as name:
        folder = Path(name)
        write_cases(folder, pipeline="nash", count=CASES, side_px=SIDE_PX)
        cases = read_cases(folder)
        saturation = saturate(cases, folder, seconds=options.seconds, kill_every_s=options.kill_every)
        stops = stop_often(cases, times=options.stops)
    figures = {"saturation": dataclasses.asdict(saturation), "stops": dataclasses.asdict(stops)}
    record.write(options.out / "stress.json", figures, provenance)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0 if saturation.holds and stops.holds else 1


if __name__ == "__main__":
    sys.exit(main())
