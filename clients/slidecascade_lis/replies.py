"""Acknowledgements and application responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from slidecascade_lis.er7 import Delimiters, Message, Segment, components, compose, joined
from slidecascade_lis.orders import RESPONSES
from slidecascade_lis.rejection import Finding, Place

STANDARD: Final = Delimiters()
UTF_8: Final = "UNICODE UTF-8"
_STRUCTURES: Final = {("ORL", "O22"): "ORL_O22", ("ORL", "O34"): "ORL_O34", ("ORR", "O02"): "ORR_O02"}


@dataclass(frozen=True, slots=True)
class Party:
    """An application and its facility, as in MSH-3 to MSH-6."""

    application: str
    facility: str


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """What became of one order: ORC-1 and ORC-5, and the numbers and segments to repeat."""

    control: str
    status: str
    filler: str
    segments: tuple[Segment, ...]


def control_id() -> str:
    """20 characters, the length that every version of HL7 allows."""
    return uuid4().hex[:20]


def timestamp(at: datetime | None = None) -> str:
    return (at or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%d%H%M%S") + "+0000"


def header(
    kind: tuple[str, ...],
    *,
    sender: Party,
    receiver: Party,
    control: str,
    processing: str = "P",
    version: str = "2.5.1",
    charset: str = "",
) -> str:
    """An MSH segment; `kind` is MSH-9 by component."""
    first = STANDARD.field.join(("MSH", STANDARD.msh_2))
    fields = (
        components(STANDARD, sender.application),
        components(STANDARD, sender.facility),
        components(STANDARD, receiver.application),
        components(STANDARD, receiver.facility),
        timestamp(),
        "",
        components(STANDARD, *kind),
        control,
        processing,
        version,
        *[""] * 5,
        charset or UTF_8,
    )
    return STANDARD.field.join((first, *fields))


def acknowledgement(
    message: Message | None, code: str, findings: Iterable[Finding] = (), *, own: Party, control: str = ""
) -> str:
    """An ACK of a message; of None where it could not be read, with its control id if that was found."""
    event = () if message is None or not message.type[1] else (message.type[1],)
    kind = ("ACK", *event, "ACK") if event else ("ACK",)
    answered = control if message is None else message.control_id
    return joined([_head(message, kind, own), _msa(code, answered), *map(error_segment, findings)])


def application_response(
    message: Message, code: str, answers: Sequence[OrderAnswer], findings: Iterable[Finding], *, own: Party,
    patient: str | None,
) -> str:  # fmt: skip
    """ORL^O22, ORL^O34 or ORR^O02 of an order message; `patient` is a PID segment."""
    code_and_event = RESPONSES[message.type]
    kind = (*code_and_event, _STRUCTURES[code_and_event])
    lines = [_head(message, kind, own), _msa(code, message.control_id), *map(error_segment, findings)]
    if answers:
        lines += [] if patient is None else [patient]
        specimen_first = code_and_event == ("ORL", "O34")
        for answer in answers:
            specimen = [segment.encoded(STANDARD) for segment in answer.segments if segment.name == "SPM"][:1]
            order = [_order_control(answer)]
            if code_and_event == ("ORR", "O02"):
                lines += order  # its structure has no place for a specimen
                continue
            order += _request(answer)
            lines += [*specimen, *order] if specimen_first else [*order, *specimen]
    return joined(lines)


def patient_segment(message: Message, fields: Iterable[int]) -> str | None:
    """PID with only those of its fields; None if the message has no PID."""
    pid = message.first("PID")
    if pid is None:
        return None
    shown = {0, *fields}
    texts = tuple(text if number in shown else "" for number, text in enumerate(pid.fields))
    kept = Segment(texts, pid.delimiters, 1)
    return kept.encoded(STANDARD).rstrip(STANDARD.field)


def error_segment(finding: Finding) -> str:
    """ERR with place, code of table 0357, severity and text."""
    number, name = finding.code
    return compose(
        "ERR",
        {
            2: "" if finding.place is None else _location(finding.place),
            3: components(STANDARD, number, name, "HL70357"),
            4: "E",
            8: components(STANDARD, finding.text),
        },
        STANDARD,
    )


def _location(place: Place) -> str:
    parts = [place.segment, str(place.occurrence)]
    if place.field:
        parts += [str(place.field), "1", *([str(place.component)] if place.component else [])]
    return components(STANDARD, *parts)


def _head(message: Message | None, kind: tuple[str, ...], own: Party) -> str:
    if message is None:
        return header(kind, sender=own, receiver=Party("", ""), control=control_id())
    msh = message.msh
    return header(
        kind,
        sender=own,
        receiver=Party(msh.text(3), msh.text(4)),
        control=control_id(),
        processing=msh.text(11) or "P",
        version=msh.text(12) or "2.5.1",
        charset=msh.text(18),
    )


def _msa(code: str, control: str) -> str:
    return compose("MSA", {1: code, 2: components(STANDARD, control)}, STANDARD)


def _order_control(answer: OrderAnswer) -> str:
    orc = answer.segments[0].encoded(STANDARD).split(STANDARD.field)
    fields = {number: text for number, text in enumerate(orc) if number in (2, 4)}
    fields |= {1: answer.control, 3: components(STANDARD, answer.filler), 5: answer.status}
    return compose("ORC", fields, STANDARD)


def _request(answer: OrderAnswer) -> list[str]:
    return [segment.encoded(STANDARD) for segment in answer.segments if segment.name == "OBR"][:1]
