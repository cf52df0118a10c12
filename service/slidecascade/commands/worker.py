"""``slidecascade worker``: a process without HTTP that runs jobs of servers."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from pathlib import Path
from types import FrameType

from slidecascade import logs
from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import SettingsError
from slidecascade.jobs.desk import Desk
from slidecascade.settings import read_settings
from slidecascade.timing import Silent

LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slides", type=Path, metavar="DIR", help="folder of the slides that jobs name")
    parser.add_argument("--models", type=Path, metavar="DIR", help="model repository (default: the bundled one)")
    parser.add_argument("--jobs", type=Path, metavar="DIR", help="folder of jobs, shared by all processes")


def run(options: argparse.Namespace) -> int:
    """Run jobs until a stop signal; returns the exit code.

    Raises:
        SettingsError: when there is no database for several processes, or no folder of jobs.
    """
    settings = read_settings(
        slide_roots=(options.slides,) if options.slides else None, models_dir=options.models, jobs_dir=options.jobs
    )
    if settings.jobs_database_url is None:
        raise SettingsError("A worker needs SLIDECASCADE_JOBS_DATABASE_URL: the Postgres database of the server.")
    if settings.jobs_dir is None:
        raise SettingsError("A worker needs --jobs or SLIDECASCADE_JOBS_DIR: the folder of jobs of the server.")
    logs.configure()
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    analyser = Analyser(settings, observer=Silent())
    try:
        desk = Desk(analyser, settings, settings.jobs_dir)
        desk.start()
        try:
            stopped.wait()
        finally:
            LOG.info("stopping")
            desk.stop()
    finally:
        analyser.close()
    return 0
