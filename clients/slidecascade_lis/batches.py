"""Batches and files of messages (HL7 v2.5.1 chapter 2, section 2.10.3)."""

from __future__ import annotations

from collections.abc import Sequence

from slidecascade_lis.er7 import read_delimiters
from slidecascade_lis.rejection import DATA_TYPE, SEQUENCE, Place, rejected


def split_batch(lines: Sequence[str]) -> list[list[str]]:
    """The messages of a batch or a file with one batch.

    Raises:
        RejectedMessageError: batches are nested or not complete; then no message of them is taken.
    """
    field = read_delimiters(lines[0], lines[0][:3]).field
    names = [line.split(field, 1)[0] for line in lines]
    opened = [name for name in names if name in ("FHS", "BHS")]
    closed = [name for name in names if name in ("BTS", "FTS")]
    if opened not in (["BHS"], ["FHS", "BHS"], ["FHS"]):
        raise rejected(SEQUENCE, "A frame holds one batch: batches and files are not nested.", Place("BHS", 2))
    expected = {("BHS",): ["BTS"], ("FHS", "BHS"): ["BTS", "FTS"], ("FHS",): ["FTS"]}[tuple(opened)]
    if closed != expected or names[-1] != expected[-1]:
        raise rejected(SEQUENCE, f"The batch is not complete: it must end with {' and '.join(expected)}.")
    messages: list[list[str]] = []
    for name, line in zip(names, lines, strict=True):
        if name == "MSH":
            messages.append([line])
        elif name not in ("FHS", "BHS", "BTS", "FTS"):
            if not messages:
                raise rejected(SEQUENCE, "A batch must contain messages that start with MSH.")
            messages[-1].append(line)
    trailer = lines[names.index(expected[0])].split(field)
    count = trailer[1].strip() if len(trailer) > 1 else ""
    if expected[0] == "BTS" and count and count != str(len(messages)):
        raise rejected(
            DATA_TYPE, f"BTS-1 does not state the {len(messages)} messages of the batch.", Place("BTS", 1, 1)
        )
    return messages
