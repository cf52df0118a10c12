"""What a call sends: bytes that can be produced once per try, of a known length."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Protocol, TypeGuard, cast
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from slidecascade_client.png import grey_png_chunks, png_chunks
from slidecascade_client.spool import spool


class PillowImage(Protocol):
    """What is needed of ``PIL.Image.Image``; the client does not depend on Pillow."""

    mode: str

    def tobytes(self) -> bytes: ...

    def save(self, fp: IO[bytes], format: str, *, compress_level: int) -> None: ...  # noqa: A002  # Pillow's name


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.uint8] | PillowImage
"""A path, the bytes of an image file, a binary file (sent from where it stands), uint8 RGB ``(H, W, 3)``
as an array or what NumPy makes one of, or an image of Pillow."""

MaskInput = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[np.uint8] | NDArray[np.uint16]
)
"""A path, the bytes of a grey PNG file, a binary file, or labels ``(H, W)`` as an array."""

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
        """The whole body from its beginning, also after a failed attempt."""
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
        TypeError: when `image` is not an `ImageInput`.
        ValueError: when an array is not uint8 RGB.
    """
    file, owned = _opened(image)
    start = file.tell()
    file.seek(0, os.SEEK_END)  # that of a memory map returns None
    file_bytes = file.tell() - start
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


def mask_body(mask: MaskInput) -> Body:
    """A mask as a PNG file; raises what `region_body` raises."""
    file, owned = (_kept(grey_png_chunks(mask)), True) if isinstance(mask, np.ndarray) else _opened(mask)
    start = file.tell()
    file.seek(0, os.SEEK_END)
    return Body("image/png", b"", file, start, file.tell() - start, b"", owns_file=owned)


def _opened(image: ImageInput) -> tuple[IO[bytes], bool]:
    """A seekable file standing where the image begins, and whether it is ours to close."""
    if isinstance(image, str | os.PathLike):
        return _opened_path(image), True
    if isinstance(image, bytes | bytearray):
        return io.BytesIO(image), True
    if isinstance(image, memoryview):
        return io.BytesIO(image if image.c_contiguous else image.tobytes()), True
    if _is_pillow(image):
        return _kept_png(image), True
    if hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
        return _kept(png_chunks(_array(image))), True
    return _opened_file(cast("BinaryIO", image))  # the service validates it


def _opened_path(path: str | os.PathLike[str]) -> IO[bytes]:
    file = open(path, "rb")  # noqa: SIM115  # the body closes it
    if file.seekable():
        return file
    with file:  # a named pipe, such as a shell's <(command)
        return _kept_blocks(file)


def _opened_file(file: BinaryIO) -> tuple[IO[bytes], bool]:
    if not hasattr(file, "read"):
        raise _no_image(file)
    if not hasattr(file, "seekable"):  # optional for memory maps and downloads
        return (file, False) if hasattr(file, "seek") and hasattr(file, "tell") else (_kept_blocks(file), True)
    if not isinstance(file.read(0), bytes):
        raise _no_image(file)
    return (file, False) if file.seekable() else (_kept_blocks(file), True)


def _kept_blocks(file: IO[bytes] | BinaryIO) -> IO[bytes]:
    """What is left of a file that cannot be rewound for a second try."""
    return _kept(iter(lambda: file.read(_BLOCK_BYTES), b""))


def _is_pillow(image: object) -> TypeGuard[PillowImage]:
    return all(hasattr(image, name) for name in ("mode", "getbands", "tobytes", "save"))


def _kept_png(image: PillowImage) -> IO[bytes]:
    """`image` as PNG in its mode; the service accepts or rejects grey, palette and alpha."""
    with spool() as file:
        try:
            image.save(file, "PNG", compress_level=1)
        except OSError as error:
            raise ValueError(
                f"An image of Pillow's mode {image.mode} has no PNG: give image.convert('RGB')."
            ) from error
    return file


def _array(image: object) -> NDArray[np.uint8]:
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise ValueError("A masked array has pixels without a value: give image.filled(255), or another value.")
    return np.asarray(image)


def _no_image(image: object) -> TypeError:
    return TypeError(
        "An image is a path, bytes, a file opened in binary mode, a uint8 array of shape (H, W, 3), or an image "
        f"of Pillow, not {type(image).__name__}."
    )


def _kept(chunks: Iterator[bytes]) -> IO[bytes]:
    """A temporary file that holds `chunks`."""
    with spool() as file:
        for chunk in chunks:
            file.write(chunk)
    return file
