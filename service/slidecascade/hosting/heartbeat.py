"""A heartbeat between processes: shows that an event loop is running, and detects that it hangs.

The sender writes a byte per second to a pipe. A stopped process, or one whose event loop is blocked, sends none
and uses no CPU time: it hangs. One that sends none but uses CPU time may be overloaded and is allowed more time.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from contextlib import suppress
from pathlib import Path
from typing import IO

BEAT_S = 1.0
"""Interval between heartbeats, and between checks."""

IDLE_BEATS = 4
"""Consecutive missed heartbeats without CPU time that count as a hang."""

BUSY_BEATS = 30
"""Consecutive missed heartbeats that count as a hang while CPU time is used or unknown."""

_LARGEST_READ = 4096


def send_heartbeats(handle: int) -> None:
    """Write a heartbeat to the pipe `handle` every `BEAT_S` while the running event loop runs."""
    os.set_blocking(handle, False)
    loop = asyncio.get_running_loop()

    def beat() -> None:
        # A pipe without a reader fills up; when the parent has exited, this process exits by other means.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(handle, b".")
        loop.call_later(BEAT_S, beat)

    beat()


def watch_heartbeats(pid: int, pipe: IO[bytes]) -> bool:
    """Read heartbeats of the process `pid` from `pipe`: True when the pipe closes, False when the process hangs.

    Time is counted in checks, so that a pause of this process is not taken for a hang of the other.
    """
    missed = idle = 0
    cpu_s = _cpu_time_s(pid)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while missed < BUSY_BEATS and idle < IDLE_BEATS:
            if selector.select(BEAT_S):
                if not os.read(pipe.fileno(), _LARGEST_READ):
                    return True
                missed = idle = 0
                continue
            before_s, cpu_s = cpu_s, _cpu_time_s(pid)
            # CPU time has a resolution of 10 ms, so occasional wake-ups in a hanging process do not count.
            works = before_s is None or cpu_s is None or cpu_s > before_s
            missed, idle = missed + 1, 0 if works else idle + 1
    return False


def _cpu_time_s(pid: int) -> float | None:
    """The CPU time of a process and its threads in seconds; None where /proc is not available."""
    try:
        # The fields after the name, which may contain anything; utime and stime are the 12th and 13th of them.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
