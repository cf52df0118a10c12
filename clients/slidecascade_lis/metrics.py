"""Prometheus metrics of the bridge. Labels are names of the configuration and of HL7, never ids."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slidecascade.errors import ListenError
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import Metrics
from slidecascade_lis.orders import RESPONSES
from slidecascade_lis.records import ACTIVE
from slidecascade_lis.store import Store, UnavailableStoreError

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STATES: Final = (*ACTIVE, "succeeded", "failed", "cancelled")
_TYPES: Final = {f"{code}_{event}": "^".join(order) for order, (code, event) in RESPONSES.items()} | {
    f"ACK_{order[1]}": "^".join(order) for order in RESPONSES
}
"""The types of orders by those of their replies."""
_MSA: Final = re.compile(r"\rMSA\|(A[AER]|C[AER])\|")


class Observer:
    """Counts what the bridge answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._messages = Counter(
            "slidecascade_lis_messages",
            "Answers to messages and ServiceRequests",
            ("type", "acknowledgement"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "slidecascade_lis_acknowledgement_seconds",
            "From a message to its stored answer",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )

    def answered(self, reply: str, seconds: float) -> None:
        """A reply to a frame; one to a batch is counted message by message."""
        for answer in reply.split("MSH|")[1:]:
            found = _MSA.search(answer)
            head = answer.split("\r", 1)[0].split("|")
            kind = _TYPES.get("_".join(head[7].split("^")[:2]), "other") if len(head) > 7 else "other"
            self._messages.labels(kind, found[1] if found else "other").inc()
        self._seconds.observe(seconds)

    def requested(self, *, accepted: bool) -> None:
        """A ServiceRequest that was taken or rejected."""
        self._messages.labels("ServiceRequest", "AA" if accepted else "AE").inc()


class StoreCollector(Collector):
    """What the store has at the moment of a scrape, and what was written."""

    def __init__(self, store: Store, commits: Commits, receivers: Iterable[str]) -> None:
        self._store = store
        self._commits = commits
        self._receivers = tuple(receivers)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the store is not read when the collector is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        made = CounterMetricFamily("slidecascade_lis_transactions", "Transactions, each with one fsync")
        made.add_metric((), self._commits.transactions)
        changes = CounterMetricFamily("slidecascade_lis_changes", "Changes that these transactions made")
        changes.add_metric((), self._commits.changes)
        yield from (made, changes)
        try:
            with self._store.snapshot() as change:
                figures = change.figures()
        except UnavailableStoreError:
            return
        orders = GaugeMetricFamily("slidecascade_lis_orders", "Orders in the store", labels=("state",))
        for state in _STATES:
            orders.add_metric((state,), figures.orders.get(state, 0))
        outbox = GaugeMetricFamily(
            "slidecascade_lis_outbox_messages", "Answers that are not delivered", labels=("receiver", "state")
        )
        oldest = GaugeMetricFamily(
            "slidecascade_lis_outbox_oldest_seconds", "Age of the oldest pending answer", labels=("receiver",)
        )
        for receiver in self._receivers:
            for state in ("pending", "dead"):
                outbox.add_metric((receiver, state), figures.outbox.get((receiver, state), 0))
            waited_s = time.time() - figures.oldest_at.get(receiver, time.time())
            oldest.add_metric((receiver,), max(waited_s, 0.0))
        yield from (orders, outbox, oldest)


def serve_metrics(metrics: Metrics, observer: Observer) -> None:
    """Answer scrapes in a thread, until the process ends.

    Raises:
        ListenError: the port is taken.
    """
    try:
        start_http_server(metrics.port, addr=metrics.host, registry=observer.registry)
    except OSError as error:
        address = f"{metrics.host}:{metrics.port}"
        raise ListenError(
            f"{address} cannot be listened at ({error.strerror}): choose another `metrics.port`."
        ) from error
