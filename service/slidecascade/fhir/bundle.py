"""The figures of a summary as a transaction Bundle of FHIR R4 (4.0.1).

Task, DiagnosticReport, Observations, Device, DocumentReferences and Provenance refer to each other by ``urn:uuid``
addresses, which are derived from the result: the same result has the same ones. ``ifNoneExist`` keeps a server
from storing a resource twice. Everything is preliminary and is labelled as asserted by an algorithm.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from slidecascade import __version__
from slidecascade.fhir.config import FhirConfig
from slidecascade.wire import RESEARCH_USE_ONLY, Summary

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:slidecascade:fhir")
_URIS: Final = "urn:ietf:rfc:3986"
_UCUM: Final = "http://unitsofmeasure.org"
_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem/"
_META: Final = {
    "security": [
        {
            "system": f"{_TERMINOLOGY}v3-ObservationValue",
            "code": "AIAST",
            "display": "Artificial Intelligence asserted",
        }
    ]
}
_PATHOLOGY: Final = {"coding": [{"system": f"{_TERMINOLOGY}v2-0074", "code": "PAT"}]}
_NO_VALUE: Final = {"coding": [{"system": f"{_TERMINOLOGY}data-absent-reason", "code": "not-applicable"}]}
_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file of the result; `sha1` is its digest, the hash that FHIR R4 states. None: not known."""

    name: str
    media_type: str
    text: str = "Analysis result"
    url: str | None = None
    size: int | None = None
    sha1: bytes | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Another resource: by ``Type/id`` in `reference`, or by the business identifier of a resource of `kind`."""

    kind: str
    reference: str | None = None
    identifier: str | None = None

    def document(self) -> _Json:
        if self.reference is not None:
            return {"reference": self.reference}
        return {"type": self.kind, "identifier": {"value": self.identifier}}


@dataclass(frozen=True, slots=True)
class Context:
    """Whom and what a result is about.

    Attributes:
        order: identifies the order of a result in its addresses, so that the same figures of two orders are two
            reports. Empty: the figures alone do.
    """

    subject: Link | None = None
    specimen: Link | None = None
    service_request: Link | None = None
    order: str = ""

    @classmethod
    def configured(cls, config: FhirConfig) -> Context:
        """The references of a configuration."""

        def link(kind: str, reference: str | None) -> Link | None:
            return None if reference is None else Link(kind, reference)

        return cls(
            link("Patient", config.subject),
            link("Specimen", config.specimen),
            link("ServiceRequest", config.service_request),
        )


def result_bundle(summary: Summary, files: Sequence[ResultFile], config: FhirConfig, context: Context) -> bytes:
    """The Bundle of a result as JSON."""
    figures = summary.model_dump_json(exclude={"timings_s"}).encode()
    bundle = _Bundle(config, context, hashlib.sha256(context.order.encode() + figures).hexdigest())
    return _text(bundle.of_result(summary, files))


def ended_bundle(
    status: Literal["failed", "cancelled", "rejected"], reason: str, config: FhirConfig, context: Context
) -> bytes:
    """A Bundle with the Task of an order that has no result."""
    bundle = _Bundle(config, context, hashlib.sha256(f"{context.order}/{status}".encode()).hexdigest())
    return _text(bundle.of_end(status, reason))


def _text(document: _Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=2).encode()


class _Bundle:
    """Resources of one result; `identity` distinguishes it from others."""

    def __init__(self, config: FhirConfig, context: Context, identity: str) -> None:
        self._config = config
        self._context = context
        self._now = datetime.now(UTC).isoformat(timespec="seconds")
        self._identity = identity
        self._entries: list[_Json] = []

    def of_result(self, summary: Summary, files: Sequence[ResultFile]) -> _Json:
        device = self._add("Device", "device", self._device(summary))
        shared = {"device": device, "effectiveDateTime": self._now, **self._about()}
        observed = [
            self._add("Observation", key, {"status": "preliminary", **shared, **fields})
            for key, fields in self._observations(summary)
        ]
        documents = [self._add("DocumentReference", file.name, self._file(file)) for file in files]
        report = self._add("DiagnosticReport", "report", self._report(summary, observed))
        self._add("Task", "task", self._completed(summary, device, report, documents))
        made = [report, *observed, *documents]
        self._add("Provenance", "provenance", self._provenance(summary, device, made), is_identified=False)
        return self._document()

    def of_end(self, status: str, reason: str) -> _Json:
        fields = self._task(status, "Analyse a slide")
        self._add("Task", "task", {**fields, "statusReason": {"text": f"{reason} {RESEARCH_USE_ONLY}"}})
        return self._document()

    def _document(self) -> _Json:
        return {"resourceType": "Bundle", "type": "transaction", "entry": self._entries}

    def _add(self, kind: str, key: str, fields: _Json, *, is_identified: bool = True) -> _Json:
        """Add a resource; the reference to it."""
        address = f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{self._identity}/{kind}/{key}')}"
        resource: _Json = {"resourceType": kind, "meta": _META}
        request = {"method": "POST", "url": kind}
        if is_identified:
            resource["identifier"] = [{"system": _URIS, "value": address}]
            request["ifNoneExist"] = f"identifier={_URIS}|{address}"
        self._entries.append({"fullUrl": address, "resource": resource | fields, "request": request})
        return {"reference": address}

    def _about(self) -> _Json:
        """Whom and which specimen it is about, where known."""
        context = self._context
        found = {"subject": context.subject, "specimen": context.specimen}
        return {name: link.document() for name, link in found.items() if link is not None}

    def _concept(self, key: str, text: str) -> _Json:
        """The configured code of `key`, and words in any case."""
        coding = self._config.codes.get(key)
        return (
            {"text": text} if coding is None else {"coding": [coding.model_dump(exclude_none=True)], "text": text}
        )

    def _device(self, summary: Summary) -> _Json:
        versions = [{"type": {"text": "slidecascade"}, "value": __version__}]
        for model in summary.models:
            versions += [
                {"type": {"text": f"version of {model.role} {model.name}"}, "value": str(model.version)},
                {"type": {"text": f"sha256 of {model.role} {model.name}"}, "value": model.sha256},
            ]
        return {
            "deviceName": [{"name": f"SlideCascade {summary.pipeline}", "type": "user-friendly-name"}],
            "type": self._concept("device", "Image analysis software"),
            "version": versions,
            "note": [{"text": summary.research_use_only}],
        }

    def _observations(self, summary: Summary) -> Iterator[tuple[str, _Json]]:
        """The figures by key, with numerator and denominator where they have them."""
        for name, count in summary.counts.items():
            yield self._figure(f"count.{name}", f"Number of {name}", count, "1")
        for name, share in summary.fractions.items():
            value = None if share.value is None else round(100 * share.value, 4)
            parts = ((name, share.numerator), (share.of, share.denominator))
            yield self._share(f"fraction.{name}", f"{name} per {share.of}", value, parts, "1")
        for name, covered in (summary.area_fractions or {}).items():
            value = None if covered.value is None else round(100 * covered.value, 4)
            area = (f"area of {covered.class_name}", covered.numerator_mm2)
            tissue = ("area of tissue", covered.denominator_mm2)
            yield self._share(f"area_fraction.{name}", covered.title, value, (area, tissue), "mm2")
        for name, density in summary.densities_per_mm2.items():
            yield self._figure(f"density.{name}", f"{name} per area of tissue", density, "/mm2")
        for name, figures in (summary.areas or {}).items():
            yield self._figure(f"area.{name}", f"Area of {name}", figures.area_mm2, "mm2")
        for name, squares in (summary.patches.classes if summary.patches else {}).items():
            yield self._figure(f"area.{name}", f"Area of {name} above the threshold", squares.area_mm2, "mm2")
        yield self._figure("area.tissue", "Analysed tissue", summary.tissue_area_mm2, "mm2")

    def _share(
        self, key: str, text: str, percent: float | None, parts: Sequence[tuple[str, float | None]], unit: str
    ) -> tuple[str, _Json]:
        """A percentage with its numerator and denominator, `parts` in `unit`."""
        _, fields = self._figure(key, text, percent, "%")
        components = [
            self._figure(part, f"{part}: {what}", number, unit)[1]
            for part, (what, number) in zip(("numerator", "denominator"), parts, strict=True)
        ]
        return key, {**fields, "component": components}

    def _figure(self, key: str, text: str, value: float | None, unit: str) -> tuple[str, _Json]:
        found = {"dataAbsentReason": _NO_VALUE} if value is None else {"valueQuantity": _quantity(value, unit)}
        return key, {"code": self._concept(key, text), **found}

    def _file(self, file: ResultFile) -> _Json:
        attachment = {
            "contentType": file.media_type,
            "size": file.size,
            "hash": None if file.sha1 is None else base64.b64encode(file.sha1).decode(),
            "title": file.name,
            "url": file.url,
        }
        subject = self._about().get("subject")
        return {
            "status": "current",
            "docStatus": "preliminary",
            "type": self._concept(f"file.{file.name}", file.text),
            "date": self._now,
            **({"subject": subject} if subject else {}),
            "content": [{"attachment": {name: value for name, value in attachment.items() if value is not None}}],
        }

    def _report(self, summary: Summary, observed: list[_Json]) -> _Json:
        about = self._about()
        request = self._context.service_request
        warnings = (f"Warning {item.code}: {item.message}" for item in summary.warnings)
        return {
            "status": "preliminary",
            "category": [_PATHOLOGY],
            "code": self._concept("report", f"Image analysis {summary.pipeline}"),
            **({"basedOn": [request.document()]} if request else {}),
            **({"subject": about["subject"]} if "subject" in about else {}),
            **({"specimen": [about["specimen"]]} if "specimen" in about else {}),
            "effectiveDateTime": self._now,
            "issued": self._now,
            "result": observed,
            "conclusion": " ".join((summary.research_use_only, *warnings)),
        }

    def _task(self, status: str, text: str) -> _Json:
        context = self._context
        return {
            "status": status,
            "intent": "order",
            "code": self._concept("task", text),
            **({"focus": context.service_request.document()} if context.service_request else {}),
            **({"for": context.subject.document()} if context.subject else {}),
            "lastModified": self._now,
        }

    def _completed(self, summary: Summary, device: _Json, report: _Json, files: list[_Json]) -> _Json:
        outputs = [("report", report), *(("file", file) for file in files)]
        return {
            **self._task("completed", f"Analyse a slide with {summary.pipeline}"),
            "owner": device,
            "output": [{"type": {"text": text}, "valueReference": reference} for text, reference in outputs],
        }

    def _provenance(self, summary: Summary, device: _Json, made: list[_Json]) -> _Json:
        slide = summary.slide
        source = {"system": "urn:slidecascade:content-id", "value": slide.content_id} if slide else None
        entity = (
            [{"role": "source", "what": {"identifier": source, "display": "Analysed image"}}] if source else None
        )
        return {
            "target": made,
            "recorded": self._now,
            "agent": [{"who": device}],
            **({"entity": entity} if entity else {}),
        }


def _quantity(value: float, unit: str) -> _Json:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}
