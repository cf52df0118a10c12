"""What a call sends: bytes that can be produced once per try, of a known length."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from slidecascade_client.png import png_chunks
from slidecascade_client.spool import spool

ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.uint8]
"""A path, the bytes of an image file, a binary file (sent from where it stands), or uint8 RGB ``(H, W, 3)``."""

_BLOCK_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Body:
    """`before`, then `size_bytes - len(before) - len(after)` bytes of `file` from `start`, then `after`.

    `file` is closed by `close` when the body owns it; a file of the caller stays open.
    """

    content_type: str
    before: bytes
    file: IO[bytes]
    start: int
    file_bytes: int
    after: bytes
    owns_file: bool

    @property
    def size_bytes(self) -> int:
        return len(self.before) + self.file_bytes + len(self.after)

    def chunks(self) -> Iterator[bytes]:
        """The whole body from its beginning, whatever an earlier try has read."""
        yield self.before
        self.file.seek(self.start)
        left = self.file_bytes
        while left and (block := self.file.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            yield block
        if left:
            raise OSError("The image became shorter while it was being sent.")
        yield self.after

    def close(self) -> None:
        if self.owns_file:
            self.file.close()


def json_body(document: str) -> Body:
    """`document`, already JSON, as a request body."""
    return Body("application/json", document.encode(), io.BytesIO(), 0, 0, b"", owns_file=True)


def region_body(image: ImageInput, document: str) -> Body:
    """A multipart form with `document` (JSON) as part ``request`` and the image as part ``image``.

    The image's file name is not sent: it may name a patient.

    Raises:
        OSError: when a path cannot be opened.
        TypeError: when `image` is none of `ImageInput`.
        ValueError: when an array is not uint8 RGB.
    """
    file, owned = _opened(image)
    start = file.tell()
    file_bytes = file.seek(0, os.SEEK_END) - start
    boundary = uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="request"\r\n'
        f"Content-Type: application/json\r\n\r\n{document}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return Body(
        content_type=f"multipart/form-data; boundary={boundary}",
        before=head.encode(),
        file=file,
        start=start,
        file_bytes=file_bytes,
        after=f"\r\n--{boundary}--\r\n".encode(),
        owns_file=owned,
    )


def _opened(image: ImageInput) -> tuple[IO[bytes], bool]:
    """A seekable file standing where the image begins, and whether it is ours to close."""
    if isinstance(image, str | os.PathLike):
        return open(image, "rb"), True
    if isinstance(image, bytes | bytearray | memoryview):
        return io.BytesIO(image), True
    if isinstance(image, np.ndarray):
        return _kept(png_chunks(image)), True
    if not hasattr(image, "read") or not isinstance(image.read(0), bytes):
        raise TypeError(
            "An image is a path, bytes, a file opened in binary mode, or a uint8 array of shape (H, W, 3), "
            f"not {type(image).__name__}."
        )
    if image.seekable():
        return image, False
    # A pipe cannot be rewound for a second try, so its content is kept.
    return _kept(iter(lambda: image.read(_BLOCK_BYTES), b"")), True


def _kept(chunks: Iterator[bytes]) -> IO[bytes]:
    """A temporary file that holds `chunks`."""
    with spool() as file:
        for chunk in chunks:
            file.write(chunk)
    return file
