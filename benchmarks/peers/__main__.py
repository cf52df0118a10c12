"""``python -m benchmarks.peers``: the same regions by the service and by other ways to serve the same networks.

First each contender is started by itself with every choice of its settings, on regions that are measured nowhere
else; the fastest is taken. Then all servers run throughout. The one that is measured runs, the others are held
still; each round goes through all of them, every other round in reverse. Exits with 1 when a contender that takes
part gave wrong cells."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.page import write_page
from benchmarks.peers.agreement import NOTHING, Agreement, agreement
from benchmarks.peers.cases import HELD_OUT_SEED, Case, make_cases
from benchmarks.peers.composition import MPP, PIPELINE, Composition
from benchmarks.peers.contenders import Candidate, Contender, Place, contenders
from benchmarks.peers.figures import Load, Standing, Trial
from benchmarks.peers.plots import plot
from benchmarks.peers.process import ROOT, PeerFailedError, hold, release
from benchmarks.peers.rounds import Round, Started, closed
from benchmarks.peers.table import page, table
from benchmarks.peers.tuning import Effort, tolerable, tune
from pydantic import TypeAdapter

from slidecascade.commands.arguments import whole_number
from slidecascade.errors import SlideCascadeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. `loads` are callers and the regions that they send in a round.

    Contenders that take long get one round of at most `slow_regions`.
    """

    side_px: int
    cases: int
    rounds: int
    slow_regions: int
    loads: tuple[tuple[int, int], ...]
    effort: Effort


@dataclass(slots=True)
class Entrant:
    """A contender in the course of the benchmark."""

    contender: Contender
    knobs: str = ""
    trials: tuple[Trial, ...] = ()
    started: Started | None = None
    agreement: Agreement | None = None
    absent: str = ""
    rounds: dict[int, list[Round]] = field(default_factory=dict)


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.page:
        _write_pages(arguments.out, arguments.name)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    chosen = [each for each in contenders() if each.name not in arguments.without]
    loads = ((1, 2), (arguments.callers, 8)) if arguments.quick else ((1, 4), (arguments.callers, 16))
    plan = Plan(
        side_px=arguments.side,
        cases=2 if arguments.quick else 4,
        rounds=arguments.rounds or (1 if arguments.quick else 3),
        slow_regions=2 if arguments.quick else 8,
        loads=loads,
        effort=Effort(candidates=2, rounds=1, regions=2, callers=arguments.callers)
        if arguments.quick
        else Effort(candidates=99, rounds=2, regions=12, callers=arguments.callers),
    )
    began, provenance = time.perf_counter(), record.Provenance.here()
    composition = Composition.load()
    cases = make_cases(composition, count=plan.cases, side_px=plan.side_px)
    held_out = make_cases(composition, count=plan.cases, side_px=plan.side_px, first_seed=HELD_OUT_SEED)
    with tempfile.TemporaryDirectory(prefix="slidecascade-peers-") as name, contextlib.ExitStack() as stack:
        entrants = [Entrant(each) for each in chosen]
        candidates = [_choose(each, held_out, Path(name), composition, plan.effort) for each in entrants]
        for entrant, candidate in zip(entrants, candidates, strict=True):
            if candidate:
                _enter(entrant, candidate, cases, Path(name), composition, stack)
        _measure([entrant for entrant in entrants if entrant.started], cases, plan)
    standings = _standings(entrants, cases)
    document = _document(standings, cases, plan, composition, provenance) | {
        "seconds": round(time.perf_counter() - began)
    }
    record.write(arguments.out / f"{arguments.name}.json", document, provenance)
    _write_pages(arguments.out, arguments.name)
    print("\n\n".join(table(standings, callers) for callers, _ in reversed(plan.loads)))
    wrong = [each.title for each in standings if each.agreement and not tolerable(each.agreement)]
    return 1 if wrong else 0


def _write_pages(folder: Path, name: str) -> None:
    """Tables and plot of the figures in `folder`, and the page of all results when they lie there."""
    document = record.read(folder / f"{name}.json")
    if document is None:
        raise SystemExit(f"There are no figures {folder / name}.json: measure first.")
    standings = TypeAdapter(tuple[Standing, ...]).validate_python(document["contenders"])
    most = max(callers for callers, _ in document["plan"]["loads"])
    plot(standings, folder / f"{name}.png", callers=most)
    (folder / f"{name}.md").write_text(page(standings, document), encoding="utf-8")
    if folder == record.RESULTS:
        write_page()


def _choose(
    entrant: Entrant, held_out: Sequence[Case], folder: Path, composition: Composition, effort: Effort
) -> Candidate | None:
    """The best settings of a contender; None when it takes no part."""

    def make_place(name: str) -> Place:
        mine = folder / f"tuning-{name}"
        mine.mkdir()
        return Place(cases=held_out, folder=mine, composition=composition)

    contender = entrant.contender
    try:
        candidate, entrant.trials = tune(contender, make_place, held_out, effort)
    except PeerFailedError as error:
        entrant.absent = str(error)[:200]
        _say(f"{contender.title} takes no part: {error}")
        return None
    entrant.knobs = str(candidate.knobs)
    for trial in entrant.trials:
        _say(
            f"{contender.title}, {trial.knobs}: {trial.failure or f'{trial.regions_per_s:.2f} regions per second'}"
        )
    return candidate


