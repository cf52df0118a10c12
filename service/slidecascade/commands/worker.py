"""``slidecascade worker``: a process without HTTP that runs jobs of servers."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

from slidecascade import logs
from slidecascade.analysis.analyser import Analyser
from slidecascade.commands.workerprocesses import CHILD_FLAG, run_processes, shares
from slidecascade.errors import SettingsError
from slidecascade.heaps import share_heaps
from slidecascade.jobs.desk import Desk
from slidecascade.settings import read_settings
from slidecascade.slides.confineddecoder import open_decoder
from slidecascade.slides.confinedslides import open_slides
from slidecascade.timing import Silent

LOG = logging.getLogger(__name__)

MAX_PROCESSES: Final = 256
HEARTBEAT_S: Final = 2.0
MAX_SILENCE_S: Final = 60.0
"""Without a look at the queue for so long a process counts as stuck, and its heartbeat file is not touched."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slides", type=Path, metavar="DIR", help="folder of the slides that jobs name")
    parser.add_argument("--models", type=Path, metavar="DIR", help="model repository (default: the bundled one)")
    parser.add_argument("--jobs", type=Path, metavar="DIR", help="folder of jobs, shared by all processes")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes, which share cores or GPU, and memory"
    )
    parser.add_argument(
        "--heartbeat", type=Path, metavar="FILE", help="touched every few seconds while jobs are taken, for probes"
    )
    parser.add_argument(CHILD_FLAG, action="store_true", help=argparse.SUPPRESS)


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
    if not 1 <= options.processes <= MAX_PROCESSES:
        raise SettingsError(
            f"--processes cannot be {options.processes}: choose a number from 1 to {MAX_PROCESSES}."
        )
    logs.configure()
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if options.processes > 1:
        share = shares(settings, options.processes)
        return run_processes(_words(options), share, options.processes, stopped, heartbeat=options.heartbeat)
    share_heaps()
    if options.until_stdin_closes:
        threading.Thread(target=_wait_for_end, args=(stopped,), name="parent", daemon=True).start()
    with ExitStack() as opened:
        decoder = open_decoder(settings.decoders, retry_after_s=settings.retry_after_s, died=lambda: None)
        opened.callback(decoder.close)
        opener = open_slides(settings.decoders, retry_after_s=settings.retry_after_s, died=lambda: None)
        opened.callback(opener.close)
        analyser = Analyser(settings, observer=Silent(), decoder=decoder, opener=opener)
        opened.pop_all()  # the analyser closes them
    try:
        desk = Desk(analyser, settings, settings.jobs_dir)
        desk.start()
        try:
            while not stopped.wait(HEARTBEAT_S):
                if options.heartbeat and desk.silent_s < MAX_SILENCE_S:
                    options.heartbeat.touch()
        finally:
            LOG.info("stopping")
            desk.stop()
    finally:
        analyser.close()
    return 0


def _words(options: argparse.Namespace) -> list[str]:
    """The command line of one of the processes."""
    folders = {"--slides": options.slides, "--models": options.models, "--jobs": options.jobs}
    return ["worker", *(word for name, path in folders.items() if path for word in (name, str(path)))]


def _wait_for_end(stopped: threading.Event) -> None:
    """Stop when the process that started this one has closed its end of stdin, or has died."""
    sys.stdin.buffer.read()
    stopped.set()
