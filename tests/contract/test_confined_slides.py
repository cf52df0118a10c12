"""A process that reads a slide and dies takes requests on that slide with it, and the service lives."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
    write_slide(tmp_path / "slides" / "a.tif", side=256)
    write_slide(tmp_path / "slides" / "b.tif", side=256)
    return start_server(
        models=toy.models_dir, pipelines_dir=toy.pipelines_dir, slides=tmp_path / "slides", threads=1, decoders=1
    )


def post(server: Server, slide: str = "a.tif") -> httpx.Response:
    body = REGION | {"slide": slide}
    return httpx.post(f"{server.url}/v1/regions", json=body, headers={"Accept": "application/json"}, timeout=120)


def test_a_reader_that_dies_takes_requests_on_its_slide_with_it(server: Server) -> None:
    """One death is survived, as a tile is tried twice; a slide that ends each process is 422, and no other is."""
    assert post(server, "b.tif").status_code == 200
    (other,) = server.slide_readers()
    assert post(server).status_code == 200
    (reader,) = (pid for pid in server.slide_readers() if pid != other)
    os.kill(reader, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(post, server)
        server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 1)
        while not answer.done():
            for pid in set(server.slide_readers()) - {other}:
                with suppress(ProcessLookupError):
                    if pid == reader or proc.has_filter(pid):  # before, it has not seen the slide
                        os.kill(pid, signal.SIGKILL)
        problem = answer.result()
    assert problem.status_code == 422
    assert problem.json()["type"].endswith(":unreadable-slide")
    assert "the process that read it ended" in problem.json()["detail"]
    assert server.metric("slidecascade_decoders_ended_total") >= 2
    assert server.process.poll() is None
    assert post(server).status_code == 200
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
