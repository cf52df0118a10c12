"""Packages a run in a separate process if its backend is not the exporter's. The process builds the same network
and reads the checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from slidecascade.errors import SlideCascadeError, TrainingFailedError
from slidecascade_training.backend import EXPORTER, prepare_keras


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageRequest:
    """Which run to package under which name."""

    run: Path
    data: Path
    name: str
    models_dir: Path
    licence: str


def package_by(work: Callable[[PackageRequest], None], request: PackageRequest) -> None:
    """Call `work`, a function of a module that ends in ``answer(work)``, in this process or in one that runs
    that module.

    Raises:
        TrainingFailedError: when that process failed; the message is the last line of its stderr.
        What `work` raises, when it runs here.
    """
    import keras

    if keras.backend.backend() == EXPORTER:
        work(request)
        return
    done = subprocess.run(  # noqa: S603 - a module of ours
        [sys.executable, "-m", work.__module__, TypeAdapter(PackageRequest).dump_json(request).decode()],
        env={**os.environ, "KERAS_BACKEND": EXPORTER},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise TrainingFailedError(lines[-1] if lines else "The export failed without a message: try again.")


def answer(work: Callable[[PackageRequest], None]) -> int:
    """The exit code of the process that `package_by` starts; its last line on stderr is the error."""
    request = TypeAdapter(PackageRequest).validate_json(sys.argv[1])
    prepare_keras()
    try:
        work(request)
    except SlideCascadeError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0
