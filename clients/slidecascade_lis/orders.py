"""What a message orders; slide, pipeline, region and priority are found by the rules of the configuration."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from pydantic import BaseModel, ConfigDict

from slidecascade_lis.config import Orders, Rule
from slidecascade_lis.er7 import Message, Path, Segment
from slidecascade_lis.rejection import (
    DATA_TYPE,
    MESSAGE_TYPE,
    MISSING,
    NOT_IN_TABLE,
    PROCESSING_ID,
    SEQUENCE,
    VERSION,
    Finding,
    Place,
    RejectedMessageError,
    rejected,
)

RESPONSES: Final = {
    ("OML", "O21"): ("ORL", "O22"),
    ("OML", "O33"): ("ORL", "O34"),
    ("ORM", "O01"): ("ORR", "O02"),
}
"""The messages taken, and the types of their application acknowledgements."""

MAX_ORDERS: Final = 500
MAX_VALUE: Final = 1000
_LAST_PRIORITY: Final = 10**6
_BETWEEN: Final = r"[\s,;:/|^~&x]{1,3}"
"""Between the numbers of a region; signs and points are part of a number."""
_REGION: Final = re.compile(_BETWEEN.join([r"(\d{1,10})"] * 4))


class Action(Enum):
    """What ORC-1 asks for; the value is the answer of a success in ORC-1 (HL7 table 0119)."""

    NEW = "OK"
    CANCEL = "CR"
    CHANGE = "XR"
    STATUS = "SR"


_ACTIONS: Final = {
    "NW": Action.NEW,
    "RO": Action.NEW,
    "CA": Action.CANCEL,
    "OC": Action.CANCEL,
    "XO": Action.CHANGE,
    "RP": Action.CHANGE,
    "SS": Action.STATUS,
}
REPLACED: Final = "RQ"


class Analysis(BaseModel):
    """What is sent to the service for an order."""

    model_config = ConfigDict(frozen=True)

    slide: str
    pipeline: str
    region: tuple[int, int, int, int] | None = None
    priority: int = 0
    label: str | None = None
    mpp: float | None = None
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class OrderItem:
    """One order of a message.

    Attributes:
        control: ORC-1 as it was sent.
        placer: the placer's order number with its namespace.
        segments: ORC, OBR and what belongs to them, the specimen included.
        analysis: of a new or changed order.
        slide_place: where the slide was found.
    """

    action: Action
    control: str
    placer: str
    segments: tuple[Segment, ...]
    analysis: Analysis | None
    slide_place: Place
    pipeline_place: Place

    def segment(self, name: str) -> Segment | None:
        return next((segment for segment in self.segments if segment.name == name), None)


def check_header(message: Message) -> None:
    """Raises RejectedMessageError where the message cannot be processed at all."""
    msh = message.msh
    if not message.control_id or len(message.control_id) > 199:
        raise rejected(MISSING, "MSH-10, the control id, must have 1 to 199 characters.", msh.place(10))
    if message.type not in RESPONSES:
        known = ", ".join("^".join(kind) for kind in RESPONSES)
        raise rejected(MESSAGE_TYPE, f"The message type is not one of {known}.", msh.place(9))
    if msh.text(11) not in ("P", "T", "D"):
        raise rejected(PROCESSING_ID, "MSH-11 must be P, T or D.", msh.place(11))
    if not re.fullmatch(r"2\.[1-9](\.[1-9])?", msh.text(12)):
        raise rejected(VERSION, "MSH-12 must be a version 2.1 to 2.9 of HL7.", msh.place(12))


def read_orders(message: Message, rules: Orders, *, pseudonym_key: str | None) -> tuple[OrderItem, ...]:
    """The orders of a message in their order; an OML^O21 order with several specimens is one for each of them.

    Raises:
        RejectedMessageError: with all findings of all orders.
    """
    groups = _groups(message)
    if not groups:
        raise rejected(SEQUENCE, "The message has no order: an ORC segment is missing.", Place("ORC"))
    if len(groups) > MAX_ORDERS:
        raise rejected(
            SEQUENCE, f"The message has more than {MAX_ORDERS} orders: divide it.", Place("ORC", MAX_ORDERS + 1)
        )
    items: list[OrderItem] = []
    findings: list[Finding] = []
    for group in groups:
        try:
            items.append(_item(group, message, rules, pseudonym_key))
        except RejectedMessageError as error:
            findings += error.findings
    if findings:
        raise RejectedMessageError(*findings[:20])
    replaced = any(item.control == "RO" for item in items)
    return tuple(
        replace(item, action=Action.CANCEL) if item.control == "RP" and replaced else item for item in items
    )


def _groups(message: Message) -> list[tuple[Segment, ...]]:
    """The segments of each order. In OML^O33 a specimen precedes its orders, else it follows its order. An OBR
    after a PID within an order is of an earlier result (PRIOR_RESULT) and orders nothing."""
    specimen_first = message.type == ("OML", "O33")
    groups: list[list[Segment]] = []
    specimen: Segment | None = None
    is_prior = False
    for segment in message.segments:
        if segment.name == "SPM" and specimen_first:
            specimen, is_prior = segment, False
        elif segment.name == "ORC":
            groups.append([segment] if specimen is None else [segment, specimen])
            is_prior = False
        elif segment.name == "PID":
            is_prior = bool(groups)
        elif groups and segment.name != "PV1" and not (segment.name == "OBR" and is_prior):
            groups[-1].append(segment)
    return [one for group in groups for one in _by_specimen(group)]


def _by_specimen(group: list[Segment]) -> list[tuple[Segment, ...]]:
    specimens = [segment for segment in group if segment.name == "SPM"]
    if len(specimens) < 2:
        return [tuple(group)]
    others = [segment for segment in group if segment.name != "SPM"]
    return [(*others, specimen) for specimen in specimens]


def _item(group: tuple[Segment, ...], message: Message, rules: Orders, pseudonym_key: str | None) -> OrderItem:
    orc = group[0]
    control = orc.text(1)
    action = _ACTIONS.get(control)
    if action is None:
        known = ", ".join(_ACTIONS)
        raise rejected(NOT_IN_TABLE, f"The order control code is not one of {known}.", orc.place(1))
    requests = [segment for segment in group if segment.name == "OBR"]
    if len(requests) > 1:
        raise rejected(SEQUENCE, "An order has one OBR: send an ORC before each.", requests[1].place(0))
    obr = next(iter(requests), None)
    number = orc if orc.text(2) or obr is None else obr
    placer = "^".join(part for part in (number.text(2, 1), number.text(2, 2)) if part)
    if not placer or len(placer) > 200:
        raise rejected(MISSING, "ORC-2, the placer order number, must have 1 to 200 characters.", orc.place(2))
    if action in (Action.CANCEL, Action.STATUS):
        return OrderItem(action, control, placer, group, None, orc.place(2), orc.place(2))
    if obr is None:
        raise rejected(MISSING, "The order has no OBR segment.", orc.place(0))
    within = _Within(group, message)
    findings: list[Finding] = []
    values: dict[str, str | None] = {}
    for name in ("slide", "pipeline", "region", "priority", "label"):
        rule: Rule | None = getattr(rules, name)
        try:
            values[name] = None if rule is None else within.value(name, rule)
        except RejectedMessageError as error:
            findings += error.findings
    if findings:
        raise RejectedMessageError(*findings)
    analysis = Analysis(
        slide=values["slide"] or "",
        pipeline=values["pipeline"] or "",
        region=_region(values["region"], within.place(rules.region)),
        priority=_priority(values["priority"], within.place(rules.priority)),
        label=_pseudonym(values["label"], pseudonym_key),
        mpp=rules.mpp,
        allow_partial=rules.allow_partial,
    )
    return OrderItem(
        action, control, placer, group, analysis, within.place(rules.slide), within.place(rules.pipeline)
    )


@dataclass(frozen=True, slots=True)
class _Within:
    """Looks fields up in an order, then in the message around it."""

    group: tuple[Segment, ...]
    message: Message

    def value(self, name: str, rule: Rule) -> str | None:
        """The value by a rule; None for an optional one without a value."""
        place = self.place(rule)
        text = next(filter(None, map(self._text, rule.take)), "") or rule.default
        if not text:
            if name in ("slide", "pipeline"):
                raise rejected(MISSING, f"The order states no {name}.", place)
            return None
        if len(text) > MAX_VALUE:
            raise rejected(DATA_TYPE, f"The {name} has more than {MAX_VALUE} characters.", place)
        if rule.pattern is not None:
            found = re.fullmatch(rule.pattern, text)
            if found is None:
                raise rejected(DATA_TYPE, f"The {name} does not match the configured pattern.", place)
            text = next((group for group in found.groups() if group is not None), found[0])
        if rule.table is not None:
            if text not in rule.table:
                raise rejected(NOT_IN_TABLE, f"The {name} is not in the configured table.", place)
            text = rule.table[text]
        return rule.template.replace("{value}", text)

    def place(self, rule: Rule | None) -> Place:
        """The field that has the value, or the first that may have it."""
        if rule is None or not rule.take:
            return self.group[0].place(0)
        path = next((path for path in rule.take if self._text(path)), rule.take[0])
        segment = self._segment(path.segment)
        return Place(path.segment, segment.occurrence if segment else 1, path.field, path.component)

    def _text(self, path: Path) -> str:
        segment = self._segment(path.segment)
        return "" if segment is None else segment.text(path.field, path.component or 1, path.subcomponent or 1)

    def _segment(self, name: str) -> Segment | None:
        own = next((segment for segment in self.group if segment.name == name), None)
        return own or (self.message.first(name) if name in ("MSH", "PID", "PV1") else None)


def _region(text: str | None, place: Place) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    numbers = _REGION.fullmatch(text.strip())
    if numbers is None:
        raise rejected(DATA_TYPE, "The region is not x,y,width,height in whole pixels of level 0.", place)
    x_l0, y_l0, width_l0, height_l0 = map(int, numbers.groups())
    if max(x_l0, y_l0, width_l0, height_l0) >= 2**31 or not (width_l0 and height_l0):
        raise rejected(DATA_TYPE, "The region is empty or larger than any slide.", place)
    return x_l0, y_l0, width_l0, height_l0


def _priority(text: str | None, place: Place) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"-?\d{1,6}", text):
        raise rejected(DATA_TYPE, "The priority is not a whole number: map it by `orders.priority.table`.", place)
    return max(-_LAST_PRIORITY, min(int(text), _LAST_PRIORITY))


def _pseudonym(text: str | None, key: str | None) -> str | None:
    """A keyed hash, so that the jobs of a case are found without a name that leads to the patient."""
    if text is None or key is None:
        return None
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
