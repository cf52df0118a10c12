"""What orders do to the stored ones: new orders, cancelled, changed and asked about."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from slidecascade_lis.config import LisConfig
from slidecascade_lis.er7 import Message, joined
from slidecascade_lis.orders import REPLACED, Action, Analysis, OrderItem
from slidecascade_lis.outcome import cancelled
from slidecascade_lis.records import OrderRecord, Taken
from slidecascade_lis.rejection import (
    DUPLICATE_KEY,
    LOCKED,
    UNKNOWN_KEY,
    Finding,
    RejectedMessageError,
    rejected,
)
from slidecascade_lis.replies import STANDARD, OrderAnswer, patient_segment
from slidecascade_lis.results import result_messages
from slidecascade_lis.store import Change

_STATUSES: Final = {"accepted": "SC", "submitting": "IP", "submitted": "IP", "succeeded": "CM", "failed": "ER"}
_REPEATED: Final = ("ORC", "OBR", "SPM", "ZFR")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a message, as it is stored, and the receiver of what follows from it."""

    sender: str
    receiver: str


def taken_message(message: Message, lines: Sequence[str], origin: Origin) -> Taken:
    """The message as it is stored. MSH-7 is not part of its digest: some systems renew it when they send again."""
    head = [text for number, text in enumerate(message.msh.fields) if number != 7]
    digest = hashlib.sha256("\r".join(["|".join(head), *lines[1:]]).encode())
    return Taken(
        id=_new_id(),
        sender=origin.sender,
        control_id=message.control_id,
        sha256=digest.hexdigest(),
        kind="^".join(message.type),
        content=joined(lines),
    )


class Ordering:
    """Applies orders to the store, in a transaction of the caller."""

    def __init__(self, config: LisConfig) -> None:
        self._config = config

    def apply(
        self, change: Change, message: Message, taken: Taken, items: Sequence[OrderItem], receiver: str
    ) -> list[OrderAnswer]:
        """Do what the orders ask for; those of one message with the same number are parts of one order.

        Raises:
            RejectedMessageError: with the findings of all orders.
        """
        answers: list[OrderAnswer] = []
        findings: list[Finding] = []
        withdrawn: set[str] = set()
        for item in items:
            try:
                answers.append(self._act(change, message, taken, item, receiver, withdrawn))
            except RejectedMessageError as error:
                findings += error.findings
        if findings:
            raise RejectedMessageError(*findings[:20])
        return answers

    def _act(
        self, change: Change, message: Message, taken: Taken, item: OrderItem, receiver: str, withdrawn: set[str]
    ) -> OrderAnswer:
        """Do what one order asks for; `withdrawn`: the numbers that the message has withdrawn so far."""
        place = item.segments[0].place(2)
        stored = change.orders_of(taken.sender, item.placer)
        earlier = [order for order in stored if order.message_id != taken.id]
        if item.action is Action.STATUS:
            if not stored:
                raise rejected(UNKNOWN_KEY, "There is no order with this number.", place)
            latest = stored[-1]
            return OrderAnswer("SR", _STATUSES.get(latest.state, "CA"), latest.id, item.segments)
        if item.action is Action.NEW:
            if any(order.state not in ("failed", "cancelled") for order in earlier):
                text = "There is an order with this number already: change it with XO, or send a new number."
                raise rejected(DUPLICATE_KEY, text, place)
        elif item.placer not in withdrawn:
            self._withdraw(change, item, earlier)
            withdrawn.add(item.placer)
        control = REPLACED if item.control == "RP" else item.action.value
        if item.analysis is None:
            return OrderAnswer(control, "CA", earlier[-1].id, item.segments)
        order = self._order(message, taken, item, item.analysis, receiver)
        change.add_order(order)
        return OrderAnswer(control, "SC", order.id, item.segments)

    def _withdraw(self, change: Change, item: OrderItem, earlier: Sequence[OrderRecord]) -> None:
        """End what is active of an order, all its specimens."""
        place = item.segments[0].place(2)
        if not earlier:
            raise rejected(UNKNOWN_KEY, "There is no order with this number.", place)
        active = [order for order in earlier if order.active]
        if not active:
            raise rejected(LOCKED, "The order has ended and can be neither cancelled nor changed.", place)
        for order in active:
            change.end_order(order.id, "cancelled", stop=order.state != "accepted")
            if item.action is Action.CANCEL:
                change.put_outgoing(result_messages(order, cancelled(), self._config))

    def _order(
        self, message: Message, taken: Taken, item: OrderItem, analysis: Analysis, receiver: str
    ) -> OrderRecord:
        patient = patient_segment(message, self._config.results.patient_fields)
        own = [segment for name in _REPEATED if (segment := item.segment(name)) is not None]
        context = [] if patient is None else [patient]
        return OrderRecord(
            id=_new_id(),
            message_id=taken.id,
            sender=taken.sender,
            placer=item.placer,
            receiver=receiver,
            state="accepted",
            analysis=analysis,
            context=joined([*context, *(segment.encoded(STANDARD) for segment in own)]),
            processing=message.msh.text(11),
            job_id=None,
            attempts=0,
            created_at=time.time(),
            ended_at=None,
        )


def _new_id() -> str:
    """A random id, which leads to nobody."""
    return str(uuid4())
