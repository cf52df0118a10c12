"""``python -m benchmarks.region.decoders``: what decoding uploads in confined processes costs.

The same region of an upload is analysed with its image decoded in the process and in confined processes, in turns.
Compared is CPU time, of this process and the decoders together: it depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median

import cv2
import numpy as np
import tifffile

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
    parser.add_argument("--stack", action="store_true", help="send channels of 16 bits in deflated tiles, no PNG")
    options = parser.parse_args()
    upload = _stack(options.side) if options.stack else _png(options.side)
    confined = ConfinedDecoder(2, retry_after_s=1, died=lambda: None)
    ways: dict[str, tuple[Decoder, Callable[[], float]]] = {
        "direct": (DIRECT, lambda: 0.0),
        "confined": (confined, lambda: sum(time.clock_gettime(~pid << 3 | 2) for pid in confined.pids)),
    }
    channels = {"nuclear": 0} if options.stack else {}
    request = wire.RegionRequest(pipeline=options.pipeline, mpp=0.5, channels=channels)
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
        "form": "stack" if options.stack else "png",
        "upload_bytes": len(upload),
        "cpu_seconds": {name: round(median(values), 3) for name, values in seconds.items()},
        "ratios": [round(ratio, 4) for ratio in ratios],
        "median_ratio": round(median(ratios), 4),
        "load": os.getloadavg()[0],
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


def _png(side_px: int) -> bytes:
    image = render(TissueOptions(seed=1, mpp=0.5), width_px=side_px, height_px=side_px).image
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


def _stack(side_px: int) -> bytes:
    """Two channels, in tiles as microscopes write them."""
    grey = render(TissueOptions(seed=1, mpp=0.5), width_px=side_px, height_px=side_px).image[..., 0]
    counts = np.stack([(255 - grey).astype(np.uint16) * 16] * 2)
    with io.BytesIO() as stream:
        tifffile.imwrite(stream, counts, tile=(256, 256), compression="zlib", photometric="minisblack")
        return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
