"""Server processes for tests, on free loopback ports, each with its own home folder."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import proc
from slidecascade.web.middleware.drain import WAITING

_DECODER = "slidecascade.slides.decoderprocess"
_SLIDES = "slidecascade.slides.slideprocess"
START_S = 180.0
STOP_S = 60.0


@dataclass
class Server:
    """A served process. Only processes started here are ever signalled, each by its own id."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged, line by line."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def metric(self, name: str) -> float:
        """The value of a series, 0 when there is none; `name` includes its labels."""
        page = httpx.get(f"{self.url}/metrics", timeout=30).text
        return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name} ")), 0.0)

    def children(self) -> dict[int, str]:
        """The processes it has started but decoders and readers of slides, by id, with their command lines."""
        return {pid: line for pid, line in self._started().items() if _DECODER not in line and _SLIDES not in line}

    def decoders(self) -> list[int]:
        """The processes in which it decodes uploads."""
        return [pid for pid, line in self._started().items() if _DECODER in line]

    def slide_template(self) -> int:
        """The process that those which read slides are forked from."""
        (pid,) = (pid for pid, line in self._started().items() if _SLIDES in line)
        return pid

    def slide_readers(self) -> list[int]:
        """The processes in which it reads slides, one for each that is open."""
        return proc.children(self.slide_template())

    def _started(self) -> dict[int, str]:
        found = {}
        for pid in proc.children(self.process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = line.replace(b"\0", b" ").decode()
        return found

    def wait(self, condition: Callable[[], bool], *, seconds: float = 30) -> None:
        ends_at = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends_at, f"not within {seconds} s; log:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.02)

    def wait_for_end_of_notice(self) -> None:
        """Wait until a draining server has kept its listener open for the notice and waits for requests only."""
        self.wait(lambda: f'"{WAITING}"' in self.log.read_text())

    def stop(self) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: its id is its group's
            self.process.wait()
            raise


class Upload:
    """A request whose body, by default a region's, is sent in two halves: in flight until the test ends it."""

    def __init__(self, server: Server, *, path: str = "/v1/regions", body: bytes | None = None) -> None:
        region = {"pipeline": "nuclei", "slide": "rendered.tiff", "region": SMALL}
        body = body or json.dumps(region).encode()
        self._rest = body[10:]
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._connection.putrequest("POST", path)
        self._connection.putheader("Content-Type", "application/json")
        self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body[:10])

    def finish(self) -> httpx.Response:
        """Send the second half; the answer."""
        self.send()
        return self.answer()

    def send(self) -> None:
        """Send the second half."""
        self._connection.send(self._rest)

    def answer(self) -> httpx.Response:
        """The answer, read to its end; the connection is closed."""
        with self._connection.getresponse() as response:
            answer = httpx.Response(response.status, headers=response.getheaders(), content=response.read())
        self.close()
        return answer

    def close(self) -> None:
        self._connection.close()


SMALL = {"x": 0, "y": 0, "width": 256, "height": 256}
StartServer = Callable[..., Server]


_PORTS = 4000
_next_port = itertools.count(os.getpid())


def free_port() -> int:
    """A port of loopback that nothing listens on and that no other worker of the test run is given.

    Below the range that the system takes ports of outgoing connections from, and a range for each worker: between
    this answer and the moment a server listens nobody else takes the port.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + _PORTS * (worker % 5)
    while True:
        port = first + next(_next_port) % _PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def environment(home: Path, **settings: object) -> dict[str, str]:
    """This process's environment without its own settings of the service, and with `settings` of it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLIDECASCADE_", "BENTOML_"))}
    mine = {f"SLIDECASCADE_{key.upper()}": str(value) for key, value in settings.items()}
    return kept | mine | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}


def launch(command: Sequence[str], *, port: int, home: Path, **settings: object) -> Server:
    """Start `command` and wait until it is ready."""
    log = home / "stderr.jsonl"
    with log.open("wb") as stderr, (home / "stdout.txt").open("wb") as stdout:
        process = subprocess.Popen(
            command, env=environment(home, **settings), stderr=stderr, stdout=stdout, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        server.wait(lambda: process.poll() is not None or _is_ready(server), seconds=START_S)
        assert process.poll() is None, log.read_text()[-3000:]
    except BaseException:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return server


def _is_ready(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
