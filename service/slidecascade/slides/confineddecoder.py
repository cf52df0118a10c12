"""Decodes uploads in a few processes that may do nothing but decode, so that a broken decoder breaks nothing else.

A process gets the encoded bytes and the memory of the pixels as descriptors, decodes right into it, and reports
its rows while it works: nothing is copied back, and tiles begin meanwhile. One that dies or misbehaves takes its
image with it and is replaced. How they are confined: `slidecascade.slides.decoderprocess`, `docs/threat-model.md`.
"""

from __future__ import annotations

import logging
import mmap
import os
import queue
import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from slidecascade.errors import NotReadyError, UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.slides.canvas import UNWATCHED, Watch
from slidecascade.slides.channels import Samples
from slidecascade.slides.confinedprocess import EndedError, StartedProcess, shared_memory
from slidecascade.slides.decoder import DIRECT, Decoder
from slidecascade.slides.decodertask import ANSWER, MESSAGE_BYTES, STOP, Confined, Ended, Reached, Task
from slidecascade.slides.shortage import not_ready
from slidecascade.slides.source import Rgb
from slidecascade.slides.upload import EncodedImage

LOG = logging.getLogger(__name__)

START_S: Final = 60.0
LONGEST_S: Final = 120.0
"""Time for one image: the largest that settings allow takes a few seconds."""

_STOP_S: Final = 1.0
"""Time to stop decoding an image that is not wanted any more; then the process is killed."""

_WAIT_S: Final = 0.2
_SPARE_BYTES: Final = 256 * 2**20
"""Memory of a process besides what the header of an image says that decoding takes."""

_FRAME_COPIES: Final = 16
"""Bytes that decoding JPEG 2000 takes for each of the pixels, at most: OpenJPEG has samples of 32 bits, twice."""

_PROGRAM: Final = "slidecascade.slides.decoderprocess"


