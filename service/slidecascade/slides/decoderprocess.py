"""The process of `slidecascade.slides.confineddecoder`: ``python -m slidecascade.slides.decoderprocess FD``.

It reads tasks from the socket FD, each with two descriptors: of the encoded bytes, and of the memory that their
pixels go to. While it decodes it reports the rows that are there. It ends with the socket.
"""

from __future__ import annotations

import io
import mmap
import os
import resource
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import cv2
import numpy as np
from PIL import Image, features

from slidecascade.confinement import forbid_files, leave_network, limit
from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.seccomp import filter_calls
from slidecascade.slides.decodertask import MESSAGE_BYTES, STOP, Confined, Ended, Reached, Task
from slidecascade.slides.fault import raised_by
from slidecascade.slides.frame import decode_frame
from slidecascade.slides.maskpng import decode_mask
from slidecascade.slides.source import Rgb
from slidecascade.slides.stack import decode_strip
from slidecascade.slides.upload import open_image

_ANY_NUMBER: Final = 10**18
"""Of pixels: the service has checked how many there are."""


class _StoppedError(Exception):
    """The service does not want the image any more."""


class _Reporter:
    """Reports rows; `flag` is the byte of shared memory by which the service stops the work."""

    def __init__(self, channel: socket.socket, flag: memoryview) -> None:
        self._channel, self._flag = channel, flag

    def begun(self, rgb: Rgb) -> None: ...

    def reached(self, rows: int) -> None:
        """See `slidecascade.slides.canvas.Watch`."""
        if self._flag[0] == STOP:
            raise _StoppedError
        if rows:
            self._channel.send(Reached(rows=rows).encoded())


def main(arguments: Sequence[str]) -> int:
    """Confine this process, then decode until the socket closes; the exit code."""
    with socket.socket(fileno=int(arguments[0])) as channel:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        has_no_network = leave_network()
        _warm_up()
        for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 32)):
            limit(kind, most)
        has_no_files = forbid_files()
        channel.send(Confined(network=has_no_network, files=has_no_files, calls=filter_calls()).encoded())
        while _work(channel):
            pass
    return 0


def _warm_up() -> None:
    """Load what decoders load when they are first used: files cannot be opened later."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    for kind in (".png", ".jpg", ".webp", ".tiff"):
        open_image(bytes(cv2.imencode(kind, pixels)[1]), max_px=_ANY_NUMBER).decode()
    for kind, mode in (("JPEG", "CMYK"), ("TIFF", "1"), ("TIFF", "CMYK"), ("PNG", "P"), ("PNG", "LA")):
        with io.BytesIO() as stream:
            Image.new(mode, (4, 4)).save(stream, kind)
            open_image(stream.getvalue(), max_px=_ANY_NUMBER).decode()
    with suppress(UndecodableImageError):
        open_image(b"", max_px=_ANY_NUMBER)
    if features.check("jpg_2000"):
        with io.BytesIO() as stream:
            Image.new("RGB", (4, 4)).save(stream, "JPEG2000")
            decode_frame(stream.getvalue(), Size(4, 4))
    with suppress(UndecodableImageError):
        decode_frame(b"", Size(4, 4))
    raised_by(ValueError())


def _work(channel: socket.socket) -> bool:
    """One task; False when there are no more."""
    message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
    if not message:
        return False
    task = Task.model_validate_json(message)
    try:
        data = os.pread(descriptors[0], task.encoded_bytes, 0)
        shared = mmap.mmap(descriptors[1], task.shared_bytes)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    channel.send(_outcome(task, data, shared, channel).encoded())
    return True


def _outcome(task: Task, data: bytes, shared: mmap.mmap, channel: socket.socket) -> Ended:
    """The worker boundary of decoding: what a file does here is no fault of the service."""
    try:
        return _decoded(task, data, shared, channel)
    except UndecodableImageError as error:
        return Ended(damage=error.detail)
    except (_StoppedError, BrokenPipeError):
        return Ended()
    except MemoryError:
        return Ended(fault="more memory is needed than the header says")
    except Exception as error:  # noqa: BLE001 - the worker boundary
        return Ended(fault="an exception was raised", raised=raised_by(error))


def _decoded(task: Task, data: bytes, shared: mmap.mmap, channel: socket.socket) -> Ended:
    """How it ended, with the pixels in `shared`; raises UndecodableImageError, and what broken decoders raise."""
    height, width, channels = task.shape
    if task.form in ("strip", "mask"):
        size = Size(width, height)
        samples = np.frombuffer(shared, task.dtype, height * width).reshape(height, width)
        samples[...] = decode_mask(data, size) if task.form == "mask" else decode_strip(data, size, task.dtype)
        return Ended()
    pixels = np.frombuffer(shared, np.uint8, task.pixel_bytes).reshape(height, width, channels)
    if task.form == "frame":
        pixels[...] = decode_frame(data, Size(width, height))
        return Ended()
    image = open_image(data, max_px=_ANY_NUMBER)
    if image.shape != task.shape:
        return Ended(fault="the header was read in two ways")
    image.decode_into(pixels, _Reporter(channel, memoryview(shared)[task.pixel_bytes :]))
    return Ended()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
