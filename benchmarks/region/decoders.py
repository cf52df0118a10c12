"""``python -m benchmarks.region.decoders``: the cost of confined processes for uploads and slides.

The same region of an upload, or with ``--slide`` of a slide, is analysed with its pixels decoded in the process
and in confined processes, in turns. Compared is CPU time, of this process and the others together: it depends less
on what else the machine does. Of a slide, the times to open it and to make a tile of its picture are compared too.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import tifffile

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.geometry import Box
from slidecascade.settings import read_settings
from slidecascade.slides import jpeg
from slidecascade.slides.confineddecoder import ConfinedDecoder
from slidecascade.slides.confinedslides import ConfinedSlides
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.slides.deepzoom import TILE_PX
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.openslides import DirectSlides, SlideOpener
from slidecascade.timing import Silent
from slidecascade_render.liver.tissue import TissueOptions, render


def main() -> int:
    """Print the figures as JSON; the exit code."""
    parser = argparse.ArgumentParser(description="The cost of confined decoders.")
    parser.add_argument("--side", type=int, default=2048, help="of the region in pixels (default: 2048)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipeline", default="nash")
    parser.add_argument("--stack", action="store_true", help="send channels of 16 bits in deflated tiles, no PNG")
    parser.add_argument("--slide", type=Path, help="analyse a region of this slide instead")
    options = parser.parse_args()
    if options.slide is not None:
        return _compare_on_slide(options.slide, options.side, options.rounds, options.pipeline)
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


def _compare_on_slide(path: Path, side: int, rounds: int, pipeline: str) -> int:
    """Print the figures of a slide as JSON; the exit code."""
    confined = ConfinedSlides(retry_after_s=1, died=lambda: None)
    openers: dict[str, SlideOpener] = {"direct": DirectSlides(), "confined": confined}
    settings = read_settings(slide_roots=(path.parent,))
    analysers = {name: Analyser(settings, observer=Silent(), opener=one) for name, one in openers.items()}
    with analysers["direct"].open_slide(path.name) as slide:
        size = slide.size_l0
    region = Box((size.width - side) // 2, (size.height - side) // 2, side, side)
    box = wire.RegionBox(x=region.x, y=region.y, width=side, height=side)
    request = wire.RegionRequest(pipeline=pipeline, slide=path.name, mpp=0.5, region=box)
    cpu_s: dict[str, list[float]] = {name: [] for name in openers}
    wall_ms: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in openers} for what in ("open", "tile", "read")
    }
    for turn in range(rounds + 1):
        for name, analyser in analysers.items():
            before = time.process_time() + _readers_s(confined)
            analyser.analyse(request, None, Control())
            if turn:  # the first warms up
                cpu_s[name].append(time.process_time() + _readers_s(confined) - before)
    with ExitStack() as opened:
        file = HeldFile.below(path.parent, path)
        opened.callback(file.close)
        slides = {name: opener.open(file, path) for name, opener in openers.items()}
        for turn in range(20 * rounds):
            for name, opener in openers.items():
                for what, value in _times_ms(opener, slides[name], file, path, region, turn).items():
                    wall_ms[what][name].append(value)
        for open_slide in slides.values():
            open_slide.close()
    for analyser in analysers.values():
        analyser.close()
    figures = {
        "slide": path.name,
        "side_px": side,
        "cpu_seconds": {name: round(median(values), 3) for name, values in cpu_s.items()},
        "median_ratio": round(median(two / one for one, two in zip(*cpu_s.values(), strict=True)), 4),
        "median_ms": {
            what: {name: round(median(values), 2) for name, values in of.items()} for what, of in wall_ms.items()
        },
        "load": os.getloadavg()[0],
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


def _readers_s(confined: ConfinedSlides) -> float:
    """CPU time of the processes that read slides."""
    found = Path(f"/proc/{confined.pid}/task/{confined.pid}/children").read_text().split()
    return sum(time.clock_gettime(~int(pid) << 3 | 2) for pid in found)


def _times_ms(
    opener: SlideOpener, slide: FileSlide, file: HeldFile, path: Path, region: Box, turn: int
) -> dict[str, float]:
    """To open a slide, make a tile of the picture of one that is open at full resolution, and read `region`."""
    clock = [time.perf_counter()]
    another = opener.open(file, path)
    clock.append(time.perf_counter())
    tile = Box(region.x + turn % 5 * TILE_PX, region.y + turn % 7 * TILE_PX, TILE_PX, TILE_PX)
    jpeg.encode(slide.read_level(0, tile), quality=85)
    clock.append(time.perf_counter())
    slide.read_level(0, region)
    clock.append(time.perf_counter())
    another.close()
    steps = [1000 * (after - before) for before, after in itertools.pairwise(clock)]
    return {"open": steps[0], "tile": steps[1], "read": steps[2]}


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
