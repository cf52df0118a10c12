"""Takes frames: every message is stored before it is acknowledged, or rejected with its reasons."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from slidecascade_lis.batches import split_batch
from slidecascade_lis.charsets import decoded, encoded
from slidecascade_lis.config import LisConfig
from slidecascade_lis.er7 import Message, joined, read_lines, read_message
from slidecascade_lis.framing import Frame
from slidecascade_lis.metrics import Observer
from slidecascade_lis.ordering import Ordering, Origin, taken_message
from slidecascade_lis.orders import OrderItem, check_header
from slidecascade_lis.records import Outgoing, Taken
from slidecascade_lis.rejection import (
    DUPLICATE_KEY,
    INTERNAL,
    SEQUENCE,
    Finding,
    Place,
    RejectedMessageError,
    rejected,
)
from slidecascade_lis.replies import STANDARD, Party, acknowledgement, application_response, patient_segment
from slidecascade_lis.settlement import Settlement
from slidecascade_lis.store import Change, UnavailableStoreError

LOG = logging.getLogger("slidecascade.lis")


class Intake:
    """Answers frames; `accepted` is called after each message that was accepted."""

    def __init__(
        self,
        config: LisConfig,
        settlement: Settlement,
        *,
        accepted: Callable[[], None],
        observer: Observer,
    ) -> None:
        self._config = config
        self._settlement = settlement
        self._ordering = Ordering(config)
        self._observer = observer
        self._accepted = accepted
        self._own = Party(config.application, config.facility)

    async def answer(self, frame: Frame) -> bytes | None:
        """The reply to a frame; None when its sender wants none."""
        started = time.perf_counter()
        try:
            reply = await self._reply(frame)
        except Exception:  # the boundary: whatever a message does to the bridge, it is answered
            LOG.exception("a message failed")
            finding = Finding(INTERNAL, "The bridge failed on this message: its log has the cause.")
            control = _control_of(frame.content)
            reply = acknowledgement(None, "AE", (finding,), own=self._own, control=control)
        if reply is None:
            return None
        self._observer.answered(reply, time.perf_counter() - started)
        return encoded(reply)

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
        origin = Origin("|".join(message.sender)[:500], self._config.receiver_of(message.sender[0]))
        taken = taken_message(message, lines, origin)

        def settle(change: Change, items: Sequence[OrderItem], findings: Sequence[Finding]) -> str:
            return self._settle(change, message, taken, origin.receiver, items, findings)

        settled = await self._settlement.of(message, settle, urgent=True)
        facts = {"message_id": taken.id, "accepted": not settled.findings, "orders": len(settled.items)}
        LOG.info("message", extra={"fields": facts})
        self._accepted()
        return settled.value if self._is_reply_wanted(message, failed=bool(settled.findings)) else None

    def _settle(
        self, change: Change, message: Message, taken: Taken, receiver: str, items: Sequence[OrderItem],
        findings: Sequence[Finding],
    ) -> str:  # fmt: skip
        """Store a message with what follows from it, in one transaction; the reply.

        Raises:
            RejectedMessageError: an order contradicts the stored ones; nothing was stored.
        """
        change.lock_sender(taken.sender)
        known = change.known(taken.sender, taken.control_id)
        if known is not None and known.accepted:
            if known.sha256 == taken.sha256:
                return known.reply
            text = "MSH-10 was used before for another message: send this one with a new control id."
            finding = Finding(DUPLICATE_KEY, text, Place("MSH", 1, 10))
            return self._accept_reply(message, "E", (finding,)) or ""
        answers = [] if findings else self._ordering.apply(change, message, taken, items, receiver)
        patient = patient_segment(message, self._config.results.patient_fields)
        code = "AE" if findings else "AA"
        response = application_response(message, code, answers, findings, own=self._own, patient=patient)
        reply = response
        if self._is_enhanced(message):
            reply = acknowledgement(message, "CA", own=self._own)
            if _wanted(message.msh.text(16), failed=bool(findings)):
                control = response.split("\r", 1)[0].split(STANDARD.field)[9]
                change.put_outgoing([Outgoing(control, taken.id, None, receiver, response)])
        change.put_message(taken, accepted=not findings, reply=reply, replaced=known)
        return reply

    def _accept_reply(self, message: Message, letter: str, findings: Sequence[Finding]) -> str | None:
        """AE or AR; CE or CR in enhanced mode, if the sender wants one."""
        if not self._is_reply_wanted(message, failed=True):
            return None
        mode = "C" if self._is_enhanced(message) else "A"
        return acknowledgement(message, f"{mode}{letter}", findings, own=self._own)

    def _is_enhanced(self, message: Message) -> bool:
        """Whether the application response comes later, by the outbox. A FHIR server takes none: where it is the
        receiver, the response is the reply."""
        is_asked = bool(message.msh.text(15) or message.msh.text(16))
        return is_asked and self._config.receiver_of(message.sender[0]) not in self._config.fhir

    def _is_reply_wanted(self, message: Message, *, failed: bool) -> bool:
        """By MSH-15; by MSH-16 too, where the reply is the application response."""
        fields = (15,) if self._is_enhanced(message) else (15, 16)
        return any(_wanted(message.msh.text(field), failed=failed) for field in fields)


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
