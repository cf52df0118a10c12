"""The memory of a real process under load: it levels off, and does not grow in steps."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx

from served_process import Server, StartServer
from toy_pipeline import ToyPipeline, blobs

CALLERS = 3
MARGIN_MIB = 40
"""Below what three regions take: nothing of a region is kept for each one that was answered."""


def resident_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def test_memory_levels_off_under_load(start_server: StartServer, tmp_path: Path) -> None:
    """After the first regions of all callers at a time, thirty more add less than a few of them took."""
    toy = ToyPipeline(tmp_path)
    server = start_server(models=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=2)
    image = bytes(cv2.imencode(".png", blobs(1, 1200, 1200, 400)[:, :, ::-1])[1])
    request = json.dumps({"pipeline": "toy", "mpp": 0.5}).encode()

    def post(_number: int) -> None:
        form = {"image": ("a.png", image), "request": ("request.json", request)}
        httpx.post(f"{server.url}/v1/regions", files=form, timeout=120).raise_for_status()

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(post, range(4 * CALLERS)))
        before_mib = resident_mib(server)
        list(callers.map(post, range(10 * CALLERS)))
    assert resident_mib(server) < before_mib + MARGIN_MIB
