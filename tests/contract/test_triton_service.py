"""A served process whose networks run on a real Triton server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.peers import triton_server
from benchmarks.peers.triton_server import TritonServer

from served_process import Server, StartServer
from slidecascade.settings import bundled_models_dir

REGION = {"x": 100, "y": 60, "width": 600, "height": 500}
REQUEST = {"pipeline": "nash", "slide": "rendered.tiff", "region": REGION, "tile_px": 256}
MODELS = ("nash-cell", "nash-hepatocyte", "nuclei-unet")


@pytest.fixture(scope="module", autouse=True)
def _runtime() -> None:
    try:
        triton_server.runtime()
    except triton_server.NoTritonError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[list[TritonServer]]:
    """The running Triton server, last in the list, for tests to end it and put another in its place."""
    servers = [triton_server.start(bundled_models_dir(), folder)]
    yield servers
    servers[-1].stop()


@pytest.fixture(scope="module")
def expected(start_server: StartServer, slide_root: Path) -> dict[str, Any]:
    """The region's cells with the graphs that Triton has in the process."""
    server = start_server(slides=slide_root, precision="float32")
    found = analysed(server)
    assert server.stop() == 0
    return found


def analysed(server: Server) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/regions", json=REQUEST, timeout=120)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def require_same_cells(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Ids, outlines and classes equal, probabilities to the written digits.

    A server that joins calls may round a probability's last bit otherwise, and so the last digit.
    """
    assert len(expected["features"]) > 30
    assert len(found["features"]) == len(expected["features"])
    for one, other in zip(found["features"], expected["features"], strict=True):
        assert (one["id"], one["geometry"]) == (other["id"], other["geometry"])
        mine, others = one["properties"].pop("measurements"), other["properties"]["measurements"]
        assert one["properties"] == {
            name: value for name, value in other["properties"].items() if name != "measurements"
        }
        assert mine == pytest.approx(others, abs=1.1e-4)
    for member in ("models", "thresholds", "counts", "tiles", "region"):
        assert found["slidecascade"][member] == expected["slidecascade"][member]


def readiness(server: Server) -> httpx.Response:
    return httpx.get(f"{server.url}/readyz", timeout=60)


def test_a_region_is_answered_alike_while_triton_is_there(
    start_server: StartServer,
    slide_root: Path,
    servers: list[TritonServer],
    folder: Path,
    expected: dict[str, Any],
) -> None:
    """The cells are those of the local runner; without Triton the service is not ready until it is back."""
    server = start_server(slides=slide_root, runner="triton", triton_url=servers[-1].url)
    require_same_cells(analysed(server), expected)
    for model in MODELS:
        assert server.metric(f'slidecascade_batch_size_count{{model="{model}"}}') > 0

    assert server.metric("slidecascade_networks_ready") == 1

    servers[-1].kill()
    server.wait(lambda: server.metric("slidecascade_networks_ready") == 0)  # though nobody probes
    for answer in (readiness(server), httpx.post(f"{server.url}/v1/regions", json=REQUEST, timeout=60)):
        problem = answer.json()
        assert (answer.status_code, problem["type"].rpartition(":")[2]) == (503, "not-ready")
        assert "Triton server cannot be reached: start it" in problem["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert httpx.get(f"{server.url}/v2/health/ready", timeout=60).status_code == 503
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert server.metric('slidecascade_rejections_total{reason="not-ready"}') >= 2

    old = servers[-1]
    servers.append(triton_server.start(bundled_models_dir(), folder, ports=(old.http_port, old.grpc_port)))
    server.wait(lambda: readiness(server).status_code == 200)
    assert server.metric("slidecascade_networks_ready") == 1
    require_same_cells(analysed(server), expected)
    assert server.stop() == 0


def test_models_may_run_in_two_places(
    start_server: StartServer, slide_root: Path, servers: list[TritonServer], expected: dict[str, Any]
) -> None:
    """One network on Triton and the others in the process: the same cells, and readiness is that of both."""
    server = start_server(
        slides=slide_root, runner_by_model="nuclei-unet=triton,nash-cell=local", triton_url=servers[-1].url
    )
    require_same_cells(analysed(server), expected)
    servers[-1].kill()
    assert readiness(server).status_code == 503
    for model, side, status in (("nash-cell", 72, 200), ("nuclei-unet", 64, 503)):
        image = {"name": "image", "shape": [1, side, side, 3], "datatype": "UINT8", "data": [7] * side * side * 3}
        answer = httpx.post(f"{server.url}/v2/models/{model}/infer", json={"inputs": [image]}, timeout=60)
        assert answer.status_code == status, answer.text
    assert server.stop() == 0
