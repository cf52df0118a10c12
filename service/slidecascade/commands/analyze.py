"""``slidecascade analyze``: an image or a slide in this process, without a server.

For pipelines of the kinds that jobs run a slide may have any size: it is divided into fields, whose parts are
kept in the folder of results until these are complete, so that the same command resumes after it was stopped or
killed. Pipelines of other kinds analyse one region in memory.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.commands.arguments import METHODS, add_averaging, channel_of, region_of, threshold_of
from slidecascade.commands.files import require_file
from slidecascade.commands.progress import FieldProgress, bar
from slidecascade.errors import MissingResolutionError
from slidecascade.heaps import share_heaps
from slidecascade.jobs.claim import claimed
from slidecascade.jobs.survey import Results, Survey
from slidecascade.jobs.table import SURVEYS, open_survey
from slidecascade.kinds.result import RegionResult
from slidecascade.outputs import archive
from slidecascade.outputs.colormap import COLORMAPS, Colormap
from slidecascade.outputs.encoders import Drawing
from slidecascade.settings import read_settings
from slidecascade.slides.slide import can_open
from slidecascade.staging import writing_to
from slidecascade.timing import Silent

STATE_FOLDER = ".slidecascade"
"""Folder of parts in the folder of results, until these are complete."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", type=Path, help="an image (PNG, JPEG, TIFF, WebP) or a slide in a format of OpenSlide"
    )
    parser.add_argument(
        "--pipeline", required=True, help="nash, nuclei, tumor-heatmap, glomeruli, fat or a custom one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--mpp", type=float, help="um per pixel; required if the input states none")
    parser.add_argument(
        "--object-diameter-px",
        type=float,
        metavar="PX",
        help="usual diameter of the objects in pixels of the input, in place of --mpp where nobody knows it",
    )
    parser.add_argument("--region", type=region_of, help="x,y,width,height in pixels of the image or of level 0")
    parser.add_argument("--threshold", type=threshold_of, action="append", default=[], metavar="MODEL=NUMBER")
    parser.add_argument(
        "--channels",
        type=channel_of,
        nargs="+",
        default=[],
        metavar="MEANING=CHANNEL",
        help="channels by index or name, such as nuclear=0 membrane=CD45",
    )
    parser.add_argument("--stain", choices=METHODS, help="stain normalisation; default: the pipeline's")
    add_averaging(parser)
    parser.add_argument("--tile-px", type=int, help="tile size; affects speed, not cells")
    parser.add_argument(
        "--origin",
        choices=("slide", "bounds"),
        default="slide",
        help="origin of GeoJSON outlines: the corner of level 0, or of the scanned part, as in QuPath",
    )
    parser.add_argument("--allow-partial", action="store_true", help="write results even if tiles fail")
    parser.add_argument(
        "--colormap", choices=COLORMAPS, default=Colormap.VIRIDIS.value, help="colour map of the heatmaps"
    )
    parser.add_argument("--gzip", action="store_true", help="write the GeoJSON as NAME.geojson.gz")
    parser.add_argument("--models", type=Path, help="the models folder")


def run(arguments: argparse.Namespace) -> int:
    """Analyse, write the folder and print the counts; returns the exit code."""
    require_file(arguments.input)
    share_heaps()
    # Failed tiles are reported at the end; their stack traces belong in a service's log.
    logging.getLogger("slidecascade").addHandler(logging.NullHandler())
    slide = can_open(arguments.input)
    settings = read_settings(
        models_dir=arguments.models,
        slide_roots=(arguments.input.resolve().parent,) if slide else None,
    )
    request = _request(arguments, slide_id=arguments.input.resolve().name if slide else None)
    image = None if slide else arguments.input.read_bytes()
    analyser = Analyser(settings, observer=Silent())
    try:
        if analyser.pipeline(request.pipeline).kind in SURVEYS:
            _analyse_fields(analyser, request, image, arguments)
        else:
            _analyse_region(analyser, request, image, arguments)
    except MissingResolutionError as error:
        raise MissingResolutionError(
            f"{arguments.input.name} does not state a usable pixel size: add --mpp, the micrometres per pixel; "
            "where nobody knows it, pipelines of cells take --object-diameter-px, the usual diameter of objects."
        ) from error
    finally:
        analyser.close()
    return 0


