"""A hanging process is distinguished from a working one and from an exited one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import pytest

from slidecascade.hosting import heartbeat
from slidecascade.hosting.heartbeat import watch_heartbeats

BEAT_S = 0.1
BEATING = f"""
import asyncio, os, sys
from slidecascade.hosting import heartbeat
heartbeat.BEAT_S = {BEAT_S}
async def main():
    heartbeat.send_heartbeats(1)
    loop, read = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, read.set)
    await read.wait()
    exec(sys.stdin.read(), dict())
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", BEAT_S)


@contextmanager
def beating() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process that beats until it reads code, which it runs on its event loop; and what it beats over."""
    command = [sys.executable, "-c", BEATING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        pipe = cast("IO[bytes]", process.stdout)
        assert pipe.read(1) == b"."
        yield process, pipe
        process.kill()


def run_there(process: subprocess.Popen[bytes], code: str) -> None:
    with cast("IO[bytes]", process.stdin) as stdin:
        stdin.write(code.encode())


def test_an_exit_is_not_a_hang() -> None:
    """However it ends, after however many beats."""
    with beating() as (process, pipe):
        threading.Timer(2 * heartbeat.IDLE_BEATS * BEAT_S, process.kill).start()
        assert watch_heartbeats(process.pid, pipe)


def test_a_stopped_process_hangs() -> None:
    """It neither exits nor continues."""
    with beating() as (process, pipe):
        os.kill(process.pid, signal.SIGSTOP)
        assert not watch_heartbeats(process.pid, pipe)
        assert process.poll() is None


def test_an_event_loop_that_waits_hangs() -> None:
    """As when it calls what never returns."""
    with beating() as (process, pipe):
        run_there(process, "import threading; threading.Event().wait()")
        assert not watch_heartbeats(process.pid, pipe)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much a process has worked")
def test_a_process_that_works_is_given_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several times what makes an idle one hang; it may have much to do, or little of the machine."""
    monkeypatch.setattr(heartbeat, "BUSY_BEATS", 10_000)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.3)  # the system counts work in hundredths of a second
    seconds = 3 * heartbeat.IDLE_BEATS * heartbeat.BEAT_S
    work = f"import time\nends = time.monotonic() + {seconds}\nwhile time.monotonic() < ends: pass"
    with beating() as (process, pipe):
        run_there(process, work)
        assert watch_heartbeats(process.pid, pipe)
        assert process.wait() == 0


def test_a_process_that_works_without_end_hangs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers do not wait for it indefinitely."""
    monkeypatch.setattr(heartbeat, "BUSY_BEATS", 6)
    with beating() as (process, pipe):
        run_there(process, "while True: pass")
        assert not watch_heartbeats(process.pid, pipe)
