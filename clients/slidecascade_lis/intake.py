"""Takes frames: every message is stored before it is acknowledged, or rejected with its reasons."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from slidecascade_lis.catalogue import Catalogue
from slidecascade_lis.charsets import decoded, encoded
from slidecascade_lis.config import LisConfig
from slidecascade_lis.er7 import Message, joined, read_delimiters, read_lines, read_message
from slidecascade_lis.framing import Frame
from slidecascade_lis.orders import REPLACED, Action, Analysis, OrderItem, check_header, read_orders
from slidecascade_lis.records import OrderRecord, Outgoing, Taken
from slidecascade_lis.rejection import (
    DATA_TYPE,
    DUPLICATE_KEY,
    INTERNAL,
    LOCKED,
    SEQUENCE,
    UNKNOWN_KEY,
    Finding,
    Place,
    RejectedMessageError,
    rejected,
)
from slidecascade_lis.replies import (
    STANDARD,
    OrderAnswer,
    Party,
    acknowledgement,
    application_response,
    patient_segment,
)
from slidecascade_lis.results import cancelled, result_messages
from slidecascade_lis.store import Change, Store, UnavailableStoreError, new_id

LOG = logging.getLogger("slidecascade.lis")
_STATUSES: Final = {"accepted": "SC", "submitting": "IP", "submitted": "IP", "succeeded": "CM", "failed": "ER"}
_REPEATED: Final = ("ORC", "OBR", "SPM")


class Intake:
    """Answers frames; `accepted` is called after each message that was accepted."""

    def __init__(
        self,
        config: LisConfig,
        store: Store,
        catalogue: Catalogue,
        *,
        pseudonym_key: str | None,
        accepted: Callable[[], None],
    ) -> None:
        self._config = config
        self._store = store
        self._catalogue = catalogue
        self._pseudonym_key = pseudonym_key
        self._accepted = accepted
        self._own = Party(config.application, config.facility)

    async def answer(self, frame: Frame) -> bytes | None:
        """The reply to a frame; None when its sender wants none."""
        try:
            reply = await self._reply(frame)
        except Exception:  # the boundary: whatever a message does to the bridge, it is answered
            LOG.exception("a message failed")
            finding = Finding(INTERNAL, "The bridge failed on this message: its log has the cause.")
            control = _control_of(frame.content)
            reply = acknowledgement(None, "AE", (finding,), own=self._own, control=control)
        return None if reply is None else encoded(reply)

    async def _reply(self, frame: Frame) -> str | None:
        try:
            if frame.fault is not None:
                raise rejected(SEQUENCE, f"The message was not read: {frame.fault.value}.")
            lines = read_lines(decoded(frame.content))
            if not lines:
                raise rejected(SEQUENCE, "The frame is empty.")
            if lines[0].startswith(("FHS", "BHS")):
                return await self._batch(lines)
        except RejectedMessageError as error:
            control = _control_of(frame.content)
            return acknowledgement(None, "AE", error.findings, own=self._own, control=control)
        return await self._single(lines)

    async def _batch(self, lines: Sequence[str]) -> str:
        """Each message of a batch is taken by itself; the replies come as a batch."""
        replies = [await self._single(message) for message in split_batch(lines)]
        given = [reply for reply in replies if reply is not None]
        head = STANDARD.field.join(("BHS", STANDARD.msh_2, self._own.application, self._own.facility))
        return joined([head]) + "".join(given) + joined([f"BTS{STANDARD.field}{len(given)}"])

    async def _single(self, lines: Sequence[str]) -> str | None:
        try:
            message = read_message(lines)
        except RejectedMessageError as error:
            control = _control_of(lines[0].encode())
            return acknowledgement(None, "AE", error.findings, own=self._own, control=control)
        try:
            check_header(message)
        except RejectedMessageError as error:
            return self._accept_reply(message, "E", error.findings)
        try:
            return await self._take(message, lines)
        except UnavailableStoreError:
            LOG.error("a message could not be stored")
            finding = Finding(INTERNAL, "The message could not be stored: send it again later.")
            return self._accept_reply(message, "R", (finding,))

    async def _take(self, message: Message, lines: Sequence[str]) -> str | None:
        taken = _taken(message, lines)
        findings: tuple[Finding, ...] = ()
        items: tuple[OrderItem, ...] = ()
        try:
            items = read_orders(message, self._config.orders, pseudonym_key=self._pseudonym_key)
            findings = tuple(await self._catalogue.findings(items))
        except RejectedMessageError as error:
            findings = error.findings
        try:
            reply = await asyncio.to_thread(self._settle, message, taken, items, findings)
        except RejectedMessageError as error:
            findings = error.findings
            reply = await asyncio.to_thread(self._settle, message, taken, items, findings)
        LOG.info(
            "message", extra={"fields": {"message_id": taken.id, "accepted": not findings, "orders": len(items)}}
        )
        self._accepted()
        return reply if _wanted(message.msh.text(15), failed=bool(findings)) else None

    def _settle(
        self, message: Message, taken: Taken, items: Sequence[OrderItem], findings: Sequence[Finding]
    ) -> str:
        """Store a message with what follows from it, in one transaction; the reply.

        Raises:
            RejectedMessageError: an order contradicts the stored ones; nothing was stored.
        """
        with self._store.transaction() as change:
            change.lock_sender(taken.sender)
            known = change.known(taken.sender, taken.control_id)
            if known is not None and known.accepted:
                if known.sha256 == taken.sha256:
                    return known.reply
                text = "MSH-10 was used before for another message: send this one with a new control id."
                finding = Finding(DUPLICATE_KEY, text, Place("MSH", 1, 10))
                return self._accept_reply(message, "E", (finding,)) or ""
            answers = [] if findings else self._apply(change, message, taken, items)
            patient = patient_segment(message, self._config.results.patient_fields)
            code = "AE" if findings else "AA"
            response = application_response(message, code, answers, findings, own=self._own, patient=patient)
            reply = response
            if _is_enhanced(message):
                reply = acknowledgement(message, "CA", own=self._own)
                if _wanted(message.msh.text(16), failed=bool(findings)):
                    change.put_outgoing([self._queued(message, taken, response)])
            change.put_message(taken, accepted=not findings, reply=reply)
            return reply

    def _apply(
        self, change: Change, message: Message, taken: Taken, items: Sequence[OrderItem]
    ) -> list[OrderAnswer]:
        """Do what the orders ask for; those of one message with the same number are parts of one order."""
        answers: list[OrderAnswer] = []
        findings: list[Finding] = []
        for item in items:
            try:
                answers.append(self._act(change, message, taken, item))
            except RejectedMessageError as error:
                findings += error.findings
        if findings:
            raise RejectedMessageError(*findings[:20])
        return answers

    def _act(self, change: Change, message: Message, taken: Taken, item: OrderItem) -> OrderAnswer:
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
        else:
            self._withdraw(change, item, earlier, first=len(stored) == len(earlier))
        control = REPLACED if item.control == "RP" else item.action.value
        if item.analysis is None:
            return OrderAnswer(control, "CA", earlier[-1].id, item.segments)
        order = self._order(message, taken, item, item.analysis)
        change.add_order(order)
        return OrderAnswer(control, "SC", order.id, item.segments)

    def _withdraw(self, change: Change, item: OrderItem, earlier: Sequence[OrderRecord], *, first: bool) -> None:
        """End what is active of an order; `first`: this message has not replaced a part of it yet."""
        place = item.segments[0].place(2)
        if not earlier:
            raise rejected(UNKNOWN_KEY, "There is no order with this number.", place)
        active = [order for order in earlier if order.active]
        if not active and first:
            raise rejected(LOCKED, "The order has ended and can be neither cancelled nor changed.", place)
        for order in active:
            change.end_order(order.id, "cancelled", stop=order.state != "accepted")
            if item.action is Action.CANCEL:
                change.put_outgoing(result_messages(order, cancelled(), self._config))

    def _order(self, message: Message, taken: Taken, item: OrderItem, analysis: Analysis) -> OrderRecord:
        patient = patient_segment(message, self._config.results.patient_fields)
        own = [segment for name in _REPEATED if (segment := item.segment(name)) is not None]
        context = [] if patient is None else [patient]
        return OrderRecord(
            id=new_id(),
            message_id=taken.id,
            sender=taken.sender,
            placer=item.placer,
            receiver=self._config.receiver_of(message.sender[0]),
            state="accepted",
            analysis=analysis,
            context=joined([*context, *(segment.encoded(STANDARD) for segment in own)]),
            processing=message.msh.text(11),
            job_id=None,
            attempts=0,
            created_at=time.time(),
            ended_at=None,
        )

    def _queued(self, message: Message, taken: Taken, response: str) -> Outgoing:
        control = response.split("\r", 1)[0].split(STANDARD.field)[9]
        return Outgoing(control, taken.id, None, self._config.receiver_of(message.sender[0]), response)

    def _accept_reply(self, message: Message, letter: str, findings: Sequence[Finding]) -> str | None:
        """AE or AR; CE or CR in enhanced mode, if the sender wants one."""
        if not _is_enhanced(message):
            return acknowledgement(message, f"A{letter}", findings, own=self._own)
        if not _wanted(message.msh.text(15), failed=True):
            return None
        return acknowledgement(message, f"C{letter}", findings, own=self._own)


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


def _taken(message: Message, lines: Sequence[str]) -> Taken:
    """The message as it is stored. MSH-7 is not part of its digest: some systems renew it when they send again."""
    head = [text for number, text in enumerate(message.msh.fields) if number != 7]
    digest = hashlib.sha256("\r".join(["|".join(head), *lines[1:]]).encode())
    return Taken(
        id=new_id(),
        sender="|".join(message.sender)[:500],
        control_id=message.control_id,
        sha256=digest.hexdigest(),
        kind="^".join(message.type),
        content=joined(lines),
    )


def _is_enhanced(message: Message) -> bool:
    return bool(message.msh.text(15) or message.msh.text(16))


def _wanted(condition: str, *, failed: bool) -> bool:
    """Whether a field MSH-15 or MSH-16 asks for an acknowledgement (HL7 table 0155); empty: always."""
    return {"NE": False, "ER": failed, "SU": not failed}.get(condition, True)


def _control_of(content: bytes) -> str:
    """MSH-10 of a message that could not be read, where it can be found."""
    line = content[:4096].split(b"\r", 1)[0].split(b"\n", 1)[0].decode("latin-1")
    if not line.startswith("MSH") or len(line) < 4:
        return ""
    fields = line.split(line[3])
    control = fields[9] if len(fields) > 9 else ""
    return control[:199] if control.isascii() and control.isprintable() else ""
