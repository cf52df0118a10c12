"""ServiceRequests of a FHIR server as orders: searched again and again, written as HL7 orders, and taken by the
same rules. A request is taken once; ``revoked`` cancels it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidecascade.errors import SettingsError
from slidecascade.fhir.server import FhirClient, FhirRejectedError, FhirUnavailableError
from slidecascade_lis.config import LisConfig, Requests
from slidecascade_lis.er7 import Message, components, compose, joined, read_lines, read_message
from slidecascade_lis.fhirresults import OF_FHIR, rejected_request
from slidecascade_lis.metrics import Observer
from slidecascade_lis.ordering import Ordering, Origin, taken_message
from slidecascade_lis.orders import OrderItem
from slidecascade_lis.records import Taken
from slidecascade_lis.rejection import Finding, RejectedMessageError
from slidecascade_lis.replies import STANDARD, Party, header, timestamp
from slidecascade_lis.settlement import Settlement
from slidecascade_lis.store import Change, UnavailableStoreError

LOG = logging.getLogger("slidecascade.lis")
_OVERLAP: Final = timedelta(minutes=5)
"""Searches look back: servers index late."""
_PRIORITIES: Final = {"routine": "R", "urgent": "A", "asap": "A", "stat": "S"}
"""TQ1-9 (HL7 table 0485) by FHIR's request-priority."""


