"""A decoder that dies takes one request of a served process with it."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

import odd_images
from served_process import StartServer
from toy_pipeline import ToyPipeline

REQUEST = json.dumps({"pipeline": "toy", "mpp": 0.5}).encode()


def post(url: str) -> httpx.Response:
    parts = {"image": ("image", odd_images.saved("PNG")), "request": ("request", REQUEST)}
    return httpx.post(f"{url}/v1/regions", files=parts, headers={"Accept": "application/json"}, timeout=120)


def test_a_decoder_that_dies_takes_one_request_with_it(start_server: StartServer, tmp_path: Path) -> None:
    """422 with a sentence; the next upload is analysed, and the service has not ended."""
    toy = ToyPipeline(tmp_path)
    server = start_server(models=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=1, decoders=1)
    assert post(server.url).status_code == 200
    (decoder,) = server.decoders()
    os.kill(decoder, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(post, server.url)
        server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 1)
        os.kill(decoder, signal.SIGKILL)
        problem = answer.result()
    assert problem.status_code == 422
    assert problem.json()["type"].endswith(":undecodable-image")
    assert "the decoder ended on it" in problem.json()["detail"]
    assert post(server.url).status_code == 200
    assert server.decoders() != [decoder]
    assert server.metric("slidecascade_decoders_ended_total") == 1
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    (decoder,) = server.decoders()
    assert server.stop() == 0
    server.wait(lambda: not Path(f"/proc/{decoder}").exists())
