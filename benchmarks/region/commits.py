"""The region of ``slidecascade bench region`` by two checkouts in turn: how much longer does one take?

Each checkout has a process of its own; they take turns round by round, so that a machine that slows down slows
both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import cv2
from benchmarks import record

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.commands.millioncells import measure_writing
from slidecascade.settings import read_settings
from slidecascade.timing import Silent

try:
    from slidecascade.outputs.cells import geojson
except ImportError:  # a checkout that had one kind of pipeline
    from slidecascade.outputs import geojson  # type: ignore[no-redef, attr-defined]

MPP: Final = 0.25


def work(pipeline: str, size_px: int) -> None:
    """Answer each line of stdin, ``analyse`` or ``write``, with a line of JSON."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    image = render(TissueOptions(seed=11, mpp=MPP), width_px=size_px, height_px=size_px).image
    png = bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])
    analyser = Analyser(read_settings(), observer=Silent())
    request = wire.RegionRequest(pipeline=pipeline, mpp=MPP)
    for line in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        report: Any = analyser.analyse(request, png, Control())
        analysis = report.cells if hasattr(report, "cells") else report.analysis
        b"".join(geojson.encode(analysis))
        found: dict[str, Any] = {
            "seconds": time.perf_counter() - started,
            "cpu_s": time.process_time() - cpu,
            "cells": len(analysis.instances),
        }
        if line.strip() == "write":
            found["writing_cpu_s"] = measure_writing(analysis).cpu_s
        print(json.dumps(found), flush=True)
    analyser.close()


def _started(folder: Path, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    roots = (folder / name for name in ("service", "clients", "converters", "training", "."))
    command = [sys.executable, str(Path(__file__).resolve()), "--work"]
    command += ["--pipeline", arguments.pipeline, "--size", str(arguments.size)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))}
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(process: subprocess.Popen[str], what: str) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("The process was started without pipes.")
    process.stdin.write(what + "\n")
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.region.commits", description=__doc__)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--pipeline", default="nash")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.pipeline, arguments.size)
        return
    provenance = record.Provenance.here()
    folders = {"before": arguments.before.resolve(), "after": Path(__file__).resolve().parents[2]}
    processes = {name: _started(folder, arguments) for name, folder in folders.items()}
    try:
        for process in processes.values():
            _ask(process, "analyse")  # the first takes longer
        rounds = [
            {name: _ask(process, "analyse") for name, process in processes.items()}
            for _ in range(arguments.rounds)
        ]
        writing = [
            {name: _ask(process, "write")["writing_cpu_s"] for name, process in processes.items()}
            for _ in range(2)
        ]
    finally:
        for process in processes.values():
            process.communicate()
    report = {
        "pipeline": arguments.pipeline,
        "size_px": arguments.size,
        "before_commit": record.commit_of(folders["before"]),
        "cells": rounds[0]["after"]["cells"],
        "load": round(os.getloadavg()[0], 1),
        **{
            f"{name}_{figure}": round(statistics.median(turn[name][figure] for turn in rounds), 4)
            for name in folders
            for figure in ("seconds", "cpu_s")
        },
        **{
            f"after_over_before_{figure}": round(
                statistics.median(turn["after"][figure] / turn["before"][figure] for turn in rounds), 3
            )
            for figure in ("seconds", "cpu_s")
        },
        "writing_cpu_s": {name: min(turn[name] for turn in writing) for name in folders},
        "rounds": rounds,
    }
    print(json.dumps(report, indent=1))
    if arguments.out is not None:
        record.write(arguments.out, report, provenance)


if __name__ == "__main__":
    main()