class _Element(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


R = TypeVar("R", bound=_Element)


class _Meta(_Element):
    lastUpdated: datetime  # noqa: N815 - FHIR's name


class _Coding(_Element):
    system: str = ""
    code: str = ""
    display: str = ""


class _Concept(_Element):
    coding: tuple[_Coding, ...] = ()
    text: str = ""


class _Identifier(_Element):
    value: str = ""


class _Reference(_Element):
    reference: str = ""
    identifier: _Identifier = _Identifier()

    @property
    def id(self) -> str:
        return self.reference.rpartition("/")[2]


class _Note(_Element):
    text: str = ""


class ServiceRequest(_Element):
    """What is read of a ServiceRequest."""

    id: str = Field(pattern=r"^[A-Za-z0-9.-]{1,64}$")
    status: Literal["active", "revoked"]
    meta: _Meta
    code: _Concept = _Concept()
    subject: _Reference = _Reference()
    specimen: tuple[_Reference, ...] = ()
    priority: str = "routine"
    note: tuple[_Note, ...] = ()
    orderDetail: tuple[_Concept, ...] = ()  # noqa: N815 - FHIR's name


class Specimen(_Element):
    """What is read of a Specimen."""

    id: str
    identifier: tuple[_Identifier, ...] = ()
    accessionIdentifier: _Identifier = _Identifier()  # noqa: N815 - FHIR's name

    @property
    def name(self) -> str:
        """Its first identifier, else its accession number."""
        return next((one.value for one in self.identifier if one.value), self.accessionIdentifier.value)


class RequestIntake:
    """Takes the ServiceRequests of one server, the `name` of ``fhir``."""

    def __init__(
        self,
        name: str,
        config: LisConfig,
        requests: Requests,
        client: FhirClient,
        settlement: Settlement,
        *,
        accepted: Callable[[], None],
        observer: Observer,
    ) -> None:
        self._name = name
        self._config = config
        self._requests = requests
        self._client = client
        self._settlement = settlement
        self._ordering = Ordering(config)
        self._accepted = accepted
        self._observer = observer
        self._newest: datetime | None = None

    async def run(self) -> None:
        """Search until cancelled."""
        while True:
            try:
                await self._poll()
            except (FhirUnavailableError, FhirRejectedError) as error:
                LOG.warning("requests cannot be searched", extra={"fields": {"reason": error.reason}})
            except (SettingsError, UnavailableStoreError) as error:
                LOG.error("requests cannot be taken", extra={"fields": {"reason": type(error).__name__}})
            except Exception:  # the worker boundary: orders and results go on
                LOG.exception("requests failed")
            await asyncio.sleep(self._requests.poll_s)

    async def _poll(self) -> None:
        query = {
            "status": "active,revoked",
            "_sort": "_lastUpdated",
            "_include": "ServiceRequest:specimen",
            **self._requests.query,
        }
        if self._newest is not None:
            query["_lastUpdated"] = f"ge{(self._newest - _OVERLAP).isoformat()}"
        pages = await asyncio.to_thread(list, self._client.search("ServiceRequest", query))
        found = [resource for page in pages for resource in page]
        specimens = {one.id: one for one in _read(Specimen, "Specimen", found)}
        newest = self._newest
        for request in _read(ServiceRequest, "ServiceRequest", found):
            try:
                await self._take(request, specimens)
            except RejectedMessageError:
                LOG.warning("a request cannot be written as an order")
            newest = request.meta.lastUpdated if newest is None else max(newest, request.meta.lastUpdated)
        self._newest = newest

    async def _take(self, request: ServiceRequest, specimens: Mapping[str, Specimen]) -> None:
        message = read_message(read_lines(order_text(request, specimens, self._name)))
        lines = [segment.encoded(STANDARD) for segment in message.segments]
        taken = taken_message(message, lines, Origin(OF_FHIR + self._name, self._name))
        if not await self._settlement.commits.make(lambda change: _is_new(change, taken, request)):
            return

        def settle(change: Change, items: Sequence[OrderItem], findings: Sequence[Finding]) -> None:
            self._settle(change, message, taken, request, items, findings)

        settled = await self._settlement.of(message, settle)
        accepted = not settled.findings
        LOG.info("request", extra={"fields": {"message_id": taken.id, "accepted": accepted}})
        self._observer.requested(accepted=accepted)
        self._accepted()

    def _settle(
        self, change: Change, message: Message, taken: Taken, request: ServiceRequest, items: Sequence[OrderItem],
        findings: Sequence[Finding],
    ) -> None:  # fmt: skip
        """Store a request with what follows from it, in one transaction."""
        change.lock_sender(taken.sender)
        if not _is_new(change, taken, request):  # another bridge on the same database has taken it
            return
        if findings:
            reason = " ".join(finding.text for finding in findings)
            change.put_outgoing([rejected_request(taken, request.id, self._name, reason, self._config)])
        else:
            self._ordering.apply(change, message, taken, items, self._name)
        rejected_before = change.known(taken.sender, taken.control_id)
        change.put_message(taken, accepted=not findings, reply="", replaced=rejected_before)


def _is_new(change: Change, taken: Taken, request: ServiceRequest) -> bool:
    """Whether a request was neither taken nor rejected as it is; a revoked one must have an order to cancel."""
    if request.status == "revoked" and not any(one.active for one in change.orders_of(taken.sender, request.id)):
        return False
    known = change.known(taken.sender, taken.control_id)
    return known is None or not (known.accepted or known.sha256 == taken.sha256)


def order_text(request: ServiceRequest, specimens: Mapping[str, Specimen], name: str) -> str:
    """A request as OML^O21, an order for each specimen: OBR-4 is its code, SPM-2 the specimen, PID-3 the subject,
    TQ1-9 the priority, OBR-13 the first note, OBR-39 the first order detail, ORC-9 the time of its last change."""
    head = header(
        ("OML", "O21", "OML_O21"),
        sender=Party("FHIR", name),
        receiver=Party("SLIDECASCADE", ""),
        control=f"{request.id}.{request.status}",
    )
    code = next(iter(request.code.coding), _Coding(code=request.code.text))
    changed = timestamp(request.meta.lastUpdated)
    lines = [head, compose("PID", {3: _text(request.subject.identifier.value or request.subject.id)}, STANDARD)]
    for specimen in request.specimen or (_Reference(),):
        control = "NW" if request.status == "active" else "CA"
        lines.append(compose("ORC", {1: control, 2: request.id, 9: changed}, STANDARD))
        request_fields = {
            1: "1",
            2: request.id,
            4: components(STANDARD, code.code, code.display or request.code.text, code.system),
            13: _text(request.note[0].text if request.note else ""),
            39: _text(request.orderDetail[0].text if request.orderDetail else ""),
        }
        lines.append(compose("OBR", request_fields, STANDARD))
        lines.append(compose("TQ1", {1: "1", 9: _PRIORITIES.get(request.priority, "R")}, STANDARD))
        known = specimens.get(specimen.id)
        value = specimen.identifier.value or (known.name if known else "") or specimen.id
        lines.append(compose("SPM", {1: "1", 2: _text(value)}, STANDARD))
        references = (f"ServiceRequest/{request.id}", request.subject.reference, specimen.reference)
        lines.append(compose("ZFR", dict(enumerate(map(_text, references), start=1)), STANDARD))
    return joined(lines)


def _text(value: str) -> str:
    return components(STANDARD, value)


def _read(model: type[R], kind: str, found: Sequence[Mapping[str, Any]]) -> list[R]:
    """The readable resources of a kind; others are logged by their number only."""
    resources = [one for one in found if one.get("resourceType") == kind]
    read = []
    for resource in resources:
        try:
            read.append(model.model_validate(resource))
        except ValidationError:
            LOG.warning("a resource was not read", extra={"fields": {"kind": kind}})
    return read
