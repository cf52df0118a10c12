"""``make bench`` and ``make bench-all``: measurements one after the other, and the page of their figures."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.page import write_page

FEW: Final = ("benchmarks.region", "benchmarks.slides.tiling")
ALL: Final = (
    *FEW,
    "benchmarks.slides.regions",
    "benchmarks.slides.halo",
    "benchmarks.areas",
    "benchmarks.patches",
    "benchmarks.stability",
    "benchmarks.stability.turns",
    "benchmarks.stability.precision",
    "benchmarks.stain",
    "benchmarks.runners.calls",
    "benchmarks.runners.batcher",
    "benchmarks.runners.tile_time",
    "benchmarks.heads",
    "benchmarks.load",
    "benchmarks.jobs",
    "benchmarks.viewer",
    "benchmarks.lis",
    "benchmarks.peers",
)
"""What is measured in one go; `make bench-all` also starts `benchmarks.gpu`, in an environment of its own."""

OF_DATA: Final = ("benchmarks.accuracy", "benchmarks.stability.scales", "benchmarks.real_tissue")
"""What needs real images, and is measured when their folder is given."""


def commands(*, every: bool, data: Path | None) -> list[list[str]]:
    """The modules to run, each with its arguments, in order."""
    found = [[name] for name in (ALL if every else FEW)]
    if data is None:
        return found
    folders = {"benchmarks.accuracy": data / "nuclei"}
    found = [
        [*each, "--data", str(data)]
        if each[0].startswith("benchmarks.stability") or each[0] == "benchmarks.stain"
        else each
        for each in found
    ]
    return [*found, *([name, "--data", str(folders.get(name, data))] for name in (OF_DATA if every else ()))]


def measure(modules: Sequence[Sequence[str]]) -> list[str]:
    """Run each in a process of its own, for memory and settings to be its own; the names of those that did not
    exit with 0."""
    failed = []
    for name, *arguments in modules:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", name, *arguments], check=False).returncode:
            failed.append(name)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="everything, hours on two cores; else region and tiling"
    )
    parser.add_argument("--data", type=Path, help="folder with nuclei/dsb2018, nuclei/nucls and liver/*.jpg")
    parser.add_argument(
        "--page", action="store_true", help="write the page anew from the figures, measure nothing"
    )
    arguments = parser.parse_args()
    if arguments.all and find_spec("locust") is None:
        parser.error("Locust is not installed, which the load test needs: start with make bench-all.")
    failed = [] if arguments.page else measure(commands(every=arguments.all, data=arguments.data))
    print(write_page().read_text(encoding="utf-8"))
    if failed:
        print(f"These failed or missed a bound: {', '.join(failed)}; their output is above.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
