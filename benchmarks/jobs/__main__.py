"""Slides as jobs: what they cost beyond the networks, in memory, in the queue, and beside people who post regions.

`make bench-slides` writes `benchmarks/results/jobs.json`. Each part runs in a process of its own; CPU seconds
stand beside wall seconds, which other work on the machine makes longer. `--sides` are those of the slides in px.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import record
from benchmarks.gpu.card import find_card
from benchmarks.jobs.slides import write

ROUNDS: Final = 2


def part(module: str, *arguments: str) -> Any:
    """The figures that a module prints; None, and its output on stderr, when it failed."""
    command = [sys.executable, "-m", f"benchmarks.jobs.{module}", *arguments]
    print("==", *command[2:], flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


def measure(
    folder: Path, sides: Sequence[int], *, rounds: int, field_tiles: int, people_side: int, postgres: Sequence[str]
) -> dict[str, Any]:
    """Everything; the slides are written into `folder`."""
    loads = [round(os.getloadavg()[0], 1)]
    for side in sorted({*sides, people_side}):
        write(folder / f"{side}.tif", side)
    jobs = [
        part("one", str(folder / f"{side}.tif"), "--field-tiles", str(field_tiles))
        for _ in range(rounds)
        for side in sides
    ]
    loads.append(round(os.getloadavg()[0], 1))
    figures: dict[str, Any] = {
        "rounds": rounds,
        "jobs": jobs,
        "cells": part("cells"),
        "checkpoints": [part("checkpoints")],
        "workers": [],
        "people": part("people", str(folder / f"{people_side}.tif")),
        "gpu": None if find_card(0) is None else "see gpu.json",
    }
    loads.append(round(os.getloadavg()[0], 1))
    if postgres:
        first, *others = postgres
        figures["checkpoints"].append(part("checkpoints", first))
        slide = str(folder / f"{max(sides)}.tif")
        figures["workers"] = [
            part("workers", slide, *pair) for pair in zip(others[::2], others[1::2], strict=False)
        ]
    loads.append(round(os.getloadavg()[0], 1))
    return {**figures, "loads": loads}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--field-tiles", type=int, default=2, help="tiles of a field each way; jobs have 4")
    parser.add_argument("--people-side", type=int, default=8192)
    parser.add_argument(
        "--postgres",
        nargs="*",
        default=[],
        metavar="URL",
        help="empty databases: one, and two for a round of workers",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args()
    provenance = record.Provenance.here()
    folder = Path(tempfile.mkdtemp(prefix="slidecascade-bench-"))
    try:
        figures = measure(
            folder,
            options.sides,
            rounds=options.rounds,
            field_tiles=options.field_tiles,
            people_side=options.people_side,
            postgres=options.postgres,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    record.write(options.out / "jobs.json", figures, provenance)
    return 0


if __name__ == "__main__":
    sys.exit(main())