def _enter(
    entrant: Entrant,
    candidate: Candidate,
    cases: Sequence[Case],
    folder: Path,
    composition: Composition,
    stack: contextlib.ExitStack,
) -> None:
    """Start a contender, compare its first answer with the expected one, and make it wait."""
    contender = entrant.contender
    mine = folder / contender.name
    mine.mkdir()
    try:
        started = stack.enter_context(candidate.start(Place(cases=cases, folder=mine, composition=composition)))
        if started.process:
            stack.callback(release, started.process)  # before it is asked to end
        answer = started.ask(cases[0])
        entrant.agreement = agreement(cases[0].answer, answer) if contender.answers else None
        _pause(started)
    except (PeerFailedError, SlideCascadeError, ValueError) as error:
        entrant.absent = str(error).strip().splitlines()[-1][:200]
        _say(f"{contender.title} takes no part: {error}")
        return
    if entrant.agreement and not tolerable(entrant.agreement):
        entrant.absent = "other cells than expected"
        _say(f"{contender.title} takes no part: {entrant.agreement}")
        return
    _say(f"{contender.title} is ready")
    entrant.started = started


def _measure(entrants: Sequence[Entrant], cases: Sequence[Case], plan: Plan) -> None:
    for number in range(plan.rounds):
        for callers, regions in plan.loads:
            for entrant in entrants if number % 2 == 0 else reversed(entrants):
                if entrant.contender.slow and number:
                    continue
                most = min(regions, plan.slow_regions if callers > 1 else 1) if entrant.contender.slow else regions
                _one_round(entrant, cases, callers, most)


def _one_round(entrant: Entrant, cases: Sequence[Case], callers: int, regions: int) -> None:
    contender, started = entrant.contender, entrant.started
    assert started is not None  # noqa: S101 - only those that started are measured
    _resume(started)
    try:
        if not contender.slow:
            closed(started, cases, callers=min(callers, 2), regions=2)  # warm again after it was held
        done = closed(started, cases, callers=callers, regions=regions)
    finally:
        _pause(started)
    entrant.rounds.setdefault(callers, []).append(done)
    again = f", {done.again} sent again" if done.again else ""
    _say(
        f"{contender.title}, {callers} callers: {done.regions_per_s:.2f} regions per second, "
        f"{done.cpu_s / len(done.latencies_s):.2f} s of processor each{again}"
    )


def _pause(started: Started) -> None:
    if started.process:
        hold(started.process)


def _resume(started: Started) -> None:
    if started.process:
        release(started.process)


def _standings(entrants: Sequence[Entrant], cases: Sequence[Case]) -> list[Standing]:
    ours = entrants[0].rounds
    return [
        Standing(
            name=entrant.contender.name,
            title=entrant.contender.title,
            setup=entrant.contender.setup,
            target=entrant.contender.target,
            knobs=entrant.knobs,
            trials=entrant.trials,
            agreement=_judged(entrant, cases),
            loads=tuple(Load.of(rounds, ours[callers]) for callers, rounds in entrant.rounds.items()),
            absent=entrant.absent,
        )
        for entrant in entrants
    ]


def _judged(entrant: Entrant, cases: Sequence[Case]) -> Agreement | None:
    """Every answer that was timed, compared with the expected one; cells are those of one answer per region."""
    if not entrant.contender.answers or not entrant.rounds:
        return entrant.agreement
    given = {answer for rounds in entrant.rounds.values() for each in rounds for answer in each.answers}
    worst: dict[int, Agreement] = {}
    for number, answer in given:
        found = agreement(cases[number].answer, answer)
        if number not in worst or _badness(found) > _badness(worst[number]):
            worst[number] = found
    return sum(worst.values(), start=NOTHING)


def _badness(found: Agreement) -> tuple[float, ...]:
    return (found.missing + found.added + found.other_class, -found.least_iou, found.score_by)


def _document(
    standings: Sequence[Standing],
    cases: Sequence[Case],
    plan: Plan,
    composition: Composition,
    provenance: record.Provenance,
) -> dict[str, Any]:
    ours = ("slidecascade", "bentoml", "onnxruntime", "numpy", "opencv-python-headless", "tensorflow", "keras")
    return {
        "machine": dataclasses.asdict(provenance.machine) if provenance.machine else {},
        "load_before": provenance.machine.load_before if provenance.machine else 0.0,
        "versions": {name: version(name) for name in (*ours, "tritonclient")}
        | {name: _pinned(file, name) for file, name in (("litserve", "litserve"), ("ray", "ray"))},
        "models": {package.spec.name: package.spec.sha256 for package in composition.packages},
        "pipeline": PIPELINE,
        "mpp": MPP,
        "plan": dataclasses.asdict(plan),
        "warm_up": "one region after its start, two more before every round; none for the published way",
        "cells": [len(json.loads(case.answer)["features"]) for case in cases],
        "contenders": [dataclasses.asdict(each) | {"met": each.met()} for each in standings],
    }


def _pinned(file: str, name: str) -> str:
    text = (ROOT / "requirements" / f"peers-{file}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{name}==(\S+)", text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def _parser() -> argparse.ArgumentParser:
    names = [each.name for each in contenders()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=record.RESULTS, help="folder for the figures, the plot and the table"
    )
    parser.add_argument("--name", default="peers", help="what these files are called")
    parser.add_argument(
        "--side", type=whole_number(64), default=1024, help="side of the regions in pixels at 0.25 um/px"
    )
    parser.add_argument(
        "--callers", type=whole_number(1), default=8, help="callers at a time; also measured is one alone"
    )
    parser.add_argument("--rounds", type=whole_number(1), help="default: 3, or 1 when quick")
    parser.add_argument("--page", action="store_true", help="measure nothing: tables of the figures there")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    parser.add_argument(
        "--without", nargs="*", choices=names[1:], default=[], help="leave these out", metavar="NAME"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
