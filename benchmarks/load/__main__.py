"""``python -m benchmarks.load``: callers of every number and rate against a served process.

Every answer is compared with the answer the same region gets from an analysis by itself. Exits with 1 when
an answer was wrong or a request failed in any way but a 429 with `Retry-After`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks import record
from benchmarks.load.cases import write_cases
from benchmarks.load.exchanges import Figures
from benchmarks.load.memory import Sample, growth_mib_per_hour, watched
from benchmarks.load.plots import plot_closed, plot_memory, plot_open
from benchmarks.load.rounds import Caller
from benchmarks.machine import Machine
from benchmarks.page import write_page

from slidecascade.cli import CALLERS_FAULT, FAILED, WRONG_CALL
from slidecascade.commands.arguments import whole_number
from slidecascade.commands.service_process import served
from slidecascade.errors import SlideCascadeError
from slidecascade.settings import read_settings
from slidecascade.staging import writing_to

SOAK_USERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """A long round. `growth_mib_per_hour` is the slope over its second half."""

    figures: Figures
    memory: tuple[Sample, ...]
    peak_mib: float
    growth_mib_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was measured, on what. `load_before` is how busy the machine was with other work."""

    machine: Machine
    versions: dict[str, str]
    load_before: float
    pipeline: str
    side_px: int
    cells: tuple[int, ...]
    places: int
    closed: tuple[Figures, ...]
    open: tuple[Figures, ...]
    soak: Soak | None

    @property
    def faults(self) -> int:
        """Wrong answers, and errors that were not rejections."""
        rounds = [*self.closed, *self.open, *([self.soak.figures] if self.soak else [])]
        return sum(figures.wrong + figures.errors for figures in rounds)


def main() -> int:
    arguments = _parser().parse_args()
    missing = [name for name in ("locust", "matplotlib") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"{' and '.join(missing)} must be installed first: make bench-load does it.\n")
        return WRONG_CALL
    try:
        with writing_to(arguments.out):  # reported before the minutes it takes, not after
            arguments.out.mkdir(parents=True, exist_ok=True)
        provenance = record.Provenance.here()
        report = measure(arguments)
    except KeyboardInterrupt:
        return FAILED
    except SlideCascadeError as error:
        sys.stderr.write(f"benchmarks.load: {error.detail}\n")
        return WRONG_CALL if isinstance(error, CALLERS_FAULT) else FAILED
    _write(report, arguments.out, provenance)
    print(table(report))
    return 1 if report.faults else 0


def _write(report: LoadReport, folder: Path, provenance: record.Provenance) -> None:
    """The rounds and the soak in files of their own, so that each can be taken anew without the other."""
    document = dataclasses.asdict(report)
    rounds = {name: document.pop(name) for name in ("closed", "open")}
    soak = document.pop("soak")
    if report.closed or report.open:
        record.write(folder / "load.json", document | rounds, provenance)
    if report.closed:
        plot_closed(report.closed, folder / "load-closed.png")
    if report.open:
        plot_open(report.open, folder / "load-open.png")
    if report.soak:
        record.write(folder / "load-soak.json", document | {"soak": soak}, provenance)
        plot_memory(report.soak.memory, folder / "load-soak.png")
    if folder == record.RESULTS:
        write_page()


