"""A result's figures as a transaction Bundle of FHIR R4 (4.0.1).

Task, DiagnosticReport, Observations, Device, DocumentReferences and Provenance refer to each other by ``urn:uuid``
addresses, which are derived from the result: the same result has the same ones. ``ifNoneExist`` keeps a server
from storing a resource twice. Everything is preliminary and is labelled as asserted by an algorithm.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from slidecascade import __version__, wire
from slidecascade.exports.fhirconfig import FhirConfig, read_fhir_config
from slidecascade.exports.folder import RLE, SUMMARY, ResultFolder
from slidecascade.exports.inputs import Inputs

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
_MEDIA_TYPES: Final = {
    ".gz": "application/gzip",
    ".geojson": wire.GEOJSON,
    ".json": wire.JSON,
    ".csv": wire.CSV,
    ".parquet": "application/vnd.apache.parquet",
}

_Json = dict[str, Any]


def fhir(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The Bundle as JSON.

    Raises:
        InvalidRequestError: the configuration cannot be used.
    """
    bundle = _Bundle(folder, read_fhir_config(inputs.fhir_config), datetime.now(UTC).isoformat(timespec="seconds"))
    yield orjson.dumps(bundle.document(), option=orjson.OPT_INDENT_2)


class _Bundle:
    """Resources of one result; `now` is an instant of FHIR."""

    def __init__(self, folder: ResultFolder, config: FhirConfig, now: str) -> None:
        self._folder = folder
        self._summary = folder.summary
        self._config = config
        self._now = now
        figures = folder.summary.model_dump_json(exclude={"timings_s"}).encode()
        self._result = hashlib.sha256(figures).hexdigest()
        self._entries: list[_Json] = []

    def document(self) -> _Json:
        device = self._add("Device", "device", self._device())
        shared = {"device": device, "effectiveDateTime": self._now, **self._about()}
        observed = [
            self._add("Observation", key, {"status": "preliminary", **shared, **fields})
            for key, fields in self._observations()
        ]
        files = [self._add("DocumentReference", path.name, self._file(path)) for path in self._files()]
        report = self._add("DiagnosticReport", "report", self._report(observed))
        self._add("Task", "task", self._task(device, report, files))
        made = [report, *observed, *files]
        self._add("Provenance", "provenance", self._provenance(device, made), is_identified=False)
        return {"resourceType": "Bundle", "type": "transaction", "entry": self._entries}

    def _add(self, kind: str, key: str, fields: _Json, *, is_identified: bool = True) -> _Json:
        """Add a resource; the reference to it."""
        address = f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{self._result}/{kind}/{key}')}"
        resource: _Json = {"resourceType": kind, "meta": _META}
        request = {"method": "POST", "url": kind}
        if is_identified:
            resource["identifier"] = [{"system": _URIS, "value": address}]
            request["ifNoneExist"] = f"identifier={_URIS}|{address}"
        self._entries.append({"fullUrl": address, "resource": resource | fields, "request": request})
        return {"reference": address}

    def _about(self) -> _Json:
        """Whom and which specimen it is about, where configured."""
        config = self._config
        found = {"subject": config.subject, "specimen": config.specimen}
        return {name: {"reference": reference} for name, reference in found.items() if reference}

    def _concept(self, key: str, text: str) -> _Json:
        """The configured code of `key`, and words in any case."""
        coding = self._config.codes.get(key)
        return (
            {"text": text} if coding is None else {"coding": [coding.model_dump(exclude_none=True)], "text": text}
        )

    def _device(self) -> _Json:
        versions = [{"type": {"text": "slidecascade export"}, "value": __version__}]
        for model in self._summary.models:
            versions += [
                {"type": {"text": f"version of {model.role} {model.name}"}, "value": str(model.version)},
                {"type": {"text": f"sha256 of {model.role} {model.name}"}, "value": model.sha256},
            ]
        return {
            "deviceName": [{"name": f"SlideCascade {self._summary.pipeline}", "type": "user-friendly-name"}],
            "type": self._concept("device", "Image analysis software"),
            "version": versions,
            "note": [{"text": self._summary.research_use_only}],
        }

    def _observations(self) -> Iterator[tuple[str, _Json]]:
        """The figures by key, with numerator and denominator where they have them."""
        summary = self._summary
        for name, count in summary.counts.items():
            yield self._figure(f"count.{name}", f"Number of {name}", count, "1")
        for name, share in summary.fractions.items():
            value = None if share.value is None else round(100 * share.value, 4)
            key, fields = self._figure(f"fraction.{name}", f"{name} per {share.of}", value, "%")
            parts = (("numerator", name, share.numerator), ("denominator", share.of, share.denominator))
            components = [
                {"code": self._concept(part, f"{part}: {what}"), "valueQuantity": _quantity(number, "1")}
                for part, what, number in parts
            ]
            yield key, {**fields, "component": components}
        for name, density in summary.densities_per_mm2.items():
            yield self._figure(f"density.{name}", f"{name} per area of tissue", density, "/mm2")
        for name, figures in (summary.areas or {}).items():
            yield self._figure(f"area.{name}", f"Area of {name}", figures.area_mm2, "mm2")
        for name, squares in (summary.patches.classes if summary.patches else {}).items():
            yield self._figure(f"area.{name}", f"Area of {name} above the threshold", squares.area_mm2, "mm2")
        yield self._figure("area.tissue", "Analysed tissue", summary.tissue_area_mm2, "mm2")

    def _figure(self, key: str, text: str, value: float | None, unit: str) -> tuple[str, _Json]:
        found = {"dataAbsentReason": _NO_VALUE} if value is None else {"valueQuantity": _quantity(value, unit)}
        return key, {"code": self._concept(key, text), **found}

    def _files(self) -> list[Path]:
        folder = self._folder
        found = (folder.path / SUMMARY, folder.geojson, folder.parquet, folder.rle)
        return [path for path in found if path is not None]

    def _file(self, path: Path) -> _Json:
        with path.open("rb") as file:  # FHIR's hash is a SHA-1
            digest = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).digest()
        attachment: _Json = {
            "contentType": _MEDIA_TYPES[path.suffix],
            "size": path.stat().st_size,
            "hash": base64.b64encode(digest).decode(),
            "title": path.name,
        }
        if self._config.files_url is not None:
            attachment["url"] = self._config.files_url.replace("{name}", path.name)
        subject = self._about().get("subject")
        return {
            "status": "current",
            "docStatus": "preliminary",
            "type": self._concept(f"file.{path.name}", "Run lengths" if path.name == RLE else "Analysis result"),
            "date": self._now,
            **({"subject": subject} if subject else {}),
            "content": [{"attachment": attachment}],
        }

    def _report(self, observed: list[_Json]) -> _Json:
        about = self._about()
        request = self._config.service_request
        warnings = (f"Warning {item.code}: {item.message}" for item in self._summary.warnings)
        return {
            "status": "preliminary",
            "category": [_PATHOLOGY],
            "code": self._concept("report", f"Image analysis {self._summary.pipeline}"),
            **({"basedOn": [{"reference": request}]} if request else {}),
            **({"subject": about["subject"]} if "subject" in about else {}),
            **({"specimen": [about["specimen"]]} if "specimen" in about else {}),
            "effectiveDateTime": self._now,
            "issued": self._now,
            "result": observed,
            "conclusion": " ".join((self._summary.research_use_only, *warnings)),
        }

    def _task(self, device: _Json, report: _Json, files: list[_Json]) -> _Json:
        config = self._config
        outputs = [("report", report), *(("file", file) for file in files)]
        return {
            "status": "completed",
            "intent": "order",
            "code": self._concept("task", f"Analyse a slide with {self._summary.pipeline}"),
            **({"focus": {"reference": config.service_request}} if config.service_request else {}),
            **({"for": {"reference": config.subject}} if config.subject else {}),
            "lastModified": self._now,
            "owner": device,
            "output": [{"type": {"text": text}, "valueReference": reference} for text, reference in outputs],
        }

    def _provenance(self, device: _Json, made: list[_Json]) -> _Json:
        slide = self._summary.slide
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
