"""The bridge as a process: listener, work and deliveries on one event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

from slidecascade_client import AsyncClient, RetryPolicy
from slidecascade_lis.catalogue import Catalogue
from slidecascade_lis.config import LisConfig, read_secret
from slidecascade_lis.delivery import Delivery
from slidecascade_lis.intake import Intake
from slidecascade_lis.listener import Listener
from slidecascade_lis.store import Store
from slidecascade_lis.work import Work

LOG = logging.getLogger("slidecascade.lis")
_NAMES_S: Final = 2.0
"""How long a message waits for the service to look up a name."""


async def serve(config: LisConfig) -> None:
    """Run the bridge until SIGTERM or SIGINT.

    Raises:
        SettingsError, ListenError, UnavailableStoreError: the bridge cannot start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    store = Store(config.store.database, busy_timeout_s=config.store.busy_timeout_s)
    try:
        await _run(config, store, stopped)
    finally:
        store.close()


async def _run(config: LisConfig, store: Store, stopped: asyncio.Event) -> None:
    service = config.service
    api_key = read_secret(service.api_key_file) if service.api_key_file else None
    pseudonym_key = read_secret(config.pseudonym_key_file) if config.pseudonym_key_file else None
    once = RetryPolicy(max_tries=1)
    deliveries = [Delivery(name, receiver, store) for name, receiver in config.receivers.items()]

    def wake_deliveries() -> None:
        for delivery in deliveries:
            delivery.wake()

    async with (
        AsyncClient(service.url, api_key=api_key, timeout_s=service.timeout_s, retry=once) as jobs,
        AsyncClient(service.url, api_key=api_key, timeout_s=_NAMES_S, retry=once) as names,
    ):
        work = Work(config, store, jobs, answered=wake_deliveries)

        def accepted() -> None:
            work.wake()
            wake_deliveries()

        catalogue = Catalogue(names, slides_may_come_later=config.orders.unknown_slide == "wait")
        intake = Intake(config, store, catalogue, pseudonym_key=pseudonym_key, accepted=accepted)
        listener = Listener(config.listen, intake.answer)
        port = await listener.start()
        LOG.info("listening", extra={"fields": {"port": port, "tls": config.listen.tls is not None}})
        tasks = [asyncio.create_task(run()) for run in (work.run, *(delivery.run for delivery in deliveries))]
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
