"""The recipe of the bundled nuclei model is a program of its own; it is run as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from slidecascade.errors import TrainingFailedError, UnusableDataError


def run(data: Path, out: Path, *, seed: int, models_dir: Path | None) -> int:
    """Train or resume `slidecascade_training.nuclei`, then package it if asked; returns the exit code.

    Raises:
        UnusableDataError: `data` is no set of tiles with labels.
        TrainingFailedError: the program failed; what it said went to stderr.
    """
    if not (data / "index.csv").is_file():
        raise UnusableDataError(f"{data} holds no tiles with labels: make them with `dataset --from outlines`.")
    train = ["--data", str(data), "--out", str(out), "--seed", str(seed)]
    _run("slidecascade_training.nuclei", train)
    if models_dir is not None:
        where = ["--data", str(data), "--run", str(out), "--models", str(models_dir)]
        _run("slidecascade_training.nuclei_package", where)
    return 0


def _run(module: str, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)  # noqa: S603 - our own program
    if done.returncode:
        raise TrainingFailedError(f"{module} ended with code {done.returncode}; see what it said above.")
