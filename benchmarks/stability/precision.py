"""Cells of the networks in int8 against those in float32, and what both cost.

`python -m benchmarks.stability.precision [--data DIR]` analyses rendered tissue and the real tiles
`DIR/liver/*.jpg` by both in turn. Exits with 2 on a CPU that runs no network in int8.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Final

import numpy as np
from benchmarks import record
from benchmarks.stability.__main__ import Cells, Row, kept, parser_of, sets
from benchmarks.stability.changes import Image, changes

from slidecascade.analysis.analyser import Analyser
from slidecascade.cli import WRONG_CALL
from slidecascade.errors import SettingsError
from slidecascade.settings import read_settings
from slidecascade.timing import Silent

PIPELINES: Final = ("nash", "nuclei")
_ROUNDS: Final = 3


def main() -> int:
    arguments = parser_of("benchmarks.stability.precision", __doc__, out="int8.json", side_px=1024).parse_args()
    provenance = record.Provenance.here()
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {pipeline: [] for pipeline in PIPELINES}
    try:
        with closing(_analyser("float32")) as whole, closing(_analyser("int8")) as small:
            for name, images in sets(arguments.data, arguments.side):
                for pipeline in PIPELINES:
                    row, found = compare(images, name, (whole, small), pipeline)
                    rows.append(row)
                    ratios[pipeline] += found
                    print(row, found, flush=True)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_CALL
    speed = {pipeline: float(np.median(found)) for pipeline, found in ratios.items()}
    figures = {"side_px": arguments.side, "rows": [asdict(row) for row in rows], "cpu_ratios": speed}
    record.write(arguments.out, figures, provenance)
    return 0


def _analyser(precision: str) -> Analyser:
    return Analyser(read_settings(threads=1, precision=precision), observer=Silent())


def compare(
    images: Sequence[Image], name: str, analysers: tuple[Analyser, Analyser], pipeline: str
) -> tuple[Row, list[float]]:
    """The cells of the second analyser against those of the first; CPU time of the first over that of the second
    for each of `images`, the median of rounds in turn."""
    none, *_ = changes()
    counts = np.zeros(4, np.int64)
    ratios = []
    for image in images:
        seconds = np.zeros((_ROUNDS, len(analysers)))
        for turn in range(_ROUNDS):
            found = []
            for place, analyser in enumerate(analysers):
                start = time.process_time()
                found.append(Cells.of(image, none, analyser, pipeline))
                seconds[turn, place] = time.process_time() - start
        counts += kept(*found)
        ratios.append(float(np.median(seconds[:, 0] / seconds[:, 1])))
    total, again, same, extra = counts.tolist()
    row = Row(
        images=name,
        pipeline=pipeline,
        change="int8",
        cells=total,
        found_again=again,
        same_class=same,
        extra=extra,
    )
    return row, ratios


if __name__ == "__main__":
    sys.exit(main())
