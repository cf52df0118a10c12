"""``python -m benchmarks.patches``: what patches cost beyond their network, and memory by the size of the slide.

`--models` and `--pipelines` with `--pipeline` measure another classifier too, such as a converted InceptionV3.
Times are CPU seconds of this process: they depend less on what else runs on the machine than wall time does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks import record
from benchmarks.areas.__main__ import measure_memory, measure_ratio

from slidecascade_render.lymph.node import render
from slidecascade_render.lymph.specimen import NodeOptions
from slidecascade_render.slides import Rgb, write_pyramid

PIPELINE: Final = "tumor-heatmap"
_OPTIONS: Final = NodeOptions(seed=77, mpp=0.25, tumour=0.5, edge=2.0)
_SOURCE_PX: Final = 1024


def write_slide(path: Path, side_px: int) -> None:
    """A rendered lymph node, repeated beyond `_SOURCE_PX`, so that rendering takes no longer than measuring."""
    source = render(_OPTIONS, width_px=_SOURCE_PX, height_px=_SOURCE_PX).image

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> Rgb:
        rows, columns = (
            np.arange(start, start + count) % _SOURCE_PX for start, count in ((y_px, height_px), (x_px, width_px))
        )
        return np.ascontiguousarray(source[np.ix_(rows, columns)])

    write_pyramid(path, draw, side_px, side_px, mpp=_OPTIONS.mpp)


def main() -> None:
    """Measure and write ``patches.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patches", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for the figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=[5120, 10_240, 15_360], help="of slides, px")
    parser.add_argument("--ratio-side", type=int, default=2048, help="of the slide that is timed, px")
    parser.add_argument("--models", type=Path, help="of another classifier")
    parser.add_argument("--pipelines", type=Path, help="folder of its pipeline file")
    parser.add_argument("--pipeline", help="name of its pipeline")
    given = parser.parse_args()
    provenance = record.Provenance.here()
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for side_px in given.sides:
            slide = Path(folder) / f"{side_px}.tiff"
            write_slide(slide, side_px)
            peaks[str(side_px)] = measure_memory(slide, Path(folder) / f"out-{side_px}", pipeline=PIPELINE)
        timed = Path(folder) / "timed.tiff"
        write_slide(timed, given.ratio_side)
        ratios = {PIPELINE: measure_ratio(timed, given.rounds, pipeline=PIPELINE)}
        if given.pipeline:
            ratios[given.pipeline] = measure_ratio(
                timed,
                given.rounds,
                pipeline=given.pipeline,
                models_dir=given.models,
                pipelines_dir=given.pipelines,
            )
    figures = {"side_px": given.ratio_side, "ratios": ratios, "peak_mib": peaks}
    record.write(given.out / "patches.json", figures, provenance)


if __name__ == "__main__":
    main()
