"""A process that reads a slide and dies takes requests on that slide with it, and the service lives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

import proc
from plain_slide import write_slide
from served_process import Server, StartServer
from toy_pipeline import ToyPipeline

REGION = {"pipeline": "toy", "slide": "a.tif", "mpp": 0.5}


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path) -> Server:
    toy = ToyPipeline(tmp_path)
    write_slide(tmp_path / "slides" / "a.tif", side=512)
    write_slide(tmp_path / "slides" / "b.tif", side=256)
    return start_server(
        models=toy.models_dir, pipelines_dir=toy.pipelines_dir, slides=tmp_path / "slides", threads=1, decoders=1
    )


def post(server: Server, slide: str = "a.tif") -> httpx.Response:
    body = REGION | {"slide": slide}
    return httpx.post(f"{server.url}/v1/regions", json=body, headers={"Accept": "application/json"}, timeout=120)


def tile(server: Server, column: int) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/slides/a.tif/dzi_files/9/{column}_0.jpeg", timeout=120)


def kill_reader(server: Server, other: int) -> None:
    """End the process that reads the slide that `other` does not read."""
    (reader,) = set(server.slide_readers()) - {other}
    os.kill(reader, signal.SIGKILL)
    server.wait(lambda: not proc.is_running(reader))


def test_a_reader_that_dies_takes_a_request_on_its_slide_with_it(server: Server) -> None:
    """Requests after it find another process, a region tries its tiles twice, and other slides stay open."""
    assert post(server, "b.tif").status_code == 200
    (other,) = server.slide_readers()
    assert tile(server, 0).status_code == 200
    kill_reader(server, other)
    problem = tile(server, 1)
    assert problem.status_code == 422
    assert problem.json()["type"].endswith(":unreadable-slide")
    assert "the process that read it ended" in problem.json()["detail"]
    assert server.metric("slidecascade_decoders_ended_total") == 1
    assert tile(server, 1).status_code == 200
    kill_reader(server, other)
    assert post(server).status_code == 200
    assert server.metric("slidecascade_decoders_ended_total") == 2
    assert server.process.poll() is None
    assert post(server, "b.tif").status_code == 200
    assert other in server.slide_readers()
    assert httpx.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_reader_outlives_the_service(server: Server, number: signal.Signals) -> None:
    """However it ends: they end with their sockets."""
    assert post(server).status_code == 200
    assert httpx.get(f"{server.url}/v1/slides").json()["slides"] == [{"id": "a.tif"}, {"id": "b.tif"}]
    server.wait(lambda: len(server.slide_readers()) == 1)  # the one that looked at the list has ended
    processes = [server.slide_template(), *server.slide_readers(), *server.decoders()]
    server.process.send_signal(number)
    server.process.wait(60)
    server.wait(lambda: not any(proc.is_running(pid) for pid in processes))
