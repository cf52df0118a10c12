"""From a message to its orders, and to what is stored of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from slidecascade_lis.catalogue import Catalogue
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import Orders
from slidecascade_lis.er7 import Message
from slidecascade_lis.orders import OrderItem, read_orders
from slidecascade_lis.rejection import Finding, RejectedMessageError
from slidecascade_lis.store import Change

T = TypeVar("T")
Settle = Callable[[Change, Sequence[OrderItem], Sequence[Finding]], T]
"""Stores a message with its orders, or with its faults; raises RejectedMessageError when an order contradicts the
stored ones."""


@dataclass(frozen=True, slots=True)
class Settled(Generic[T]):
    """What `Settle` returned; the orders; the faults, without which the message was accepted."""

    value: T
    items: Sequence[OrderItem]
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Settlement:
    """Reads orders by `rules`, looks up what they name in `catalogue`, and stores what follows."""

    rules: Orders
    catalogue: Catalogue
    commits: Commits
    pseudonym_key: str | None

    async def of(self, message: Message, settle: Settle[T], *, urgent: bool = False) -> Settled[T]:
        """Settle a message; one whose orders contradict the stored ones is settled again, with these faults.

        Args:
            urgent: somebody waits for the answer.
        """
        items: Sequence[OrderItem] = ()
        findings: Sequence[Finding] = ()
        try:
            items = read_orders(message, self.rules, pseudonym_key=self.pseudonym_key)
            findings = tuple(await self.catalogue.findings(items))
            value = await self.commits.make(lambda change: settle(change, items, findings), urgent=urgent)
        except RejectedMessageError as error:
            findings = error.findings
            value = await self.commits.make(lambda change: settle(change, items, findings), urgent=urgent)
        return Settled(value, items, findings)
