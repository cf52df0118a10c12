"""How a process shows another that its event loop turns, and how the other notices that it does not.

A byte a second over a pipe. A process that is stopped, or whose event loop waits for something that never comes,
sends none and does no work: it hangs. One that sends none but works may have much to do, or little of the machine:
it is given longer.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from contextlib import suppress
from pathlib import Path
from typing import IO

BEAT_S = 1.0
"""From one beat to the next, and between two looks."""

IDLE_BEATS = 4
"""So many beats missed in a row by a process that does no work are a hang."""

BUSY_BEATS = 30
"""So many missed by one that works, or of which that is not known."""

_LARGEST_READ = 4096


def keep_beating(handle: int) -> None:
    """Beat over the pipe `handle` for as long as the running event loop turns."""
    os.set_blocking(handle, False)
    loop = asyncio.get_running_loop()

    def beat() -> None:
        # A pipe that nobody reads is full some day; one whose reader has gone ends this process by other means.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(handle, b".")
        loop.call_later(BEAT_S, beat)

    beat()


def beats_to_its_end(pid: int, pipe: IO[bytes]) -> bool:
    """Wait while the process `pid` beats over `pipe`: True when the pipe ends, False when the process hangs.

    Time is counted in looks, so that when this process was itself stopped for a while nobody is blamed for it.
    """
    missed = idle = 0
    worked_s = _worked_s(pid)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while missed < BUSY_BEATS and idle < IDLE_BEATS:
            if selector.select(BEAT_S):
                if not os.read(pipe.fileno(), _LARGEST_READ):
                    return True
                missed = idle = 0
                continue
            before_s, worked_s = worked_s, _worked_s(pid)
            # Known in hundredths of a second: threads of a process that hangs may wake up now and then.
            works = before_s is None or worked_s is None or worked_s > before_s
            missed, idle = missed + 1, 0 if works else idle + 1
    return False


def _worked_s(pid: int) -> float | None:
    """The processor time of a process and its threads in seconds; None where the system does not say."""
    try:
        # After the name, which may hold anything: state, and as 12th and 13th of the rest the time used.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