def measure(arguments: argparse.Namespace) -> LoadReport:
    """All rounds against one process, which is warm from the first on."""
    machine = Machine.here()
    with tempfile.TemporaryDirectory(prefix="slidecascade-load-") as name:
        folder = Path(name)
        cases = folder / "cases"
        cases.mkdir()
        cells = write_cases(cases, pipeline=arguments.pipeline, count=arguments.cases, side_px=arguments.side)
        with served({}) as (url, _):
            caller = Caller(url, cases, folder)
            caller.closed(users=1, seconds=min(arguments.seconds, 5))  # warm-up
            closed = tuple(caller.closed(users=users, seconds=arguments.seconds) for users in arguments.users)
            best = max([1 / arguments.seconds, *(figures.throughput_per_s for figures in closed)])
            rates = tuple(round(share * best, 3) for share in arguments.rates)
            opened = tuple(caller.open(rate_per_s=rate, seconds=arguments.seconds) for rate in rates)
            soak = _soak(caller, minutes=arguments.soak_minutes) if arguments.soak_minutes else None
    return LoadReport(
        machine=machine,
        versions={name: version(name) for name in ("slidecascade", "bentoml", "onnxruntime", "locust")},
        load_before=machine.load_before,
        pipeline=arguments.pipeline,
        side_px=arguments.side,
        cells=tuple(cells),
        places=read_settings().max_regions_in_flight,
        closed=closed,
        open=opened,
        soak=soak,
    )


def _soak(caller: Caller, *, minutes: float) -> Soak:
    with watched(caller.url, every_s=max(minutes / 10, 0.2)) as samples:
        figures = caller.closed(users=SOAK_USERS, seconds=minutes * 60)
    return Soak(
        figures=figures,
        memory=tuple(samples),
        peak_mib=max(sample.resident_mib for sample in samples),
        growth_mib_per_hour=growth_mib_per_hour(samples),
    )


def table(report: LoadReport) -> str:
    """The report as Markdown."""
    lines = [
        f"{report.pipeline}, {len(report.cells)} regions of {report.side_px} x {report.side_px} px,",
        f"{min(report.cells)} to {max(report.cells)} cells; {report.places} slots,",
        f"{report.machine.cores} cores, load {report.load_before} before.",
        "",
        "| load | regions/s | p50 | p95 | p99 | answered | rejected | errors | wrong |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(f"{figures.users} callers", figures) for figures in report.closed),
        *(_row(f"{figures.rate_per_s}/s arriving", figures) for figures in report.open),
    ]
    if report.soak:
        soak = report.soak
        lines += [
            _row(f"{soak.figures.seconds / 60:g} min of {SOAK_USERS} callers", soak.figures),
            "",
            f"Memory over the soak: at most {soak.peak_mib:.0f} MiB,",
            f"{soak.growth_mib_per_hour:+.0f} MiB an hour over its second half.",
        ]
    return "\n".join(lines)


def _row(name: str, figures: Figures) -> str:
    latency = figures.latency
    seconds = (latency.p50_s, latency.p95_s, latency.p99_s) if latency else ()
    cells = [f"{value:.2f} s" for value in seconds] or ["-"] * 3
    counts = (figures.answered, figures.rejected, figures.errors, figures.wrong)
    return " | ".join(["| " + name, f"{figures.throughput_per_s:.2f}", *cells, *map(str, counts)]) + " |"


def _callers(text: str) -> tuple[int, ...]:
    return tuple(map(whole_number(1), filter(None, text.split(","))))


def _shares(text: str) -> tuple[float, ...]:
    return tuple(map(_positive, filter(None, text.split(","))))


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description="Callers of every number and rate against a served process."
    )
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for the figures and plots")
    parser.add_argument("--pipeline", default="nash", help="default: nash")
    parser.add_argument(
        "--side", type=whole_number(64), default=512, help="side of the regions in pixels at 0.5 um/px"
    )
    parser.add_argument(
        "--cases", type=whole_number(1), default=8, help="how many different regions; one is bare glass"
    )
    parser.add_argument(
        "--users", type=_callers, default=(1, 2, 4, 8, 16, 32), help="callers of each closed round: 1,2,4"
    )
    parser.add_argument(
        "--rates",
        type=_shares,
        default=(0.5, 0.9, 1.2, 2.0),
        help="arrivals of each open round: 0.5,2 times the best throughput",
    )
    parser.add_argument("--seconds", type=_positive, default=20.0, help="length of a round")
    parser.add_argument(
        "--soak-minutes", type=_positive, help="after them, so long of four callers; only that: --users= --rates="
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
