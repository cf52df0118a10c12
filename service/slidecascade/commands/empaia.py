"""``slidecascade empaia``: a job of the EMPAIA platform, analysed by a server."""

from __future__ import annotations

import argparse
import os
import sys

from slidecascade import wire
from slidecascade.commands.jobs import DEFAULT_URL, KEY_VARIABLE, URL_VARIABLE
from slidecascade.empaia.app import Keys, run_job
from slidecascade.empaia.platform import Job, Platform
from slidecascade_client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", required=True, help="a pipeline of cells of the server")
    parser.add_argument(
        "--namespace", required=True, help="of the app's classes, such as org.empaia.vendor.app.v3.0"
    )
    for key, default, text in (
        ("slide", "slide", "input: the slide"),
        ("regions", "regions", "input: a rectangle or a collection of rectangles"),
        ("cells", "cells", "output: polygons of each rectangle"),
        ("classes", "classes", "output: classes of the polygons"),
        ("counts", "counts", "output: the number of cells of each class"),
    ):
        parser.add_argument(f"--{key}-key", default=default, help=f"{text} (default: {default})")
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, DEFAULT_URL),
        help=f"the server that analyses (default: {URL_VARIABLE}, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--api-key", default=os.environ.get(KEY_VARIABLE), help=f"its key (default: {KEY_VARIABLE})"
    )


def run(options: argparse.Namespace) -> int:
    """Do the job that the environment names; returns the exit code."""
    keys = Keys(
        slide=options.slide_key,
        regions=options.regions_key,
        cells=options.cells_key,
        classes=options.classes_key,
        counts=options.counts_key,
        namespace=options.namespace,
    )
    with Platform(Job.of_environment()) as platform, Client(options.url, api_key=options.api_key) as client:
        counts = run_job(platform, client, options.pipeline, keys)
    found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no cells"
    sys.stdout.write(f"The job is finalized: {found}. {wire.RESEARCH_USE_ONLY}\n")
    return 0
