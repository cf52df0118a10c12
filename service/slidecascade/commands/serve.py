"""``slidecascade serve``."""

from __future__ import annotations

import argparse
from pathlib import Path

from slidecascade.hosting.main import serve
from slidecascade.settings import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slides", type=Path, metavar="DIR", help="folder of slides that requests can name")
    parser.add_argument(
        "--jobs", type=Path, metavar="DIR", help="folder of jobs; without it jobs are not accepted"
    )
    parser.add_argument("--models", type=Path, metavar="DIR", help="model repository (default: the bundled one)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 3000)")


def run(options: argparse.Namespace) -> int:
    """Serve until a stop signal; returns the exit code."""
    return serve(
        read_settings(
            slide_roots=(options.slides,) if options.slides else None,
            jobs_dir=options.jobs,
            models_dir=options.models,
            host=options.host,
            port=options.port,
        )
    )