def _analyse_fields(
    analyser: Analyser, request: wire.RegionRequest, image: bytes | None, arguments: argparse.Namespace
) -> None:
    """Analyse by fields."""
    task = analyser.prepare(request, image, Control(), is_bounded=False)
    with claimed(arguments.out / STATE_FOLDER) as state:
        results = _interruptible(analyser, open_survey(analyser, task, state / "parts"))
        damaged = bool(results.analysis.tiles.failed)
        results.write(
            arguments.out,
            partial(task.overview, damaged=damaged),
            colormap=Colormap.parse(arguments.colormap),
            gzip=arguments.gzip,
        )
    _print(results.analysis, results.counts, arguments.out)


def _analyse_region(
    analyser: Analyser, request: wire.RegionRequest, image: bytes | None, arguments: argparse.Namespace
) -> None:
    """Analyse a pipeline of another kind in memory."""
    report = analyser.analyse(request, image, Control(), progress=bar("tiles"))
    encoders = analyser.encoders(request.pipeline)
    drawing = Drawing(colormap=Colormap.parse(arguments.colormap))
    with writing_to(arguments.out):
        files = encoders.files(report.analysis, report.overview, drawing)
        archive.write_folder(files, arguments.out, gzip=arguments.gzip)
    _print(report.analysis, report.analysis.counts, arguments.out)


def _interruptible(analyser: Analyser, survey: Survey) -> Results:
    """The results; a line after Ctrl-C states what is kept."""
    try:
        return _results(analyser, survey)
    except KeyboardInterrupt:
        reports = [report for _, report in survey.reports()]
        done = sum(report is not None for report in reports)
        sys.stderr.write(
            f"\nInterrupted: {done} of {len(reports)} fields are finished; "
            "the same command continues from there.\n"
        )
        raise


def _results(analyser: Analyser, survey: Survey) -> Results:
    """All fields; the unfinished ones are run one after another."""
    started = time.monotonic()
    known = [(field, report) for field, report in survey.reports()]
    done = [report for _, report in known if report is not None]
    if done:
        sys.stderr.write(f"Resuming: {len(done)} of {len(known)} fields are finished.\n")
    progress = FieldProgress(
        survey.tiles_total,
        done=sum(report.tiles for report in done),
        cells=sum(report.cells for report in done),
    )
    reports = []
    for field, before in known:
        report = before or survey.run(field, Control(), progress=progress.draw)
        if before is None:
            progress.finish(report.tiles, report.cells)
        reports.append(report)
    progress.end()
    analyser.trim()  # pictures of the slide need no more memory than its tiles did
    return survey.collect(reports, seconds=time.monotonic() - started)


def _print(analysis: RegionResult, counts: Mapping[str, int], folder: Path) -> None:
    if failed := analysis.tiles.failed:
        sys.stderr.write(f"{len(failed)} of {analysis.tiles.total} tiles failed: see summary.json.\n")
    for warning in analysis.warnings:
        sys.stderr.write(f"Warning ({warning.code}): {warning.message}\n")
    for name, count in counts.items():
        sys.stdout.write(f"{count:8d}  {name}\n")
    sys.stdout.write(f"Results are in {folder}. {wire.RESEARCH_USE_ONLY}\n")


def _request(arguments: argparse.Namespace, slide_id: str | None) -> wire.RegionRequest:
    fields: dict[str, object] = {
        "pipeline": arguments.pipeline,
        "mpp": arguments.mpp,
        "object_diameter_px": arguments.object_diameter_px,
        "slide": slide_id,
        "thresholds": dict(arguments.threshold),
        "channels": dict(arguments.channels),
        "stain": arguments.stain and {"method": arguments.stain},
        "options": {"tta": arguments.tta},
        "tile_px": arguments.tile_px,
        "allow_partial": arguments.allow_partial,
        "origin": arguments.origin,
    }
    if arguments.region:
        fields["region"] = dict(zip(("x", "y", "width", "height"), arguments.region, strict=True))
    return wire.parse_request(fields)
