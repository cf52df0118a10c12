"""A slide that a confined process reads, for the service.

Reads of several threads go on at the same time, each over a channel of its own: a socket, a thread at its other
end, and shared memory for the pixels, which is used again.
"""

from __future__ import annotations

import logging
import mmap
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from slidecascade.cores import usable_cores
from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides.confinedprocess import EndedError, shared_memory
from slidecascade.slides.eighths import EIGHTH
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.shortage import not_ready
from slidecascade.slides.slidetask import (
    ANSWER,
    MESSAGE_BYTES,
    Answer,
    Confined,
    Done,
    Eighth,
    Join,
    Look,
    Open,
    Opened,
    Read,
    Refused,
    Share,
)
from slidecascade.slides.source import Rgb

LOG = logging.getLogger(__name__)

LONGEST_S: Final = 120.0
"""Time for an answer. There is more for reads that look at all of a slide: at an eighth, and the first one, which
may."""

_PX_PER_S: Final = 10**7
"""Pixels of level 0 that are looked at in a second, at least."""

_SPARE_BYTES: Final = 2**30
"""Memory of a process besides the pixels that are read; the largest tile that is read takes a quarter of it."""

_COPIES: Final = 4
"""How often pixels are in the memory of a process while it reads them, at most."""

_MOST_CHANNELS: Final = 8
_CHANNEL_FILES: Final = 2
_PROCESS_FILES: Final = 3
_KEPT_BYTES: Final = 16 * 2**20
"""Shared memory that a channel keeps for its next reads; for larger ones it is made anew."""

ENDED: Final = (
    "The slide cannot be read: the process that read it ended, as it does on files made to break it; check the "
    "slide in a viewer and copy it again."
)


def most_channels() -> int:
    """How many reads of a slide go on at the same time."""
    return min(usable_cores() + 2, _MOST_CHANNELS)


def most_files() -> int:
    """File descriptors of an open slide, at most: its file, its process and the socket to it, and its channels."""
    return _PROCESS_FILES + _CHANNEL_FILES * most_channels()


class SlideProcess:
    """A confined process, its socket, and a descriptor by which it is ended; used by one thread at a time.

    Args:
        died: called when it ended by itself, or had to be.
    """

    def __init__(self, channel: socket.socket, pid: int, descriptor: int | None, died: Callable[[], None]) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._channel = channel
        self._died = died
        self._lock = threading.Lock()
        self._is_over = False
        self._cores = usable_cores()

    def await_confined(self) -> Confined:
        """Wait until it can do nothing but read its slide; raises EndedError."""
        try:
            answer = receive(self._channel, LONGEST_S)
            if not isinstance(answer, Confined):
                raise EndedError("it did not say that it is ready")
        except EndedError as error:
            self.fail(error)
            raise
        return answer

    def ask(self, task: Open | Look, *, seconds: float = LONGEST_S) -> Answer:
        """The answer to `task`; raises EndedError."""
        self.allow(0, seconds)
        _send(self._channel, task.encoded(), [])
        return receive(self._channel, seconds)

    def join(self) -> socket.socket:
        """A socket to a new thread of the process; raises EndedError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                _send(self._channel, Join().encoded(), [theirs.fileno()])
        except EndedError:
            ours.close()
            raise
        return ours

    def allow(self, memory: int, seconds: float) -> None:
        """Set the limits of memory, in bytes besides what it always may take, and of CPU time on each core."""
        with self._lock, suppress(OSError, ValueError):  # a process that has died is found out when it is used
            if self._is_over:
                return
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, 0)  # raises where another one may have its number
            used_s = time.clock_gettime(~self.pid << 3 | 2)  # its CPU time, see clock_getcpuclockid(3)
            most_s = int(used_s + seconds * self._cores) + 1
            for kind, most in ((resource.RLIMIT_DATA, _SPARE_BYTES + memory), (resource.RLIMIT_CPU, most_s)):
                _, hard = resource.prlimit(self.pid, kind)
                resource.prlimit(self.pid, kind, (most, hard))

    def fail(self, error: EndedError) -> None:
        """End it because of `error`, which is logged and counted once."""
        if self.close():
            LOG.error("decoder ended", extra={"fields": {"slide": True, **error.fields}})
            self._died()

    def close(self) -> bool:
        """End it now; False where it was ended before."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
        if self._descriptor is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            os.close(self._descriptor)
        self._channel.close()
        return True


