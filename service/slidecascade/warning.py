"""What an answer says of its own trustworthiness: the work was done, and somebody should look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

WarningCode = Literal[
    "no-stored-pixels",
    "mpp-contradicts-objective",
    "anisotropic-pixels",
    "implausible-object-size",
    "channels-swapped",
    "flat-channel",
    "not-this-stain",
    "ink",
    "out-of-focus",
    "glass-edge",
    "nothing-analysed",
]
"""The stable names of the public contract."""

WARNING_CODES: tuple[WarningCode, ...] = get_args(WarningCode)


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """A doubt about an answer: its stable name, and a sentence that says what is doubtful and what to do."""

    code: WarningCode
    message: str
