"""Why a message is rejected, in the terms of HL7 table 0357."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from slidecascade.errors import SlideCascadeError

SEQUENCE: Final = ("100", "Segment sequence error")
MISSING: Final = ("101", "Required field missing")
DATA_TYPE: Final = ("102", "Data type error")
NOT_IN_TABLE: Final = ("103", "Table value not found")
MESSAGE_TYPE: Final = ("200", "Unsupported message type")
PROCESSING_ID: Final = ("202", "Unsupported processing id")
VERSION: Final = ("203", "Unsupported version id")
UNKNOWN_KEY: Final = ("204", "Unknown key identifier")
DUPLICATE_KEY: Final = ("205", "Duplicate key identifier")
LOCKED: Final = ("206", "Application record locked")
INTERNAL: Final = ("207", "Application internal error")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a message: segment name, its occurrence from 1, field and component from 1 (0: all of it)."""

    segment: str
    occurrence: int = 1
    field: int = 0
    component: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason of a rejection; becomes an ERR segment."""

    code: tuple[str, str]
    text: str
    place: Place | None = None


class RejectedMessageError(SlideCascadeError):
    """A message that is answered with AE, or CE in enhanced mode: sending it again unchanged fails again."""

    problem, title = "rejected-message", "Rejected message"

    def __init__(self, *findings: Finding) -> None:
        super().__init__("; ".join(finding.text for finding in findings))
        self.findings = findings


def rejected(code: tuple[str, str], text: str, place: Place | None = None) -> RejectedMessageError:
    """The error of a single finding."""
    return RejectedMessageError(Finding(code, text, place))
