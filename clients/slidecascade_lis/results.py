"""Result messages: ORU^R01 and OUL^R21, always preliminary."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from slidecascade.wire import RESEARCH_USE_ONLY
from slidecascade_client import Summary
from slidecascade_lis.config import CodedText, LisConfig, Results
from slidecascade_lis.er7 import components, compose, joined
from slidecascade_lis.fhirresults import fhir_result
from slidecascade_lis.outcome import Outcome
from slidecascade_lis.records import OrderRecord, Outgoing
from slidecascade_lis.replies import STANDARD, Party, control_id, header, timestamp

_UCUM: Final = "UCUM"
_STRUCTURES: Final = {"ORU^R01": "ORU_R01", "OUL^R21": "OUL_R21"}
PRELIMINARY: Final = "P"
CANCELLED: Final = "X"
_PICTURE: Final = "picture"


@dataclass(frozen=True, slots=True)
class Observation:
    """One OBX: `key` finds its code in the configuration; `kind` is OBX-2; `value` and `unit` are encoded."""

    key: str
    text: str
    kind: str
    value: str
    unit: str = ""


def result_messages(order: OrderRecord, outcome: Outcome, config: LisConfig) -> tuple[Outgoing, ...]:
    """The messages that answer an order, those that its receiver is configured for."""
    if order.receiver in config.fhir:
        return (fhir_result(order, outcome, config),)
    receiver = config.receivers[order.receiver]
    made = []
    for kind in receiver.messages:
        control = control_id()
        code, event = kind.split("^")
        head = header(
            (code, event, _STRUCTURES[kind]),
            sender=Party(config.application, config.facility),
            receiver=Party(receiver.application, receiver.facility),
            control=control,
            processing=order.processing,
            charset=receiver.charset,
        )
        lines = [head, *_body(order, outcome, config, specimen=kind == "ORU^R01")]
        made.append(Outgoing(control, order.message_id, order.id, order.receiver, joined(lines)))
    return tuple(made)


def _body(order: OrderRecord, outcome: Outcome, config: LisConfig, *, specimen: bool) -> Iterator[str]:
    """PID, ORC, OBR, notes, observations and the specimen."""
    segments = {line[:3]: line for line in order.context.split("\r") if line}
    if "PID" in segments:
        yield segments["PID"]
    now = timestamp()
    orc = _numbered(segments.get("ORC", "ORC"), (2, 4))
    yield compose("ORC", orc | {1: "RE", 3: order.id, 5: outcome.status}, STANDARD)
    obr = _numbered(segments.get("OBR", "OBR"), range(2, 50))
    status = PRELIMINARY if outcome.summary is not None else CANCELLED
    obr[2] = obr.get(2) or orc.get(2, "")
    obr[4] = obr.get(4) or components(
        STANDARD, order.analysis.pipeline, order.analysis.pipeline, config.results.system
    )
    yield compose("OBR", obr | {1: "1", 3: order.id, 22: now, 25: status}, STANDARD)
    for number, text in enumerate(_notes(outcome), start=1):
        yield compose("NTE", {1: str(number), 2: "L", 3: components(STANDARD, text)}, STANDARD)
    if outcome.summary is None:
        code = components(STANDARD, "status", "Status of the analysis", config.results.system)
        observation = {1: "1", 2: "TX", 3: code, 5: components(STANDARD, outcome.note), 11: CANCELLED, 14: now}
        yield compose("OBX", observation, STANDARD)
    else:
        yield from _observations(outcome, outcome.summary, config, now)
    if specimen and "SPM" in segments:
        yield segments["SPM"]


def _notes(outcome: Outcome) -> list[str]:
    """The line on research use, what ended the order, and the warnings of the result."""
    warnings = () if outcome.summary is None else outcome.summary.warnings
    texts = [
        RESEARCH_USE_ONLY,
        outcome.note,
        *(f"Warning {warning.code}: {warning.message}" for warning in warnings),
    ]
    return [text for text in texts if text]


def _observations(outcome: Outcome, summary: Summary, config: LisConfig, now: str) -> Iterator[str]:
    results = config.results
    equipment = STANDARD.repetition.join(
        components(STANDARD, f"{model.name}:{model.version}", "sha256", model.sha256, "L")
        for model in summary.models
    )
    method = components(STANDARD, f"{summary.kind}:{summary.pipeline}", summary.pipeline, results.system)
    seen_all = (*observed(summary), *_pointers(results, outcome.job_id or ""), *_picture(results, outcome))
    for number, seen in enumerate(seen_all, start=1):
        fields = {
            1: str(number),
            2: seen.kind,
            3: components(STANDARD, *_code(seen, results)),
            4: "1",
            5: seen.value,
            6: seen.unit,
            11: PRELIMINARY if seen.value else CANCELLED,
            14: now,
            17: method,
            18: equipment,
        }
        yield compose("OBX", fields, STANDARD)


def observed(summary: Summary) -> Iterator[Observation]:
    """The figures of a summary. Fractions come as a percentage and as a ratio with its denominator; what has no
    value, such as a fraction of nothing, has an empty one."""
    for name, count in summary.counts.items():
        yield Observation(f"count.{name}", f"Number of {name}", "NM", str(count), _unit("1", "count"))
    for name, share in summary.fractions.items():
        value = "" if share.value is None else _number(100 * share.value)
        yield Observation(f"fraction.{name}", f"{name} per {share.of}", "NM", value, _unit("%", "percent"))
        ratio = STANDARD.component.join(("", str(share.numerator), "/", str(share.denominator)))
        yield Observation(f"ratio.{name}", f"{name} of {share.of}", "SN", ratio, _unit("1", "count"))
    for name, covered in (summary.area_fractions or {}).items():
        value = "" if covered.value is None else _number(100 * covered.value)
        yield Observation(f"area_fraction.{name}", covered.title, "NM", value, _unit("%", "percent"))
        areas = (covered.numerator_mm2, covered.denominator_mm2)
        known = [_number(area_mm2) for area_mm2 in areas if area_mm2 is not None]
        ratio = STANDARD.component.join(("", known[0], "/", known[1])) if len(known) == 2 else ""
        text = f"Area of {covered.class_name} to area of tissue"
        yield Observation(f"area_ratio.{name}", text, "SN", ratio, _unit("mm2", "mm2"))
    for name, density in summary.densities_per_mm2.items():
        value = "" if density is None else _number(density)
        yield Observation(f"density.{name}", f"{name} per area of tissue", "NM", value, _unit("/mm2", "per mm2"))
    for name, figures in (summary.areas or {}).items():
        yield _area(f"area.{name}", f"Area of {name}", figures.area_mm2)
    for name, squares in (summary.patches.classes if summary.patches else {}).items():
        yield _area(f"area.{name}", f"Area of {name} above the threshold", squares.area_mm2)
        value = "" if squares.maximum is None else _number(squares.maximum)
        yield Observation(
            f"maximum.{name}", f"Highest probability of {name}", "NM", value, _unit("1", "probability")
        )
    yield _area("area.tissue", "Analysed tissue", summary.tissue_area_mm2)
    yield _area("area.analysed", "Analysed area", summary.area_mm2)


def _area(key: str, text: str, area_mm2: float | None) -> Observation:
    return Observation(key, text, "NM", "" if area_mm2 is None else _number(area_mm2), _unit("mm2", "mm2"))


def _pointers(results: Results, job_id: str) -> Iterator[Observation]:
    for pointer in results.pointers:
        identifier, text, _ = pointer.code
        value = components(
            STANDARD, pointer.url.replace("{job}", job_id), "SlideCascade", pointer.data_type, pointer.subtype
        )
        yield Observation(f"pointer.{identifier}", text, "RP", value)


def _picture(results: Results, outcome: Outcome) -> Iterator[Observation]:
    """The picture as encapsulated data (HL7 v2.5.1 chapter 2.A, ED; tables 0191 and 0299)."""
    if results.picture is not None and outcome.picture is not None:
        content = base64.b64encode(outcome.picture).decode("ascii")
        value = components(STANDARD, "SlideCascade", "IM", "png", "Base64", content)
        yield Observation(_PICTURE, results.picture.code[1], "ED", value)


def _code(seen: Observation, results: Results) -> CodedText:
    if seen.key == _PICTURE and results.picture is not None:
        return results.picture.code
    if seen.key in results.codes:
        return results.codes[seen.key]
    for pointer in results.pointers:
        if seen.key == f"pointer.{pointer.code[0]}":
            return pointer.code
    return re.sub(r"[^A-Za-z0-9.]+", "-", seen.key).strip("-").lower(), seen.text, results.system


def _unit(code: str, text: str) -> str:
    return components(STANDARD, code, text, _UCUM)


def _number(value: float) -> str:
    """At most six decimals, never an exponent."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _numbered(line: str, wanted: tuple[int, ...] | range) -> dict[int, str]:
    """The encoded fields of a segment with these numbers, the empty ones left out."""
    return {number: text for number, text in enumerate(line.split(STANDARD.field)) if number in wanted and text}
