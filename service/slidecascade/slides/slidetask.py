"""The messages between the service and the processes that read slides: one packet of a Unix socket each.

What a process says of a slide is untrusted: it has read somebody's file.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from slidecascade.geometry import Box
from slidecascade.slides.channels import RGB
from slidecascade.slides.fault import Raised, Reason
from slidecascade.slides.fileslide import Marks
from slidecascade.slides.slideinfo import SlideInfo

MESSAGE_BYTES: Final = 2**16
_MOST_TEXT: Final = 4000
_MOST_LEVELS: Final = 100
_LONGEST_PX: Final = 2**31


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    def encoded(self) -> bytes:
        """One packet."""
        return self.model_dump_json().encode()


class Start(_Message):
    """To the template: start a process that serves the descriptor sent with it, and holds the others.

    It can open what they lead to, and what is below `folders`, which are paths in the bytes of the system.
    """

    folders: tuple[bytes, ...] = ()

    @classmethod
    def below(cls, *folders: Path) -> Self:
        return cls(folders=tuple(os.fsencode(folder) for folder in folders))


class Ready(_Message):
    """From the template, when it has imported everything; whether it has left the network."""

    network: bool


class Started(_Message):
    """From the template, with a descriptor of the process."""

    pid: int


class Open(_Message):
    """Open the slide at a path: by the descriptor of its file that the process holds, if that is all it needs."""

    kind: Literal["open"] = "open"
    path: bytes
    is_held: bool


class Look(_Message):
    """Does OpenSlide recognise the format of the file at a path?"""

    kind: Literal["look"] = "look"
    path: bytes


class Join(_Message):
    """Serve the descriptor sent with it too, in a thread of its own."""

    kind: Literal["join"] = "join"


class Read(_Message):
    """The pixels of a box (x, y, width, height) of a level, or with `is_share` the share of them not stored.

    Pixels go to the start of the shared memory of the channel, which is the descriptor sent with this or earlier.
    """

    kind: Literal["read"] = "read"
    level: int
    box: tuple[int, int, int, int]
    room_bytes: int = 0
    is_share: bool = False


class Eighth(_Message):
    """Level 0 at an eighth of its size."""

    kind: Literal["eighth"] = "eighth"
    room_bytes: int


class Confined(_Message):
    """The process is ready: can it open no files but its own, and make no system calls but its own?"""

    kind: Literal["confined"] = "confined"
    files: bool
    calls: bool


class Opened(_Message):
    """The slide is open; None: it is not, because the file that is held is not all it needs."""

    kind: Literal["opened"] = "opened"
    info: SlideInfo | None
    marks: Marks = Marks()

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        """What nobody checks later: a slide states these in the types above, but not any values of them."""
        if self.info is None:
            return self
        whole, bounds = Box(0, 0, *dataclasses.astuple(self.info.size_l0)), self.info.bounds_l0
        levels, downsamples = self.info.level_sizes, self.info.level_downsamples
        numbers = [self.info.mpp, self.info.objective_power, *(self.info.sides_um or ())]
        texts = [self.info.vendor, self.marks.quickhash, self.marks.series, self.marks.instance]
        if (
            not 1 <= len(levels) == len(downsamples) <= _MOST_LEVELS
            or levels[0] != self.info.size_l0
            or any(max(dataclasses.astuple(size)) > _LONGEST_PX for size in levels)
            or self.info.channels != RGB
            or (bounds is not None and not (bounds.width > 0 < bounds.height and whole.encloses(bounds)))
            or not all(math.isfinite(downsample) and downsample >= 1 for downsample in downsamples)
            or not all(number is None or (math.isfinite(number) and number > 0) for number in numbers)
            or not all(text is None or (text.isprintable() and len(text) <= _MOST_TEXT) for text in texts)
        ):
            raise ValueError("No slide states this.")
        return self


class Looked(_Message):
    """Whether OpenSlide recognises the format."""

    kind: Literal["looked"] = "looked"
    is_slide: bool


class Done(_Message):
    """The pixels are there, ``(H, W, 3)`` with this height and width; (0, 0): there are none."""

    kind: Literal["done"] = "done"
    shape: tuple[int, int]


class Share(_Message):
    """The share of pixels not stored."""

    kind: Literal["share"] = "share"
    share: Annotated[float, Field(ge=0, le=1)]


class Refused(_Message):
    """The slide cannot be opened or read, for this reason; `is_failed`: nor at any later time."""

    kind: Literal["refused"] = "refused"
    detail: Annotated[str, Field(max_length=_MOST_TEXT)]
    is_failed: bool = False


class Fault(_Message):
    """What no file should have caused."""

    kind: Literal["fault"] = "fault"
    fault: Reason
    raised: Raised = ()


Task = Open | Look | Join | Read | Eighth
Answer = Confined | Opened | Looked | Done | Share | Refused | Fault
TASK: Final[TypeAdapter[Task]] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])
ANSWER: Final[TypeAdapter[Answer]] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])
