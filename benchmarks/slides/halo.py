"""What a region of a slide costs by its size: pixels the segmenter is given, and seconds.

A region is looked at with the slide around it. `--before FOLDER` measures another checkout in turn with this one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.local import LocalRunner
from slidecascade.settings import read_settings
from slidecascade.timing import Silent

SIDES_PX: Final = (64, 128, 256, 512, 1024)
SLIDE_PX: Final = 2048
MPP: Final = 0.5
ROUNDS: Final = 3


class Counting:
    """A local runner that counts the pixels given to segmenters."""

    def __init__(self, packages: Iterable[ModelPackage]) -> None:
        packages = tuple(packages)
        self._segmenters = {package.spec.name for package in packages if package.spec.task == "segment"}
        self._runner = LocalRunner(packages)
        self.pixels = 0

    def run(self, model: str, inputs: Tensors) -> Tensors:
        if model in self._segmenters:
            self.pixels += math.prod(inputs["image"].shape[:3])
        return self._runner.run(model, inputs)

    def close(self) -> None:
        self._runner.close()


def measure(slide: Path, pipeline: str) -> dict[str, dict[str, float]]:
    """By the side of a square region in the middle of `slide`: pixels and seconds, the least of some rounds."""
    runners: list[Counting] = []

    def make_runner(packages: Iterable[ModelPackage]) -> Counting:
        runners.append(Counting(packages))
        return runners[0]

    analyser = Analyser(read_settings(slide_roots=(slide.parent,)), observer=Silent(), make_runner=make_runner)
    rows: dict[str, dict[str, float]] = {}
    try:
        for side in SIDES_PX:
            corner = (SLIDE_PX - side) // 2
            fields = {
                "pipeline": pipeline,
                "slide": slide.name,
                "mpp": MPP,
                "region": {"x": corner, "y": corner, "width": side, "height": side},
            }
            seconds = []
            for _ in range(ROUNDS):
                runners[0].pixels = 0
                started = time.perf_counter()
                report = analyser.analyse(wire.parse_request(fields), None, Control())
                seconds.append(time.perf_counter() - started)
            rows[str(side)] = {
                "pixels": runners[0].pixels,
                "seconds": round(min(seconds), 4),
                "cells": len(report.cells.instances),
            }
    finally:
        analyser.close()
    return rows


def _in_checkout(folder: Path, slide: Path, pipeline: str) -> dict[str, dict[str, float]]:
    """`measure` by this file with the packages of another checkout."""
    roots = (folder / name for name in ("service", "clients", "converters", "training", "."))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))}
    command = [sys.executable, str(Path(__file__).resolve()), "--slide", str(slide), "--pipeline", pipeline]
    done = subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True)
    rows: dict[str, dict[str, float]] = json.loads(done.stdout)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slides.halo", description=__doc__)
    parser.add_argument("--slide", type=Path, help="measure this slide and print the figures")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--out", type=Path, help="default: halo.json of the results")
    parser.add_argument("--pipeline", default="nash")
    arguments = parser.parse_args()
    if arguments.slide is not None:
        print(json.dumps(measure(arguments.slide, arguments.pipeline)))
        return
    # Not above: with --before this file runs with the packages of a checkout that may lack it.
    from benchmarks import record

    provenance = record.Provenance.here()
    checkouts = {"after": record.ROOT}
    if arguments.before is not None:
        checkouts = {"before": arguments.before.resolve()} | checkouts
    turns: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as name:
        slide = Path(name) / "slide.tiff"
        _write(slide)
        for _ in range(3):
            for checkout, folder in checkouts.items():
                turns[checkout].append(_in_checkout(folder, slide, arguments.pipeline))
    rows = [
        {
            "side_px": side,
            **{
                f"{checkout}_{figure}": statistics.median(turn[str(side)][figure] for turn in found)
                for checkout, found in turns.items()
                for figure in ("pixels", "seconds", "cells")
            },
        }
        for side in SIDES_PX
    ]
    print(json.dumps(rows, indent=1))
    record.write(arguments.out or record.RESULTS / "halo.json", {"rows": rows}, provenance)


def _write(slide: Path) -> None:
    from slidecascade_render.liver.slides import write_slide
    from slidecascade_render.liver.tissue import TissueOptions

    write_slide(slide, TissueOptions(seed=31, mpp=MPP), SLIDE_PX, SLIDE_PX, levels=1)


if __name__ == "__main__":
    main()
