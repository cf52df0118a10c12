"""A Postgres server of Debian's on a port of its own, for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
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


class Postgres:
    """A server with an empty data folder; `databases` are made in it one by one.

    Args:
        inside: the command that a process is started by, such as ``ip netns exec NAME``.
        host: the address that it listens on.
    """

    def __init__(self, *, inside: Sequence[str] = (), host: str = "127.0.0.1") -> None:
        self._programs = binaries()
        self._inside, self._host, self._port = list(inside), host, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="slidecascade-postgres-"))
        self._user: str | None = None
        if os.getuid() == 0:  # Postgres refuses to run as root
            self._user = USER
            shutil.chown(self.folder, USER, pwd.getpwnam(USER).pw_gid)
        data = self.folder / "data"
        make = ["initdb", "-D", str(data), "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8"]
        self._run(make)
        if host != "127.0.0.1":
            with (data / "pg_hba.conf").open("a", encoding="ascii") as file:
                file.write("host all all 10.0.0.0/8 trust\n")
        self._made = 0
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        words = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-h", self._host, "-p", str(self._port)]
        words += ["-c", "max_connections=200", "-c", "fsync=off"]
        lead = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"] if self._user else []
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._inside, *lead, str(self._programs / "postgres"), *words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        ready = ["pg_isready", "-h", str(self.folder), "-p", str(self._port), "-t", "1"]
        for _ in range(2000):
            if self._run(ready, check=False) == 0:
                return
            assert self._server.poll() is None, (self.folder / "log").read_text()
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop it at once, whoever is connected, as after a failure of power."""
        assert self._server is not None
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(60)

    def database(self) -> str:
        """The address of a new database, for processes on the address that the server listens on."""
        self._made += 1
        name = f"jobs{self._made}"
        socket = str(self.folder)
        self._run(["psql", "-h", socket, "-p", str(self._port), "-U", USER, "-c", f"CREATE DATABASE {name}"])
        return f"postgresql+psycopg://{USER}@{self._host}:{self._port}/{name}"

    def locally(self, url: str) -> str:
        """The address of the same database through the socket in the server's folder."""
        return f"postgresql+psycopg://{USER}@/{url.rpartition('/')[2]}?host={self.folder}&port={self._port}"

    def close(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            self._server.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, words: list[str], *, check: bool = True) -> int:
        command = [str(self._programs / words[0]), *words[1:]]
        done = subprocess.run(command, check=check, capture_output=True, user=self._user, cwd=self.folder)
        return done.returncode


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a running server with an empty database."""
    server = Postgres()
    try:
        yield server.database()
    finally:
        # Fast, as `close` waits for those that are connected.
        server.stop()
        server.close()
