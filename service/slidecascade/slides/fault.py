"""What a confined process says of its own failure: for the log, so nothing that it has read.

Messages of exceptions hold values of the file, which may name a patient; types and places in the code do not. Both
are validated where they arrive, because the process may have been taken over.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from slidecascade.logs import exception_fields

_MOST_ERRORS: Final = 3
_MOST_FRAMES: Final = 16
_TYPE: Final = r"^[\w.]{1,200}$"
_FRAME: Final = r"^[\w./<>-]{1,120}:\d{1,9} [\w<>]{1,80}$"

Reason = Literal[
    "an exception was raised",
    "more memory is needed than the header says",
    "more memory is needed than a slide may take",
    "the header was read in two ways",
    "there is no room for the pixels",
    "this is not to be asked now",
]


class RaisedError(BaseModel):
    """The type of an exception and the last places in the code, outermost first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Annotated[str, Field(pattern=_TYPE)]
    frames: Annotated[tuple[Annotated[str, Field(pattern=_FRAME)], ...], Field(max_length=_MOST_FRAMES)]


Raised = Annotated[tuple[RaisedError, ...], Field(max_length=_MOST_ERRORS)]
"""An exception and its causes."""


def raised_by(error: BaseException) -> tuple[RaisedError, ...]:
    """What is said of `error`; what no message may hold is left out."""
    return tuple(
        RaisedError(
            type=fields["type"] if re.search(_TYPE, fields["type"]) else "Exception",
            frames=tuple(frame for frame in fields["frames"] if re.search(_FRAME, frame))[-_MOST_FRAMES:],
        )
        for fields in exception_fields(error)[:_MOST_ERRORS]
    )
