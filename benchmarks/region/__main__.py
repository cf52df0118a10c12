"""``python -m benchmarks.region``: what a region costs beyond its networks, for each bundled pipeline."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import record
from benchmarks.region.section import PIPELINES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.region", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for the figures")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=PIPELINES)
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for pipeline in arguments.pipelines:
        path = arguments.out / f"region-{pipeline}.json"
        command = ["bench", "region", "--pipeline", pipeline, "--out", str(path)]
        subprocess.run([sys.executable, "-m", "slidecascade", *command], check=True)
        record.write(path, json.loads(path.read_text(encoding="utf-8")), provenance)


if __name__ == "__main__":
    main()
