"""Environments of the peers that cannot share ours, made once in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.process import ROOT, PeerFailedError

_MAKE_S = 900


def python_of(name: str) -> Path:
    """The Python of the environment pinned in ``requirements/peers-<name>.txt``; made on the first call.

    Raises:
        PeerFailedError: when its packages cannot be installed.
    """
    requirements = ROOT / "requirements" / f"peers-{name}.txt"
    sha = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slidecascade"
    folder = cache / f"peers-{name}-{sha}"
    if not folder.is_dir():
        _make(name, folder, requirements)
    return folder / "bin" / "python"


def _make(name: str, folder: Path, requirements: Path) -> None:
    # Beside its place, so that one left half made is never taken for whole.
    half_made = folder.with_name(f"{folder.name}.{os.getpid()}")
    python = str(half_made / "bin" / "python")
    uv = [sys.executable, "-m", "uv"]
    try:
        _must(name, [*uv, "venv", "-q", "--python", sys.executable, str(half_made)])
        # Compiled now: servers of many processes would each compile it at their start.
        _must(
            name, [*uv, "pip", "install", "-q", "--compile-bytecode", "--python", python, "-r", str(requirements)]
        )
        half_made.rename(folder)
    finally:
        shutil.rmtree(half_made, ignore_errors=True)


def _must(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE_S, check=False)
    if done.returncode:
        raise PeerFailedError(f"The environment of {name} cannot be made: {done.stderr.strip()[-500:]}")