class ConfinedDecoder:
    """A `Decoder` of `processes` processes, which are started at once and are ready a moment later.

    Args:
        died: called when a process ended while it decoded.
    """

    upload_copies = 2

    def __init__(self, processes: int, *, retry_after_s: int, died: Callable[[], None]) -> None:
        self._retry_after_s = retry_after_s
        self._died = died
        # The one used last first: its memory is warm.
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(_Process())
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The processes that decode nothing at the moment."""
        return [process.pid for process in self._idle.queue]

    def pixels(self, image: EncodedImage, watch: Watch = UNWATCHED) -> Rgb:
        """See `slidecascade.slides.decoder.Decoder`."""
        task = Task(encoded_bytes=len(image.data), shape=image.shape)
        found: Rgb = self._decoded(task, image.data, watch, image.header.decoder_bytes)
        return found

    def mask(self, image: EncodedImage, watch: Watch = UNWATCHED) -> NDArray[np.uint16]:
        """See `slidecascade.slides.decoder.Decoder`."""
        size = image.header.size
        shape = (size.height, size.width, 1)
        task = Task(encoded_bytes=len(image.data), shape=shape, dtype="uint16", form="mask")
        decoder_bytes = task.pixel_bytes + image.header.decoder_bytes
        found: NDArray[np.uint16] = self._decoded(task, image.data, watch, decoder_bytes)[..., 0]
        return found

    def strip(self, data: bytes, size: Size, dtype: str) -> Samples:
        """See `slidecascade.slides.decoder.Decoder`."""
        kind: Literal["uint8", "uint16"] = "uint16" if dtype == "uint16" else "uint8"
        shape = (size.height, size.width, 1)
        task = Task(encoded_bytes=len(data), shape=shape, dtype=kind, form="strip")
        return self._decoded(task, data, UNWATCHED, 2 * task.pixel_bytes)[..., 0]

    def frame(self, data: bytes, size: Size) -> Rgb:
        """See `slidecascade.slides.decoder.Decoder`."""
        task = Task(encoded_bytes=len(data), shape=(size.height, size.width, 3), form="frame")
        found: Rgb = self._decoded(task, data, UNWATCHED, _FRAME_COPIES * task.pixel_bytes)
        return found

    def _decoded(self, task: Task, data: bytes, watch: Watch, decoder_bytes: int) -> NDArray[Any]:
        """The pixels of an image, for which the process may take `decoder_bytes` besides them and `data`."""
        process = self._take(watch)
        try:
            process.await_ready()
            return process.decode(task, data, watch, decoder_bytes)
        except EndedError as error:
            ready = process.confined is not None
            fields = {"form": task.form, "code": process.kill(), **error.fields}
            LOG.error("decoder ended" if ready else "decoder did not start", extra={"fields": fields})
            self._died()
            if not ready:
                raise NotReadyError(
                    "No process to decode images could be started: ask the operator to look at the log.",
                    retry_after_s=self._retry_after_s,
                ) from None
            raise UndecodableImageError(
                "The image cannot be decoded: the decoder ended on it, as it does on data made to break it; save "
                "it again with another program."
            ) from None
        except OSError as error:  # no descriptors or memory here: the process was not asked
            raise not_ready(error) from error
        finally:
            self._idle.put(_alive(process) or process)
            if self._closed:
                self.close()

    def _take(self, watch: Watch) -> _Process:
        """A process that nobody uses, as soon as there is one; `watch` may end the waiting."""
        while True:
            with suppress(queue.Empty):
                found = self._idle.get(timeout=_WAIT_S)
                if (process := _alive(found)) is not None:
                    return process
                self._idle.put(found)  # it is replaced when that is possible
                raise NotReadyError(
                    "No process to decode images could be started: ask the operator to look at the log.",
                    retry_after_s=self._retry_after_s,
                )
            watch.reached(0)

    def close(self) -> None:
        """End all processes; what they decode is lost."""
        self._closed = True
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().kill()


def open_decoder(processes: int, *, retry_after_s: int, died: Callable[[], None]) -> Decoder:
    """A `ConfinedDecoder`, or with no processes one that decodes in this process."""
    return ConfinedDecoder(processes, retry_after_s=retry_after_s, died=died) if processes else DIRECT


def _alive(process: _Process) -> _Process | None:
    """`process`, or a new one where it has ended; None where none can be started."""
    if process.is_alive:
        return process
    process.kill()  # its socket is open still
    try:
        return _Process()
    except OSError:
        LOG.exception("a decoder cannot be started")
        return None


class _Process(StartedProcess):
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        super().__init__(_PROGRAM)
        self.confined: Confined | None = None

    def await_ready(self) -> None:
        """Wait until it is confined; raises EndedError when it cannot start."""
        if self.confined is None:
            answer = self._receive(time.monotonic() + START_S)
            if not isinstance(answer, Confined):
                raise EndedError("it did not say that it is ready")
            self.confined = answer
            LOG.info("decoder ready", extra={"fields": answer.model_dump(exclude={"kind"})})

    def decode(self, task: Task, data: bytes, watch: Watch, decoder_bytes: int) -> NDArray[Any]:
        """What `task` asks for; raises UndecodableImageError, EndedError, and what `watch` raises."""
        self._allow(_SPARE_BYTES + len(data) + decoder_bytes)
        with ExitStack() as opened:
            encoded = shared_memory(opened, task.encoded_bytes)
            left = memoryview(data)
            while left:
                left = left[os.write(encoded, left) :]
            room = shared_memory(opened, task.shared_bytes, is_sealed=True)
            shared = mmap.mmap(room, task.shared_bytes)
            self._send(task, encoded, room)
        pixels = np.frombuffer(memoryview(shared)[: task.pixel_bytes], task.dtype).reshape(task.shape)
        pixels.flags.writeable = False
        watch.begun(pixels)
        try:
            end = self._follow(task, watch)
        except EndedError:
            raise
        except BaseException:
            shared[task.pixel_bytes] = STOP
            self._await_end()
            raise
        if end.damage is not None:
            raise UndecodableImageError("".join(filter(str.isprintable, end.damage)))
        if end.fault is not None:
            raise EndedError(end.fault, end.raised)
        return pixels

    def _follow(self, task: Task, watch: Watch) -> Ended:
        """Report rows to `watch` until the task has ended."""
        ends_at, rows = time.monotonic() + LONGEST_S, 0
        while isinstance(answer := self._receive(ends_at), Reached):
            if not rows <= answer.rows <= task.shape[0]:
                raise EndedError("it reported rows that the image does not have")
            rows = answer.rows
            watch.reached(rows)
        if not isinstance(answer, Ended):
            raise EndedError("it started a second time")
        return answer

    def _await_end(self) -> None:
        """Wait a moment for the end of a task, after which the process can be used again; else it is killed."""
        ends_at = time.monotonic() + _STOP_S
        try:
            while not isinstance(self._receive(ends_at), Ended):
                pass
        except EndedError:
            self.kill()

    def _allow(self, memory: int) -> None:
        """Set the limits of CPU time, and of memory in bytes, for one image."""
        with suppress(OSError, ValueError):  # a process that has died is found out when it is used
            used_s = time.clock_gettime(~self._process.pid << 3 | 2)  # its CPU time, see clock_getcpuclockid(3)
            for kind, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, int(used_s + LONGEST_S))):
                _, hard = resource.prlimit(self._process.pid, kind)
                resource.prlimit(self._process.pid, kind, (most, hard))

    def _send(self, task: Task, encoded: int, room: int) -> None:
        try:
            socket.send_fds(self._channel, [task.encoded()], [encoded, room])
        except OSError as error:
            raise EndedError("it ended before") from error

    def _receive(self, ends_at: float) -> Confined | Reached | Ended:
        try:
            self._channel.settimeout(max(0.001, ends_at - time.monotonic()))
            message = self._channel.recv(MESSAGE_BYTES)
            if message:
                return ANSWER.validate_json(message)
        except TimeoutError:
            raise EndedError("it took too long") from None
        except (OSError, ValidationError):
            raise EndedError("it said what it must not") from None
        raise EndedError("it died")
