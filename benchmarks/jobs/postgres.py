"""A Postgres server of Debian's for the time of a measurement, on a socket of its own, durable as by default."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_USER: Final = "postgres"
_READY_S: Final = 60.0


@contextmanager
def databases() -> Iterator[Callable[[], str] | None]:
    """Each call makes an empty database and returns its address; None where Postgres is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not installed:
        yield None
        return
    programs, folder = installed[-1], Path(tempfile.mkdtemp(prefix="slidecascade-postgres-"))
    user = _USER if os.getuid() == 0 else None  # Postgres refuses to run as root
    if user is not None:
        shutil.chown(folder, user, user)
    made = 0

    def run(name: str, *words: str) -> int:
        return subprocess.run(
            [programs / name, *words], capture_output=True, user=user, cwd=folder, check=False
        ).returncode

    def create() -> str:
        nonlocal made
        made += 1
        run("createdb", "-h", str(folder), "-U", _USER, f"jobs{made}")
        return f"postgresql+psycopg://{_USER}@/jobs{made}?host={folder}"

    run("initdb", "-D", str(folder / "data"), "-U", _USER, "--auth=trust", "-E", "UTF8")
    command = [
        str(programs / "postgres"),
        "-D",
        str(folder / "data"),
        "-k",
        str(folder),
        "-h",
        "",
        "-c",
        "max_connections=200",
    ]
    server = subprocess.Popen(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends_at = time.monotonic() + _READY_S
        while run("pg_isready", "-h", str(folder), "-t", "1"):
            if server.poll() is not None or time.monotonic() > ends_at:
                raise SystemExit("Postgres does not start: run its `postgres` by hand to see why.")
        yield create
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
