"""The processes of `slidecascade.slides.confinedslides`: ``python -m slidecascade.slides.slideprocess FD``.

The first is a template, which has imported everything and reads no slide: at each `Start` from the socket FD it
forks one that does. That one confines itself, and then opens one slide and reads it for as many threads as there
are sockets to it, or looks at the formats of files. Each process ends with its first socket.
"""

from __future__ import annotations

import gc
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from slidecascade.confinement import forbid_files, leave_network, limit
from slidecascade.cores import usable_cores
from slidecascade.errors import UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.heaps import share_heaps
from slidecascade.seccomp import filter_calls
from slidecascade.slides import jpeg, tiff
from slidecascade.slides.fault import raised_by
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.slide import Slide, TileCache, can_open
from slidecascade.slides.slidetask import (
    MESSAGE_BYTES,
    TASK,
    Answer,
    Confined,
    Done,
    Eighth,
    Fault,
    Join,
    Look,
    Looked,
    Open,
    Opened,
    Read,
    Ready,
    Refused,
    Share,
    Start,
    Started,
)
from slidecascade.slides.source import Rgb

TILE_CACHE_BYTES: Final = 32 * 2**20
"""Decoded tiles kept for the slide of a process: as many as OpenSlide keeps for a slide by default."""

_SIDE_PX: Final = 16


def main(arguments: Sequence[str]) -> int:
    """Fork processes until the socket closes; the exit code."""
    with socket.socket(fileno=int(arguments[0])) as control:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        share_heaps()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
        has_no_network = leave_network()
        _warm_up()
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            limit(kind, 0)
        cores = usable_cores()
        gc.collect()
        gc.freeze()  # pages of what is there now stay shared
        control.send(Ready(network=has_no_network).encoded())
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            if not message:
                return 0
            pid = os.fork()
            if pid == 0:
                _run(control, Start.model_validate_json(message), descriptors, cores)
            _report(control, pid)
            for descriptor in descriptors:
                os.close(descriptor)


def _warm_up() -> None:
    """Load what is loaded when it is first used, which cannot be opened later; no thread is left.

    A damaged slide is read too, so that the errors are there.
    """
    for tile in (jpeg.encode(np.zeros((_SIDE_PX, _SIDE_PX, 3), np.uint8), quality=90), b"no JPEG"):
        with ExitStack() as opened, suppress(UnreadableSlideError):
            file = HeldFile(os.memfd_create("slide"), Path("slide.tiff"))
            opened.callback(file.close)
            os.write(file.descriptor, _slide_of(tile))
            slide = Slide.open_held(file, Path("slide.tiff"), cache=TileCache(TILE_CACHE_BYTES))
            if slide is not None:
                opened.callback(slide.close)
                slide.read_eighth(1)
                slide.unstored_share(0, Box(0, 0, 1, 1))
    can_open(Path("/dev/null"))
    raised_by(ValueError())


def _slide_of(tile: bytes) -> bytes:
    """A tiled TIFF of one tile in JPEG."""
    fields = {
        tiff.WIDTH: _SIDE_PX,
        tiff.HEIGHT: _SIDE_PX,
        tiff.TILE_WIDTH: _SIDE_PX,
        tiff.TILE_HEIGHT: _SIDE_PX,
        tiff.COMPRESSION: tiff.JPEG_COMPRESSION,
        tiff.PHOTOMETRIC: tiff.YCBCR,
        tiff.SAMPLES: 3,
        tiff.BITS: 0,
        tiff.TILE_OFFSETS: 0,
        tiff.TILE_BYTES: len(tile),
    }
    end = 8 + 2 + 12 * len(fields) + 4
    fields |= {tiff.BITS: end, tiff.TILE_OFFSETS: end + 6}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()) if tag != tiff.BITS]
    entries.insert(2, struct.pack("<HHII", tiff.BITS, 3, 3, end))
    head = b"II" + struct.pack("<HIH", 42, 8, len(entries))
    return b"".join([head, *entries, bytes(4), struct.pack("<HHH", 8, 8, 8), tile])


def _report(control: socket.socket, pid: int) -> None:
    """Send a descriptor of the new process, which may have ended already."""
    held = []
    with suppress(OSError):
        held.append(os.pidfd_open(pid))
    socket.send_fds(control, [Started(pid=pid).encoded()], held)
    for descriptor in held:
        os.close(descriptor)


