"""A Postgres server of Debian's on a port of its own, for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from served_process import free_port

USER = "postgres"


def binaries() -> Path:
    """The newest installed server's programs; the test is skipped where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        pytest.skip("Debian's package postgresql is not installed")
    return found[-1]


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a running server with an empty database."""
    programs = binaries()
    folder = Path(tempfile.mkdtemp(prefix="slidecascade-postgres-"))
    user = None
    if os.getuid() == 0:  # Postgres refuses to run as root
        user = USER
        shutil.chown(folder, user, pwd.getpwnam(USER).pw_gid)
    data, port = folder / "data", free_port()
    make = [str(programs / "initdb"), "-D", str(data), "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(make, check=True, capture_output=True, user=user, cwd=folder)
    words = ["-D", str(data), "-k", str(folder), "-h", "127.0.0.1", "-p", str(port), "-c", "max_connections=200"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(programs / "postgres"), *words], stdout=log, stderr=log, user=user, cwd=folder
        )
    try:
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
        for _ in range(2000):
            if subprocess.run(ready, check=False, capture_output=True).returncode == 0:
                break
            assert server.poll() is None, (folder / "log").read_text()
        yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{USER}"
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
