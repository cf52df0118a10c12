"""Images that were sent with a job: written to the job's folder as they arrive, and kept until it is deleted.

=====================  ====================================================================================
file                   content
=====================  ====================================================================================
``upload.tiff``        the bytes that were sent, when they are a stack of channels or OpenSlide reads them: a slide
``upload.rgb``         else the decoded pixels, uint8 RGB row by row, which all processes map into memory
``upload.json``        their size, and the content id of the bytes they came from
=====================  ====================================================================================

Only TIFF is passed to OpenSlide: its other formats name further files, which a stranger's upload must not do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from slidecascade.errors import StorageFullError, UnreadableSlideError, UploadTooLargeError
from slidecascade.slides.stackimage import is_stack
from slidecascade.slides.upload import RegionImage
from slidecascade.staging import make_folder, write_file, writing_to

_SLIDE: Final = "upload.tiff"
_PIXELS: Final = "upload.rgb"
_ABOUT: Final = "upload.json"
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LOOK_BYTES: Final = 64 * 2**20
"""How much is written between two looks at the room on the disk."""

_BLOCK_PX: Final = 2**22


class _About(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    height: int
    digest: str


class Upload:
    """An image that arrives for the job `job`, which does not exist yet; one thread at a time.

    Args:
        folder: of the job, made here.
        min_free_bytes: less on the disk is full.

    Raises:
        StorageFullError: the folder cannot be made.
    """

    def __init__(self, folder: Path, job: str, *, min_free_bytes: int) -> None:
        self.job = job
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._digest = hashlib.sha256()
        self._looked_at = 0
        self.size_bytes = 0
        try:
            make_folder(folder)
            self._file: BinaryIO = (folder / _SLIDE).open("xb")
        except OSError as error:
            raise _full() from error

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            StorageFullError: there is no room for it.
        """
        if self.size_bytes - self._looked_at >= _LOOK_BYTES:
            self._looked_at = self.size_bytes
            if shutil.disk_usage(self._folder).free < self._min_free_bytes:
                raise _full()
        try:
            self._file.write(piece)
        except OSError as error:
            raise _full() from error
        self._digest.update(piece)
        self.size_bytes += len(piece)

    def finish(self) -> None:
        """All has arrived; it is synced to the disk. Raises as `write`."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _full() from error

    @property
    def sha256(self) -> str:
        """Of what was written, as hexadecimal digits."""
        return self._digest.hexdigest()

    def content(self, recognises: Callable[[Path], bool], *, max_image_bytes: int) -> bytes | Path:
        """The file of a slide, whose format OpenSlide `recognises`, or the bytes of an image.

        Raises:
            UploadTooLargeError: an image of more than `max_image_bytes`.
        """
        path = self._folder / _SLIDE
        with path.open("rb") as file:
            is_tiff = file.read(4) in _TIFF
        if is_tiff and (is_stack(path) or recognises(path)):
            return path
        if self.size_bytes > max_image_bytes:
            raise UploadTooLargeError(
                f"The image is larger than {max_image_bytes} bytes, the most that is decoded at a time: send it "
                "as a tiled, pyramidal TIFF, which may be larger."
            )
        return path.read_bytes()

    def keep_pixels(self, image: RegionImage) -> None:
        """Replace the bytes of an image by its pixels. Raises StorageFullError."""
        about = _About(width=image.size_l0.width, height=image.size_l0.height, digest=image.content_id)
        try:
            with writing_to(self._folder):
                write_file(self._folder / _PIXELS, _blocks(image))
                write_file(self._folder / _ABOUT, about.model_dump_json().encode())
                (self._folder / _SLIDE).unlink()
        except OSError as error:
            raise _full() from error

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(
            OSError
        ):  # closing writes what is left, for which there may be no room; it is closed all the same
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def stored(folder: Path) -> Path | RegionImage:
    """The upload of a job, from its folder: a slide's file, or the pixels of an image, mapped.

    Raises:
        UnreadableSlideError: it is not there.
    """
    if (folder / _SLIDE).is_file():
        return folder / _SLIDE
    try:
        about = _About.model_validate_json((folder / _ABOUT).read_bytes())
        pixels = np.memmap(folder / _PIXELS, np.uint8, "r", shape=(about.height, about.width, 3))
    except (OSError, ValueError) as error:
        raise UnreadableSlideError(
            "The uploaded image is not stored any more: send it again as a new job."
        ) from error
    return RegionImage(pixels, about.digest)


def _blocks(image: RegionImage) -> Iterator[bytes]:
    rows = max(1, _BLOCK_PX // image.size_l0.width)
    for top in range(0, image.size_l0.height, rows):
        yield image.pixels[top : top + rows].tobytes()


def _full() -> StorageFullError:
    return StorageFullError("There is no room for the upload: delete jobs that are not needed any more.")
