"""Health checks and scrapes while the networks are away, or hang."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import NotReadyError
from slidecascade.metrics import Metrics
from slidecascade.web import readiness as readiness_module
from slidecascade.web.readiness import Readiness


class Networks:
    """What an analyser says of its networks: nothing until `answers` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False
        self.answers = threading.Event()
        self.answers.set()

    def check_ready(self) -> None:
        self.asked += 1
        assert self.answers.wait(10)
        if self.away:
            raise NotReadyError("They are away: start them.", retry_after_s=2)


def gauge_line(metrics: Metrics) -> str:
    page = metrics.expose().decode()
    return next(line for line in page.splitlines() if line.startswith("slidecascade_networks_ready "))


async def test_a_scrape_reports_whether_networks_can_be_run() -> None:
    """It asks them itself: no probe and no region is needed for an alert."""
    networks, metrics = Networks(), Metrics()
    readiness = Readiness(cast("Analyser", networks), metrics, retry_after_s=2)
    for away, line in ((False, "1.0"), (True, "0.0"), (False, "1.0")):
        networks.away = away
        await readiness.update_gauge()
        assert gauge_line(metrics) == f"slidecascade_networks_ready {line}"
    readiness.close()


async def test_the_log_says_when_networks_go_and_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, also at a start without requests."""
    monkeypatch.setattr(readiness_module, "_FIRST_S", 0.0)
    networks = Networks()
    readiness = Readiness(cast("Analyser", networks), Metrics(), retry_after_s=2)
    networks.away = True
    with caplog.at_level("INFO", "slidecascade"):
        await readiness.begin()
        for away in (True, False, False):
            networks.away = away
            await readiness.update_gauge()
    assert caplog.messages == ["networks cannot be run", "networks can be run again"]
    assert caplog.records[0].fields == {"reason": "They are away: start them."}  # type: ignore[attr-defined]  # extra
    readiness.close()


async def test_hanging_networks_do_not_block_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent requests share one check, get an error after the timeout, and the result once it is known."""
    monkeypatch.setattr(readiness_module, "PATIENCE_S", 0.05)
    networks, metrics = Networks(), Metrics()
    readiness = Readiness(cast("Analyser", networks), metrics, retry_after_s=2)
    networks.answers.clear()
    asked = await asyncio.gather(*(readiness.require() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(error, NotReadyError) and "did not respond within" in str(error) for error in asked)
    await readiness.update_gauge()
    assert (networks.asked, gauge_line(metrics)) == (1, "slidecascade_networks_ready 0.0")
    networks.answers.set()
    await readiness.require()
    assert networks.asked == 1
    readiness.close()


async def test_a_scrape_does_not_wait_for_networks_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said last holds until they have had their time; then it is no."""
    monkeypatch.setattr(readiness_module, "_SCRAPE_S", 0.02)
    networks, metrics = Networks(), Metrics()
    readiness = Readiness(cast("Analyser", networks), metrics, retry_after_s=2)
    await readiness.require()
    metrics.networks_ready(True)
    networks.answers.clear()
    async with asyncio.timeout(1.0):
        await readiness.update_gauge()
    assert gauge_line(metrics) == "slidecascade_networks_ready 1.0"
    monkeypatch.setattr(readiness_module, "PATIENCE_S", 0.0)
    await readiness.update_gauge()
    assert gauge_line(metrics) == "slidecascade_networks_ready 0.0"
    networks.answers.set()
    readiness.close()
