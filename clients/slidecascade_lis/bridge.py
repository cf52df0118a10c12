"""The bridge as a process: listener, work and deliveries on one event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Final

from slidecascade.errors import SettingsError
from slidecascade.fhir.server import FhirClient
from slidecascade_client import AsyncClient, RetryPolicy
from slidecascade_lis.carriers import FhirCarrier, MllpCarrier
from slidecascade_lis.catalogue import Catalogue
from slidecascade_lis.commits import Commits
from slidecascade_lis.config import LisConfig, read_secret
from slidecascade_lis.delivery import Delivery
from slidecascade_lis.intake import Intake
from slidecascade_lis.listener import Listener
from slidecascade_lis.metrics import Observer, StoreCollector, serve_metrics
from slidecascade_lis.requests import RequestIntake
from slidecascade_lis.settlement import Settlement
from slidecascade_lis.store import Change, Store, open_store
from slidecascade_lis.work import Work

LOG = logging.getLogger("slidecascade.lis")
_NAMES_S: Final = 2.0
"""How long a message waits for the service to look up a name."""
_SWITCH_S: Final = 0.0005
"""Each statement of the database releases the interpreter's lock, and its thread waits this long to have it back
while the event loop works; Python's 5 ms would be 50 ms for a message."""


async def serve(config: LisConfig) -> None:
    """Run the bridge until SIGTERM or SIGINT.

    Raises:
        SettingsError, ListenError, UnavailableStoreError: the bridge cannot start.
    """
    sys.setswitchinterval(_SWITCH_S)
    _leave_out("sniffio")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    store = open_store(config.store)
    commits = Commits(store)
    try:
        with store.snapshot() as change:
            require_receivers(config, change)
        with ExitStack() as open_servers:
            servers = {
                name: open_servers.enter_context(FhirClient(receiver.server))
                for name, receiver in config.fhir.items()
            }
            await _run(config, store, commits, servers, stopped)
    finally:
        await commits.close()
        store.close()


def require_receivers(config: LisConfig, change: Change) -> None:
    """Raises SettingsError where orders or answers wait for a receiver that was renamed or removed: nobody would
    deliver them."""
    awaited = change.awaited_receivers()
    for name in sorted(set(awaited) - {*config.receivers, *config.fhir}):
        raise SettingsError(
            f"Orders and answers in the store ({awaited[name]}) wait for the receiver {name!r}, which is not "
            "configured: add it again by its name until they are delivered, with `give_up_after_hours: 0.01` to "
            "give up what it does not take."
        )


def _leave_out(module: str) -> None:
    """Let imports of a module that is not installed fail at once. httpcore tries to import sniffio several times
    in each request, and each time all folders of ``sys.path`` would be searched."""
    if find_spec(module) is None:
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]


def _deliveries(
    config: LisConfig, store: Store, commits: Commits, servers: Mapping[str, FhirClient]
) -> list[Delivery]:
    to_lis = [
        Delivery(name, receiver, MllpCarrier(receiver), store, commits)
        for name, receiver in config.receivers.items()
    ]
    to_fhir = [
        Delivery(name, receiver, FhirCarrier(servers[name]), store, commits)
        for name, receiver in config.fhir.items()
    ]
    return to_lis + to_fhir


def _observer(config: LisConfig, store: Store, commits: Commits) -> Observer:
    """Counts, and answers scrapes if configured."""
    observer = Observer()
    observer.registry.register(StoreCollector(store, commits, (*config.receivers, *config.fhir)))
    if config.metrics is not None:
        serve_metrics(config.metrics, observer)
    return observer


async def _run(
    config: LisConfig,
    store: Store,
    commits: Commits,
    servers: Mapping[str, FhirClient],
    stopped: asyncio.Event,
) -> None:
    service = config.service
    api_key = read_secret(service.api_key_file) if service.api_key_file else None
    pseudonym_key = read_secret(config.pseudonym_key_file) if config.pseudonym_key_file else None
    once = RetryPolicy(max_tries=1)
    deliveries = _deliveries(config, store, commits, servers)
    observer = _observer(config, store, commits)

    def wake_deliveries() -> None:
        for delivery in deliveries:
            delivery.wake()

    async with (
        AsyncClient(service.url, api_key=api_key, timeout_s=service.timeout_s, retry=once) as jobs,
        AsyncClient(service.url, api_key=api_key, timeout_s=_NAMES_S, retry=once) as names,
    ):
        work = Work(config, store, commits, jobs, answered=wake_deliveries)

        def accepted() -> None:
            work.wake()
            wake_deliveries()

        catalogue = Catalogue(names, slides_may_come_later=config.orders.unknown_slide == "wait")
        settlement = Settlement(config.orders, catalogue, commits, pseudonym_key)
        intake = Intake(config, settlement, accepted=accepted, observer=observer)
        polled = [
            RequestIntake(
                name, config, receiver.requests, servers[name], settlement, accepted=accepted, observer=observer
            )
            for name, receiver in config.fhir.items()
            if receiver.requests is not None
        ]
        listener = Listener(config.listen, intake.answer)
        port = await listener.start()
        LOG.info("listening", extra={"fields": {"port": port, "tls": config.listen.tls is not None}})
        runs = [work.run, *(one.run for one in deliveries), *(one.run for one in polled)]
        tasks = [asyncio.create_task(run()) for run in runs]
        waiting = asyncio.create_task(stopped.wait())
        try:
            done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()  # work and deliveries never end by themselves: this raises their error
        finally:
            LOG.info("stopping")
            await listener.stop()
            for task in (waiting, *tasks):
                task.cancel()
            await asyncio.gather(waiting, *tasks, return_exceptions=True)
