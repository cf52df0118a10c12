"""``make bench``: every measurement, its JSON and a table in ``benchmarks/results``."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.page import PIPELINES, RESULTS, write_page


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure regions and tilings, about ten minutes, and write the page.",
    )
    parser.add_argument(
        "--page", action="store_true", help="measure nothing: write the page anew from the figures"
    )
    if not parser.parse_args().page:
        _measure()
    print(write_page().read_text(encoding="utf-8"))


def _measure() -> None:
    RESULTS.mkdir(exist_ok=True)
    for pipeline in PIPELINES:
        out = RESULTS / f"region-{pipeline}.json"
        command = ["bench", "region", "--pipeline", pipeline, "--out", str(out)]
        subprocess.run([sys.executable, "-m", "slidecascade", *command], check=True)
    tiling = [sys.executable, "-m", "benchmarks.tiling", "--out", str(RESULTS / "tiling.json")]
    subprocess.run(tiling, check=True)


if __name__ == "__main__":
    main()
