"""``python -m benchmarks.region.decoders``: what decoding uploads in confined processes costs.

The same region of an upload is analysed with its image decoded in the process and in confined processes, in turns.
Compared is CPU time, of this process and the decoders together: it depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median

import cv2

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.settings import read_settings
from slidecascade.slides.confineddecoder import ConfinedDecoder
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.timing import Silent
from slidecascade_render.liver.tissue import TissueOptions, render


def main() -> int:
    """Print the figures as JSON; the exit code."""
    parser = argparse.ArgumentParser(description="The cost of confined decoders.")
    parser.add_argument("--side", type=int, default=2048, help="of the region in pixels (default: 2048)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipeline", default="nash")
    options = parser.parse_args()
    image = render(TissueOptions(seed=1, mpp=0.5), width_px=options.side, height_px=options.side).image
    upload = bytes(cv2.imencode(".png", image[..., ::-1])[1])
    confined = ConfinedDecoder(2, retry_after_s=1, died=lambda: None)
    ways: dict[str, tuple[Decoder, Callable[[], float]]] = {
        "direct": (DIRECT, lambda: 0.0),
        "confined": (confined, lambda: sum(time.clock_gettime(~pid << 3 | 2) for pid in confined.pids)),
    }
    request = wire.RegionRequest(pipeline=options.pipeline, mpp=0.5)
    analysers = {name: Analyser(read_settings(), observer=Silent(), decoder=way[0]) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, (_, elsewhere) in ways.items():
            before = time.process_time() + elsewhere()
            analysers[name].analyse(request, upload, Control())
            if turn:  # the first warms up
                seconds[name].append(time.process_time() + elsewhere() - before)
    for analyser in analysers.values():
        analyser.close()
    ratios = [two / one for one, two in zip(seconds["direct"], seconds["confined"], strict=True)]
    figures = {
        "side_px": options.side,
        "upload_bytes": len(upload),
        "cpu_seconds": {name: round(median(values), 3) for name, values in seconds.items()},
        "ratios": [round(ratio, 4) for ratio in ratios],
        "median_ratio": round(median(ratios), 4),
        "load": os.getloadavg()[0],
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