class ConfinedSlide(FileSlide):
    """A slide that `process` has opened; ends it when it is closed."""

    def __init__(self, path: Path, opened: Opened, process: SlideProcess) -> None:
        if opened.info is None:
            raise ValueError("This slide is not open.")
        super().__init__(path, opened.info, opened.marks)
        self._process = process
        self._failed = False
        self._has_ended = False
        self._has_read = False
        self._changed = threading.Condition()
        self._idle: list[_Channel] = []
        self._channels: list[_Channel] = []
        self._most_channels = most_channels()
        self._pending_bytes = 0
        self._pending_seconds: list[float] = []

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def failed(self) -> bool:
        """See `FileSlide`; also where the process has ended."""
        return self._failed

    def read_level(self, level: int, box: Box) -> Rgb:
        """See `FileSlide`; read-only."""
        size = 3 * box.area
        answer, pixels = self._ask(Read(level=level, box=box.as_tuple(), room_bytes=size), size)
        if not isinstance(answer, Done) or answer.shape != (box.height, box.width) or pixels is None:
            raise self._ended(EndedError("it answered with other pixels"))
        return pixels

    def read_eighth(self) -> Rgb | None:
        """See `FileSlide`."""
        width, height = -(-self.size_l0.width // EIGHTH), -(-self.size_l0.height // EIGHTH)
        answer, pixels = self._ask(Eighth(room_bytes=3 * width * height), 3 * width * height)
        if not isinstance(answer, Done) or answer.shape not in ((height, width), (0, 0)):
            raise self._ended(EndedError("it answered with other pixels"))
        return pixels

    def unstored_share(self, level: int, box: Box) -> float:
        """See `FileSlide`."""
        answer, _ = self._ask(Read(level=level, box=box.as_tuple(), is_share=True), 0)
        if not isinstance(answer, Share):
            raise self._ended(EndedError("it answered something else"))
        return answer.share

    def close(self) -> None:
        """See `FileSlide`."""
        self._process.close()
        for channel in self._channels:
            channel.close()

    def _ask(self, task: Read | Eighth, pixel_bytes: int) -> tuple[Answer, Rgb | None]:
        """The answer to `task`, and the pixels that it says are there.

        Raises:
            UnreadableSlideError: the slide is damaged, or the process has ended.
            NotReadyError: there is no room to read now.
        """
        is_whole = isinstance(task, Eighth) or not self._has_read
        seconds = LONGEST_S + (self.size_l0.area / _PX_PER_S if is_whole else 0)
        try:
            with self._taken(pixel_bytes, seconds) as channel:
                answer, pixels = channel.ask(task, pixel_bytes, seconds)
        except EndedError as error:
            raise self._ended(error) from None
        except OSError as error:  # no descriptors or memory here: the process was not asked
            raise not_ready(error) from error
        self._has_read = True
        if isinstance(answer, Refused):
            self._failed = self._failed or answer.is_failed
            raise refusal(answer)
        return answer, pixels

    @contextmanager
    def _taken(self, pixel_bytes: int, seconds: float) -> Iterator[_Channel]:
        """A channel for one read of so many bytes, as soon as there is one."""
        with self._changed:
            while not self._has_ended and not self._idle and len(self._channels) >= self._most_channels:
                self._changed.wait()
            if self._has_ended:
                raise EndedError("it ended before")
            if not self._idle:
                self._channels.append(_Channel(self._process.join()))
                self._idle.append(self._channels[-1])
            channel = self._idle.pop()
            self._pending_bytes += pixel_bytes
            self._pending_seconds.append(seconds)
            # A short read must not shorten what a long one, which goes on, was given.
            self._process.allow(_COPIES * self._pending_bytes, max(self._pending_seconds))
        try:
            yield channel
        finally:
            with self._changed:
                self._pending_bytes -= pixel_bytes
                self._pending_seconds.remove(seconds)
                self._idle.append(channel)
                self._changed.notify()

    def _ended(self, error: EndedError) -> UnreadableSlideError:
        """What to raise where the process has ended, or is now; nobody waits for it any more."""
        self._process.fail(error)
        with self._changed:
            self._failed = self._has_ended = True
            self._changed.notify_all()
        return UnreadableSlideError(ENDED)


class _Channel:
    """A socket to one thread of the process, and memory that both share; used by one thread at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._room: mmap.mmap | None = None

    def ask(self, task: Read | Eighth, pixel_bytes: int, seconds: float) -> tuple[Answer, Rgb | None]:
        """The answer to `task` with room for so many pixels, and what it says is there; raises EndedError."""
        room = self._room
        with ExitStack() as opened:
            descriptors = []
            if pixel_bytes and (room is None or len(room) < task.room_bytes):
                descriptors.append(shared_memory(opened, task.room_bytes, is_sealed=True))
                room = mmap.mmap(descriptors[0], task.room_bytes)
            _send(self._channel, task.encoded(), descriptors)
        answer = receive(self._channel, seconds)
        is_kept = room is not None and len(room) <= _KEPT_BYTES
        self._room = room if is_kept else None
        if not isinstance(answer, Done) or room is None or not all(answer.shape):
            return answer, None
        height, width = answer.shape
        if height < 0 or 3 * height * width > len(room):
            raise EndedError("it answered with more pixels than there is room for")
        pixels = np.frombuffer(room, np.uint8, 3 * height * width).reshape(height, width, 3)
        if is_kept:
            return answer, pixels.copy()
        pixels.flags.writeable = False
        return answer, pixels

    def close(self) -> None:
        self._channel.close()


def refusal(answer: Refused) -> UnreadableSlideError:
    """The error of what a process says of a slide, without characters that logs and terminals would obey."""
    return UnreadableSlideError("".join(filter(str.isprintable, answer.detail)))


def receive(channel: socket.socket, seconds: float) -> Answer:
    """The next answer; raises EndedError, also for one that says that the process has failed."""
    try:
        channel.settimeout(max(0.001, seconds))
        message = channel.recv(MESSAGE_BYTES)
        answer = ANSWER.validate_json(message) if message else None
    except TimeoutError:
        raise EndedError("it took too long") from None
    except (OSError, ValidationError):
        raise EndedError("it said what it must not") from None
    if answer is None:
        raise EndedError("it died")
    if answer.kind == "fault":
        raise EndedError(answer.fault, answer.raised)
    return answer


def _send(channel: socket.socket, message: bytes, descriptors: list[int]) -> None:
    try:
        socket.send_fds(channel, [message], descriptors)
    except OSError as error:
        raise EndedError("it ended before") from error
