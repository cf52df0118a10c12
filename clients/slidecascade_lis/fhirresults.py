"""Results of orders as Bundles of FHIR."""

from __future__ import annotations

import re
from typing import Final, Literal

from slidecascade.fhir.bundle import Context, Link, ResultFile, ended_bundle, result_bundle
from slidecascade.fhir.config import FhirConfig
from slidecascade_lis.config import LisConfig, Pointer
from slidecascade_lis.er7 import Delimiters, Segment
from slidecascade_lis.outcome import Outcome
from slidecascade_lis.records import OrderRecord, Outgoing, Taken
from slidecascade_lis.replies import control_id

OF_FHIR: Final = "fhir:"
"""What the sender of orders that came from a FHIR server starts with; that of an HL7 message contains a bar."""
_REFERENCE: Final = re.compile(r"[A-Za-z]+/[A-Za-z0-9.-]{1,64}")


def fhir_result(order: OrderRecord, outcome: Outcome, config: LisConfig) -> Outgoing:
    """The Bundle of an order that ended: its figures, or the Task that says why there are none."""
    codes = FhirConfig(codes=config.fhir[order.receiver].codes)
    context = _context(order)
    if outcome.summary is not None:
        files = [_file(one, outcome) for one in config.results.pointers]
        content = result_bundle(outcome.summary, files, codes, context)
    else:
        status: Literal["failed", "cancelled"] = "failed" if outcome.status == "ER" else "cancelled"
        content = ended_bundle(status, outcome.note, codes, context)
    return Outgoing(control_id(), order.message_id, order.id, order.receiver, content.decode())


def _file(pointer: Pointer, outcome: Outcome) -> ResultFile:
    """What a pointer leads to; its size and hash where it names a file that the job has."""
    known = next((file for file in outcome.files if file.name == pointer.file), None)
    return ResultFile(
        pointer.code[0],
        known.media_type if known else f"application/{pointer.subtype}",
        pointer.code[1],
        pointer.url.replace("{job}", outcome.job_id or ""),
        size=known.bytes if known else None,
        sha1=bytes.fromhex(known.sha1) if known and known.sha1 else None,
    )


def rejected_request(taken: Taken, request_id: str, receiver: str, reason: str, config: LisConfig) -> Outgoing:
    """The Task that rejects a ServiceRequest; another version of the request has another one."""
    context = Context(service_request=Link("ServiceRequest", f"ServiceRequest/{request_id}"), order=taken.sha256)
    content = ended_bundle("rejected", reason, FhirConfig(codes=config.fhir[receiver].codes), context)
    return Outgoing(control_id(), taken.id, None, receiver, content.decode())


def _context(order: OrderRecord) -> Context:
    """References of an order that came from a FHIR server; of another one, the identifiers that results repeat."""
    lines = {line[:3]: line for line in order.context.split("\r") if line}
    segments = {name: Segment(tuple(line.split("|")), Delimiters(), 1) for name, line in lines.items()}

    def text(name: str, field: int) -> str:
        return segments[name].text(field) if name in segments else ""

    def link(kind: str, field: int, identifier: str) -> Link | None:
        reference = text("ZFR", field)
        if order.sender.startswith(OF_FHIR) and _REFERENCE.fullmatch(reference):
            return Link(kind, reference)
        return Link(kind, identifier=identifier) if identifier else None

    return Context(
        subject=link("Patient", 2, text("PID", 3)),
        specimen=link("Specimen", 3, text("SPM", 2)),
        service_request=link("ServiceRequest", 1, order.placer),
        order=order.id,
    )
