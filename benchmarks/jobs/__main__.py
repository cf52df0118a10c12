"""Slides as jobs: what they cost beyond the networks, in memory, in the queue, and beside people who post regions.

`make bench-slides` writes `benchmarks/results/jobs.json`. By default slides of 17, 67 and 268 megapixels, for a
laptop; `--full` takes those of 0.1, 0.4 and 1.7 gigapixels. Each part runs in a process of its own; CPU seconds
stand beside wall seconds, which other work on the machine makes longer. Parts with Postgres start one of Debian's.

The file is written after every part and every slide: a run that is stopped leaves what it has measured. With
`--parts` the others stay as they are in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import record
from benchmarks.gpu.card import find_card
from benchmarks.jobs.postgres import databases
from benchmarks.jobs.slides import write

PARTS: Final = ("cells", "checkpoints", "resume", "workers", "people", "jobs")
"""In the order in which they are measured: that which takes most of the time is the last."""

SIDES: Final = (4096, 8192, 16384)
FULL_SIDES: Final = (10240, 20480, 40960)
_MIDDLE_PX: Final = 16384
"""Side of a slide of four fields: `nash` looks for cells at half the resolution, and a field has 4096 px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is measured: sides of slides in px; `middle_px` is that of the parts with one slide."""

    sides: Sequence[int]
    middle_px: int
    rounds: int
    field_tiles: int
    people_rounds: int
    parts: Sequence[str]


def part(module: str, *arguments: str) -> Any:
    """The figures that a module prints; None, and its output on stderr, when it failed."""
    command = [sys.executable, "-m", f"benchmarks.jobs.{module}", *arguments]
    print("==", *command[2:], flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


class Report:
    """The file of figures, written whenever one is added; those of parts that are not measured anew are kept."""

    def __init__(self, path: Path, provenance: record.Provenance, *, parts: Sequence[str]) -> None:
        self._path = path
        self._provenance = provenance
        earlier = record.read(path) or {}
        measured = {name: of for name, of in earlier.get("measured", {}).items() if name not in parts}
        kept = {name: earlier[name] for name in measured}
        card = None if find_card(0) is None else "see gpu.json"
        self._figures: dict[str, Any] = {"gpu": card, **kept, "measured": measured}

    def add(self, name: str, found: Any) -> None:
        """Put what was found by a part into the file."""
        of = {"commit": self._provenance.commit, "load": round(os.getloadavg()[0], 1)}
        self._figures[name] = found
        self._figures["measured"].setdefault(name, of)
        record.write(self._path, self._figures, self._provenance)


def measure(folder: Path, choice: Choice, database: Callable[[], str] | None, report: Report) -> None:
    """The parts that are asked for; the slides are written into `folder`, which is removed afterwards."""
    middle = folder / f"{choice.middle_px}.tif"
    tiles = ("--field-tiles", str(choice.field_tiles))
    people = ("--rounds", str(choice.people_rounds))
    runs: dict[str, Callable[[], Any]] = {
        "cells": lambda: part("cells"),
        "checkpoints": lambda: [part("checkpoints"), *([part("checkpoints", database())] if database else [])],
        "resume": lambda: part("resume", _written(middle), *tiles),
        "workers": lambda: [part("workers", _written(middle), database(), database())] if database else [],
        "people": lambda: part("people", _written(middle), *people),
    }
    for name in choice.parts:
        if name == "jobs":
            _jobs(folder, choice, report)
        else:
            report.add(name, runs[name]())


def _jobs(folder: Path, choice: Choice, report: Report) -> None:
    found: list[Any] = []
    for _ in range(choice.rounds):
        for side in choice.sides:
            slide = _written(folder / f"{side}.tif")
            found.append(part("one", slide, "--field-tiles", str(choice.field_tiles)))
            report.add("jobs", found)


def _written(path: Path) -> str:
    """A slide named by its side in px, written when it is needed first."""
    if not path.exists():
        write(path, int(path.stem))
    return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--full", action="store_true", help="slides of 0.1, 0.4 and 1.7 gigapixels")
    parser.add_argument("--sides", type=int, nargs="+", help="sides of the slides in px")
    parser.add_argument(
        "--middle",
        type=int,
        help="side of the slide of the other parts, in px",
    )
    parser.add_argument("--field-tiles", type=int, default=4, help="tiles of a field each way")
    parser.add_argument("--rounds", type=int, default=1, help="of the slides")
    parser.add_argument("--people-rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured anew")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args()
    sides = options.sides or (FULL_SIDES if options.full else SIDES)
    choice = Choice(
        sides=sides,
        middle_px=options.middle or min(_MIDDLE_PX, max(sides)),
        rounds=options.rounds,
        field_tiles=options.field_tiles,
        people_rounds=options.people_rounds,
        parts=[name for name in PARTS if name in options.parts],
    )
    report = Report(options.out / "jobs.json", record.Provenance.here(), parts=choice.parts)
    folder = Path(tempfile.mkdtemp(prefix="slidecascade-bench-"))
    try:
        with databases() as database:
            measure(folder, choice, database, report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
