"""A real Prometheus scrapes a served process with the rules and queries of ``deploy/``."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deployment import PROMETHEUS, RULES, Query, loaded, panel_queries, rules, variables
from served_process import Server, StartServer, Upload, free_port

BINARY = shutil.which("prometheus")
SCRAPE = "1s"
WINDOW = "2m"
START_S = 60.0

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="prometheus is not on this machine (Debian: apt-get install prometheus)"
)


@dataclass
class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expr: str) -> list[float]:
        """The value of every series the expression has now."""
        return [float(series["value"][1]) for series in self.ask("query", query=expr)["result"]]

    def wait(self, condition: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < ends_at
            time.sleep(0.2)

    def alerts(self) -> dict[str, str]:
        """The state of every alert that is not quiet, by its name."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self.ask("alerts")["alerts"]}


@pytest.fixture(scope="module")
def watched(start_server: StartServer, slide_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A process with one slot, so that a second region is rejected, whose networks run in batches, with jobs."""
    jobs = tmp_path_factory.mktemp("jobs")
    return start_server(
        slides=slide_root, max_regions_in_flight=1, batching="on", jobs_dir=jobs, jobs_min_free_bytes=0
    )


@pytest.fixture(scope="module")
def prometheus(watched: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The configuration of ``deploy/``, with another target and without the waiting."""
    assert BINARY is not None
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = loaded(PROMETHEUS)
    configuration["global"] = dict.fromkeys(configuration["global"], SCRAPE)
    configuration["rule_files"] = [str(RULES)]
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{watched.port}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [
        BINARY,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    made = Prometheus(f"http://{address}")
    try:
        made.wait(lambda: process.poll() is not None or _is_ready(made))
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        yield made
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def traffic(server: Server, tissue_png: bytes) -> None:
    """Responses, errors, a rejected region, and a client disconnect."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        request = json.dumps({"pipeline": "nash", "mpp": 0.5})
        files: dict[str, Any] = {"image": tissue_png, "request": (None, request)}
        assert client.post("/v1/regions", files=files).status_code == 200
        assert client.get("/v1/slides/ward 7/nested.tiff").status_code == 200
        assert client.get("/nothing").status_code == 404
        assert client.post("/v1/regions", json={"pipeline": "gold", "slide": "rendered.tiff"}).status_code == 404
        held = Upload(server, body=b'{"pipeline": "nash", "slide": "rendered.tiff", "tile_px": 64}')
        held.send()
        server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 1)
        assert client.post("/v1/regions", json={}).status_code == 429
        held.close()
        server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 0)


@pytest.fixture(scope="module")
def scraped(prometheus: Prometheus, watched: Server, tissue_png: bytes) -> Prometheus:
    """Traffic before a scrape and after it: what a rate needs."""
    answered = 'slidecascade_requests_total{route="/v1/regions", status="200"}'
    for seen in (1.0, 2.0):
        traffic(watched, tissue_png)
        prometheus.wait(lambda seen=seen: prometheus.values(answered) == [seen])  # type: ignore[misc]  # as written
    return prometheus


@pytest.mark.parametrize("query", [*panel_queries()], ids=lambda query: query.owner)
def test_every_panel_has_data(scraped: Prometheus, query: Query) -> None:
    """A panel that shows nothing after traffic of every kind would show nothing ever."""
    values = scraped.values(query.filled(window=WINDOW))
    assert any(math.isfinite(value) for value in values)


def test_the_dashboard_offers_choices(scraped: Prometheus) -> None:
    """The lists at the dashboard's head have entries."""
    asked = [variable for variable in variables() if variable["type"] == "query"]
    assert asked
    for variable in asked:
        metric = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
        assert scraped.ask(f"label/{variable['name']}/values", **{"match[]": metric})


def test_every_rule_is_evaluated(scraped: Prometheus) -> None:
    """Prometheus evaluates each without an error, and an hour of this would alert only for the overload."""
    scraped.wait(lambda: all(rule["health"] != "unknown" for rule in _rules(scraped)))
    assert {rule["name"] for rule in _rules(scraped)} == {rule["alert"] for rule in rules()}
    assert {(rule["health"], rule.get("lastError", "")) for rule in _rules(scraped)} == {("ok", "")}
    scraped.wait(lambda: scraped.alerts() == {"SlideCascadeOverloaded": "pending"})


def _rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]


def test_no_slide_reaches_prometheus(scraped: Prometheus) -> None:
    """No metric contains a slide's name, whatever was requested."""
    series = scraped.ask("series", **{"match[]": '{job="slidecascade"}'})
    assert len(series) > 50
    assert not [labels for labels in series if "tiff" in str(labels) or "ward" in str(labels)]


def test_a_stopping_process_is_seen(scraped: Prometheus, watched: Server) -> None:
    """While it drains it is not ready, then it is down; each starts the clock of its alert."""
    held = Upload(watched)
    watched.wait(lambda: watched.metric("slidecascade_bodies_arriving") == 1)
    watched.process.send_signal(signal.SIGTERM)
    scraped.wait(lambda: scraped.alerts().get("SlideCascadeNotReady") == "pending")
    assert held.finish().status_code == 200
    assert watched.process.wait(30) == 0
    scraped.wait(lambda: scraped.alerts().get("SlideCascadeDown") == "pending")
