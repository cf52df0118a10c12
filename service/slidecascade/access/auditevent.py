"""Lines of the audit log as FHIR R4 AuditEvent (https://hl7.org/fhir/R4/auditevent.html)."""

from __future__ import annotations

from typing import Any, Final

from slidecascade.access.audit import Line

_TYPE: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
    "code": "rest",
    "display": "RESTful Operation",
}
_ACTIONS: Final = {"GET": "R", "HEAD": "R", "POST": "E", "DELETE": "D"}
_HTTP_ERROR, _HTTP_FAULT = 400, 500


def audit_event(line: Line) -> dict[str, Any]:
    """The AuditEvent of a line, as JSON."""
    event = line.event
    return {
        "resourceType": "AuditEvent",
        "id": f"{line.number}",
        "type": _TYPE,
        "subtype": [{"display": event.action}],
        "action": _ACTIONS.get(event.action.partition(" ")[0], "E"),
        "recorded": line.at.replace("+00:00", "Z"),
        "outcome": "0" if event.outcome < _HTTP_ERROR else "4" if event.outcome < _HTTP_FAULT else "8",
        "outcomeDesc": f"HTTP {event.outcome}",
        "agent": [
            {
                "type": {"text": event.by},
                "who": {"identifier": {"value": event.who}},
                "requestor": True,
            }
        ],
        "source": {"observer": {"display": "SlideCascade"}},
        "entity": [
            {"what": {"identifier": {"value": event.request_id}}, "type": {"display": "request"}},
            *([] if event.object is None else [{"what": {"identifier": {"value": event.object}}}]),
        ],
    }
