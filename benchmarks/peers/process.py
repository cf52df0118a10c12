"""Servers of peers: started on a free loopback port, waited for, held still, and ended with all they started."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidecascade.privacy import SWITCHES

START_S = 180.0
STOP_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("service", "training", "converters", "clients", ".")
_LOOK_S = 0.2


class PeerFailedError(Exception):
    """A peer did not start or did not answer; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process; when it started distinguishes it from a later one of the same number."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """None when there is no such process."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else cls(pid, int(fields[19]))

    def family(self) -> list[Process]:
        """This process and all that descend from it, parents first."""
        found = [self]
        with contextlib.suppress(OSError):  # it may end meanwhile
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                for child in (task / "children").read_text(encoding="ascii").split():
                    process = Process.of(int(child))
                    found += process.family() if process else []
        return found

    def cpu_s(self) -> float:
        """Processor seconds of this process and all that descend from it and still run."""
        ticks = 0
        for member in self.family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{member.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def send(self, number: signal.Signals) -> None:
        if Process.of(self.pid) == self:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of the service, and with the sources to import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLIDECASCADE_", "BENTOML_"))}
    sources = os.pathsep.join(str(ROOT / name) for name in SOURCES)
    # Every contender runs the same graphs, and those of others are float32.
    return kept | {**SWITCHES, "PYTHONPATH": sources, "SLIDECASCADE_PRECISION": "float32"} | more


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], *, port: int, ready: str, folder: Path, variables: Mapping[str, str]
) -> Iterator[Process]:
    """`command` until the end of the block; begins when ``GET ready`` is answered with 200.

    Raises:
        PeerFailedError: when it ended or was not ready in time; with the end of what it wrote.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, env=variables, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    process = Process.of(child.pid)
    try:
        ends_at = time.monotonic() + START_S
        while not _answers(port, ready):
            if child.poll() is not None or time.monotonic() > ends_at:
                tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise PeerFailedError(f"{name} did not start; it wrote:\n{tail}")
            time.sleep(_LOOK_S)
        assert process is not None  # noqa: S101 - it answers
        yield process
    finally:
        end(process.family() if process else [], child)


def end(family: Sequence[Process], child: subprocess.Popen[bytes]) -> None:
    """Ask the first of `family` to end, and end by their own ids those that are left."""
    for process in family:
        process.send(signal.SIGCONT)
    if child.poll() is None:
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_S)
    for process in family:
        process.send(signal.SIGKILL)
    child.wait()


def hold(process: Process) -> None:
    """Stop a family where it stands, so that it takes nothing from the one that is measured."""
    for member in process.family():
        member.send(signal.SIGSTOP)


def release(process: Process) -> None:
    """Let a family go on."""
    for member in process.family():
        member.send(signal.SIGCONT)


def _answers(port: int, path: str) -> bool:
    try:
        return ask(port, "GET", path, b"", {}).status == http.client.OK
    except OSError:
        return False
    except http.client.HTTPException:
        return False


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes


def ask(
    port: int, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float = 600
) -> Reply:
    """One request on a connection of its own: on loopback that costs less than a stale one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body or None, dict(headers))
        with connection.getresponse() as response:
            return Reply(response.status, response.read())
    finally:
        connection.close()
