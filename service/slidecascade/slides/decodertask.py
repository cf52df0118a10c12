"""The messages between the service and a process that decodes: one packet of a Unix socket each.

What the process says is untrusted: it has read somebody's file.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from slidecascade.slides.fault import Raised, Reason

MESSAGE_BYTES: Final = 2**14
STOP: Final = 1
"""The byte behind the pixels when the service does not want them any more."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encoded(self) -> bytes:
        """One packet."""
        return self.model_dump_json().encode()


class Task(_Message):
    """An image of `encoded_bytes`, whose pixels of `shape` (H, W, C) go to the start of shared memory.

    A strip of the channels of a stack, and a mask, have C = 1 and their own type; an image, and a frame of a DICOM
    slide, is RGB of 8 bits.
    """

    encoded_bytes: int
    shape: tuple[int, int, int]
    dtype: Literal["uint8", "uint16"] = "uint8"
    form: Literal["image", "mask", "strip", "frame"] = "image"

    @property
    def pixel_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2] * (2 if self.dtype == "uint16" else 1)

    @property
    def shared_bytes(self) -> int:
        """The pixels, and the byte that may become `STOP`."""
        return self.pixel_bytes + 1


class Confined(_Message):
    """The process is ready, without a network, files that it could open, and system calls but those it needs."""

    kind: Literal["confined"] = "confined"
    network: bool
    files: bool
    calls: bool


class Reached(_Message):
    """So many rows from above are there."""

    kind: Literal["reached"] = "reached"
    rows: int


class Ended(_Message):
    """The task has ended: all pixels are there, unless the image is damaged or decoding it failed."""

    kind: Literal["ended"] = "ended"
    damage: Annotated[str, Field(max_length=1000)] | None = None
    fault: Reason | None = None
    raised: Raised = ()


Answer = Annotated[Confined | Reached | Ended, Field(discriminator="kind")]
ANSWER: Final[TypeAdapter[Confined | Reached | Ended]] = TypeAdapter(Answer)
