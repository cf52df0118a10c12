"""``slidecascade demo``: analyses a region with a real server process and the client."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import httpx

from slidecascade import wire
from slidecascade.commands.arguments import region_of
from slidecascade.commands.files import require_file
from slidecascade.commands.service_process import served
from slidecascade.outputs import png
from slidecascade.staging import writing_to

RENDERED_PX = 2048
RENDERED_MPP = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the results")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--image", type=Path, help="an image to analyse instead of rendered liver tissue")
    source.add_argument("--slide", type=Path, help="a slide to analyse instead of rendered liver tissue")
    parser.add_argument("--mpp", type=float, help="um per pixel of the image, or of a slide that states none")
    parser.add_argument("--region", type=region_of, help="x,y,width,height in pixels of the image or of level 0")
    parser.add_argument("--pipeline", default="nash", help="default: nash")


def run(arguments: argparse.Namespace) -> int:
    """Serve, analyse, save the results and print a summary; returns the exit code."""
    from slidecascade_client import Client

    for path in filter(None, (arguments.image, arguments.slide)):
        require_file(path)
    with writing_to(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    environment = {}
    if arguments.slide:
        environment["SLIDECASCADE_SLIDE_ROOTS"] = str(arguments.slide.resolve().parent)
    image, mpp = arguments.image, arguments.mpp
    if not arguments.image and not arguments.slide:
        image, mpp = _rendered(arguments.out), mpp or RENDERED_MPP
    _say("Starting the service ...")
    # A configured proxy is not used for the local service.
    with (
        served(environment) as (url, _),
        httpx.Client(trust_env=False) as http,
        Client(url, http_client=http) as client,
    ):
        _say(f"Analysing with the pipeline {arguments.pipeline!r} ...")
        result = client.analyze_region(
            image,
            pipeline=arguments.pipeline,
            slide=arguments.slide.resolve().name if arguments.slide else None,
            mpp=mpp,
            region=arguments.region,
        )
        with writing_to(arguments.out):
            result.save(arguments.out)
    _print_summary(result.summary, arguments.out)
    return 0


def _rendered(folder: Path) -> Path:
    """Rendered liver tissue, saved beside the results."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    tissue = render(TissueOptions(seed=7, mpp=RENDERED_MPP), width_px=RENDERED_PX, height_px=RENDERED_PX)
    path = folder / "region.png"
    with writing_to(folder):
        path.write_bytes(png.encode(tissue.image))
    return path


def _print_summary(summary: wire.Summary, folder: Path) -> None:
    seconds = summary.timings_s["total"]
    tissue = "" if summary.tissue_area_mm2 is None else f" on {summary.tissue_area_mm2:.3f} mm² of tissue"
    _say(f"\n{summary.cells} cells{tissue} in {seconds:.1f} s:")
    for name, count in summary.counts.items():
        _say(f"  {count:6d}  {name}")
    _say(f"\nResults are in {folder}: overlay.png, figures/, heatmaps/, cells.geojson for QuPath, summary.json.")
    _say(f"To see a slide in a browser: {serving_command()}, then http://127.0.0.1:3000/viewer/")
    _say(summary.research_use_only)


def serving_command(built: Path | None = None) -> str:
    """What serves slides with the page; `built` is its folder. `make demo` does not build it."""
    from slidecascade.web.viewer import BUILT

    if ((built or BUILT) / "index.html").is_file():
        return "slidecascade serve --slides FOLDER"
    return "make serve SLIDES=FOLDER (builds the page; needs npm's registry once)"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
