"""The memory of a served process, measured while it works."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import png_files
from served_process import Server, StartServer

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="high-water marks of memory are Linux's")


def memory_mib(server: Server, name: str) -> float:
    """A line of the process's status: ``VmRSS`` now, ``VmHWM`` at most since `forget`."""
    text = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name)) / 1024


def forget(server: Server) -> None:
    """Let the high-water mark begin anew."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="ascii")


def test_small_files_of_huge_images_stay_within_the_budget(start_server: StartServer) -> None:
    """A file of less than a megabyte with 800 MB of samples, twice at a time: one waits for the other.

    The samples are black, so that no network runs: what is measured is the decoding.
    """
    budget_mib = 600
    server = start_server(memory_mib=budget_mib)
    image = png_files.zeros(10_000, 10_000)
    assert len(image) < MIB
    files = {"image": image, "request": b'{"pipeline": "nuclei", "mpp": 0.5}'}
    idle_mib = memory_mib(server, "VmRSS")
    forget(server)

    with ThreadPoolExecutor(2) as clients:
        sent = [clients.submit(httpx.post, f"{server.url}/v1/regions", files=files, timeout=120) for _ in range(2)]
        answers = [answer.result() for answer in sent]

    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert memory_mib(server, "VmHWM") - idle_mib < 3 * 100 + 60  # the pixels of one, not those of two
    server.wait(lambda: server.metric("slidecascade_memory_reserved_bytes") == 0)
    assert server.metric("slidecascade_memory_limit_bytes") == budget_mib * MIB