def _run(control: socket.socket, start: Start, descriptors: list[int], cores: int) -> None:
    """The life of a forked process, which never returns to what the template was doing."""
    try:
        control.close()
        channel = socket.socket(fileno=descriptors[0])
        files = descriptors[1:]
        folders = []
        for folder in start.folders:
            with suppress(OSError):  # it is gone, or something else is in its place: nothing in it can be read
                folders.append(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
        has_no_files = forbid_files((*files, *folders))
        for descriptor in folders:
            os.close(descriptor)
        has_no_calls = filter_calls(reads_files=True)
        channel.send(Confined(files=has_no_files, calls=has_no_calls).encoded())
        _Reader(channel, files[0] if files else None, cores).serve()
    finally:
        os._exit(0)  # threads that still read would be waited for


class _Reader:
    """One slide, or none yet; `file` is the descriptor of its file, if that is held."""

    def __init__(self, channel: socket.socket, file: int | None, cores: int) -> None:
        self._channel = channel
        self._file = file
        self._cores = cores
        self._slide: Slide | None = None

    def serve(self) -> None:
        """Answer at the first socket until it closes."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, 1)
            if not message:
                return
            task = TASK.validate_json(message)
            if isinstance(task, Join):
                threading.Thread(target=self._serve_readers, args=descriptors, daemon=True).start()
            else:
                self._channel.send(self._outcome(task, None).encoded())

    def _serve_readers(self, descriptor: int) -> None:
        """Answer at another socket until the process ends."""
        room: mmap.mmap | None = None
        try:
            # What it is cannot be asked any more.
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)
            while True:
                message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
                task = TASK.validate_json(message)
                if descriptors:
                    size = task.room_bytes if isinstance(task, Read | Eighth) else 0
                    room = mmap.mmap(descriptors[0], size)
                    os.close(descriptors[0])
                channel.send(self._outcome(task, room).encoded())
        finally:
            os._exit(0)  # the service has closed it, or would wait for an answer in vain

    def _outcome(self, task: Open | Look | Join | Read | Eighth, room: mmap.mmap | None) -> Answer:
        """The worker boundary: what a file does here is no fault of the service."""
        try:
            return self._done(task, room)
        except UnreadableSlideError as error:
            return Refused(detail=error.detail, is_failed=self._slide is not None and self._slide.failed)
        except MemoryError:
            return Fault(fault="more memory is needed than a slide may take")
        except Exception as error:  # noqa: BLE001 - the worker boundary
            return Fault(fault="an exception was raised", raised=raised_by(error))

    def _done(self, task: Open | Look | Join | Read | Eighth, room: mmap.mmap | None) -> Answer:
        match task:
            case Open():
                return self._open(task)
            case Look():
                return Looked(is_slide=can_open(Path(os.fsdecode(task.path))))
            case Read() if self._slide is not None:
                box = Box(*task.box)
                if task.is_share:
                    return Share(share=self._slide.unstored_share(task.level, box))
                return _placed(self._slide.read_level(task.level, box), room)
            case Eighth() if self._slide is not None:
                pixels = self._slide.read_eighth(self._cores)
                return Done(shape=(0, 0)) if pixels is None else _placed(pixels, room)
        return Fault(fault="this is not to be asked now")

    def _open(self, task: Open) -> Opened:
        path, cache = Path(os.fsdecode(task.path)), TileCache(TILE_CACHE_BYTES)
        if task.is_held and self._file is not None:
            self._slide = Slide.open_held(HeldFile(self._file, path), path, cache=cache)
        else:
            self._slide = Slide.open(path, cache=cache)
        if self._slide is None:
            return Opened(info=None)
        return Opened(info=self._slide.info, marks=self._slide.marks)


def _placed(pixels: Rgb, room: mmap.mmap | None) -> Answer:
    """Pixels in shared memory."""
    height, width, _ = pixels.shape
    if room is None or pixels.nbytes > len(room):
        return Fault(fault="there is no room for the pixels")
    np.copyto(np.frombuffer(room, np.uint8, pixels.nbytes).reshape(pixels.shape), pixels)
    return Done(shape=(height, width))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
