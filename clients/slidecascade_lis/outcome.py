"""How an order ended."""

from __future__ import annotations

from dataclasses import dataclass

from slidecascade_client import JobFile, Summary


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended: with a summary, or with `status` of ORC-5 (CA, ER) and a sentence.

    `files` are those of the job, where a pointer names one.
    """

    status: str
    note: str
    summary: Summary | None = None
    job_id: str | None = None
    picture: bytes | None = None
    files: tuple[JobFile, ...] = ()


def cancelled(note: str = "The order was cancelled.") -> Outcome:
    return Outcome("CA", note)


def failed(note: str) -> Outcome:
    return Outcome("ER", note)


def succeeded(
    summary: Summary, job_id: str, picture: bytes | None = None, files: tuple[JobFile, ...] = ()
) -> Outcome:
    """`picture`: a PNG."""
    return Outcome("CM", "", summary, job_id, picture, files)
