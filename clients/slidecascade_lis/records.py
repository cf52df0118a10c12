"""What the store keeps; times in seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from slidecascade_lis.orders import Analysis

OrderState = Literal["accepted", "submitting", "submitted", "succeeded", "failed", "cancelled"]
ACTIVE: Final = ("accepted", "submitting", "submitted")


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that can be kept: `sender` is MSH-3 and MSH-4, `sha256` that of all but MSH-7."""

    id: str
    sender: str
    control_id: str
    sha256: str
    kind: str
    content: str


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A kept message and its reply."""

    id: str
    sender: str
    control_id: str
    sha256: str
    kind: str
    accepted: bool
    received_at: float
    content: str
    reply: str


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """An order; `context` has the segments that its results repeat, with standard delimiters."""

    id: str
    message_id: str
    sender: str
    placer: str
    receiver: str
    state: OrderState
    analysis: Analysis
    context: str
    processing: str
    job_id: str | None
    attempts: int
    created_at: float
    ended_at: float | None

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to deliver; `order_id` is None for an application response."""

    control_id: str
    message_id: str
    order_id: str | None
    receiver: str
    content: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A message of the outbox; `state` is pending, delivered or dead, `reason` that of the last failure."""

    position: int
    control_id: str
    message_id: str
    order_id: str | None
    receiver: str
    content: str
    state: str
    attempts: int
    next_at: float
    created_at: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Figures:
    """How much there is: orders by state; answers that are not delivered by receiver and state; and when the
    oldest pending one of each receiver was queued."""

    orders: Mapping[str, int]
    outbox: Mapping[tuple[str, str], int]
    oldest_at: Mapping[str, float]
