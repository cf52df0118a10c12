"""Starting, overload, draining and stopping of real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from served_process import Server, StartServer, Upload, environment, free_port, launch
from slidecascade import wire
from slidecascade.settings import bundled_models_dir

Stalled = Callable[[Server], Upload]


def problem_of(response: httpx.Response) -> wire.Problem:
    return wire.Problem.model_validate_json(response.content)


@pytest.fixture
def own_server(start_server: StartServer, slide_root: Path, request: pytest.FixtureRequest) -> Server:
    """A process of the test's own."""
    settings = {"max_regions_in_flight": 2, "drain_notice_s": 0.5} | getattr(request, "param", {})
    return start_server(slides=slide_root, **settings)


HELD = """
import pathlib, sys, time
import slidecascade.analysis.analyser
from slidecascade.cli import main

def hold(name):
    kept = getattr(slidecascade.analysis.analyser.Analyser, name)
    def held(*args, **kwargs):
        while not pathlib.Path(sys.argv[2]).exists():
            time.sleep(0.01)
        return kept(*args, **kwargs)
    setattr(slidecascade.analysis.analyser.Analyser, name, held)

hold("analyse")
hold("infer")
sys.exit(main(["serve", "--port", sys.argv[1], "--slides", sys.argv[3]]))
"""
"""A server whose regions and inferences wait until a file exists."""


class Gate:
    """A server that begins no work before it is opened."""

    def __init__(self, home: Path, slides: Path, **settings: object) -> None:
        self._file = home / "opened"
        port = free_port()
        command = [sys.executable, "-c", HELD, str(port), str(self._file), str(slides)]
        self.server = launch(command, port=port, home=home, **settings)

    def open(self) -> None:
        self._file.touch()


@pytest.fixture
def gate(tmp_path: Path, slide_root: Path) -> Iterator[Gate]:
    """With two slots for regions and one for inferences."""
    made = Gate(tmp_path, slide_root, max_regions_in_flight=2, max_inferences_in_flight=1, drain_notice_s=0.5)
    yield made
    made.open()
    assert made.server.stop() == 0


def test_overload_is_reported_before_the_body_is_sent(gate: Gate) -> None:
    """While all slots are taken a client gets Retry-After before it sends its image."""
    server = gate.server
    first, second = Upload(server), Upload(server)
    first.send()
    second.send()
    server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 2)
    refused = Upload(server).answer()  # half of its body is never sent
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert problem_of(refused).name == "overloaded"
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.metric('slidecascade_rejections_total{reason="overloaded"}') == 1
    big = httpx.post(f"{server.url}/v1/regions", files={"image": b"x" * 2**25, "request": b"{}"}, timeout=60)
    assert big.status_code == 429
    gate.open()
    assert [first.answer().status_code, second.answer().status_code] == [200, 200]
    assert Upload(server).finish().status_code == 200


def test_a_body_that_arrives_when_no_slot_is_left_is_overload(gate: Gate) -> None:
    """Slow uploads take no slot, so the last of them may find none and gets `overloaded`."""
    server = gate.server
    slow = Upload(server)
    server.wait(lambda: server.metric("slidecascade_bodies_arriving") == 1)
    quick = [Upload(server), Upload(server)]
    for upload in quick:
        upload.send()
    server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 2)
    refused = slow.finish()
    assert (refused.status_code, refused.headers["retry-after"], problem_of(refused).name) == (
        429,
        "2",
        "overloaded",
    )
    gate.open()
    assert [upload.answer().status_code for upload in quick] == [200, 200]


def test_a_drain_finishes_what_is_in_flight(own_server: Server, stalled: Stalled) -> None:
    """After SIGTERM a region in flight is finished, new ones are refused, readiness falls, liveness stays."""
    upload = stalled(own_server)
    own_server.process.send_signal(signal.SIGTERM)
    own_server.wait(lambda: httpx.get(f"{own_server.url}/readyz").status_code == 503)
    for response in (
        httpx.get(f"{own_server.url}/readyz"),
        httpx.get(f"{own_server.url}/v1/slides"),
        httpx.post(f"{own_server.url}/v1/regions", json={}),
        httpx.post(f"{own_server.url}/analyze_region", json={}),
    ):
        problem = problem_of(response)
        assert (problem.status, problem.name, response.headers["retry-after"]) == (503, "draining", "2")
    assert httpx.get(f"{own_server.url}/livez").status_code == 200
    own_server.wait_for_end_of_notice()  # the region in flight keeps the listener open
    assert httpx.get(f"{own_server.url}/livez").status_code == 200
    answer = upload.finish()
    assert answer.status_code == 200
    assert answer.json()["type"] == "FeatureCollection"
    assert own_server.process.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{own_server.url}/livez")


IMAGE = {"name": "image", "shape": [1, 72, 72, 3], "datatype": "UINT8", "data": [7] * (72 * 72 * 3)}
INFER = "/v2/models/nash-cell/infer"


def test_a_drain_finishes_inferences_in_flight(gate: Gate) -> None:
    """As for regions: one in flight is finished after SIGTERM, new ones are rejected by the protocol."""
    own_server = gate.server
    upload = Upload(own_server, path=INFER, body=json.dumps({"inputs": [IMAGE]}).encode())
    upload.send()
    own_server.wait(lambda: own_server.metric("slidecascade_inferences_in_flight") == 1)
    full = httpx.post(f"{own_server.url}{INFER}", json={"inputs": [IMAGE]})
    assert (full.status_code, full.headers["retry-after"]) == (429, "2")
    refused = 'slidecascade_requests_total{method="POST",route="/v2/models/{name}/infer",status="429"}'
    assert own_server.metric(refused) == 1

    own_server.process.send_signal(signal.SIGTERM)
    own_server.wait(lambda: httpx.get(f"{own_server.url}/v2/health/ready").status_code == 503)
    late = httpx.post(f"{own_server.url}{INFER}", json={"inputs": [IMAGE]})
    assert (late.status_code, late.headers["retry-after"], list(late.json())) == (503, "2", ["error"])
    assert "stopping" in late.json()["error"]
    own_server.wait_for_end_of_notice()  # the inference in flight keeps the listener open
    assert httpx.get(f"{own_server.url}/livez").status_code == 200
    gate.open()
    answer = upload.answer()
    assert answer.status_code == 200
    assert sum(answer.json()["outputs"][0]["data"]) == pytest.approx(1)
    assert own_server.process.wait(20) == 0


@pytest.mark.parametrize("own_server", [{"drain_grace_s": 1.0}], indirect=True)
def test_an_inference_beyond_the_grace_period_gets_draining(own_server: Server) -> None:
    """It is answered before the process ends."""
    upload = Upload(own_server, path=INFER, body=json.dumps({"inputs": [IMAGE]}).encode())
    own_server.wait(lambda: own_server.metric("slidecascade_bodies_arriving") == 1)
    own_server.process.send_signal(signal.SIGTERM)
    answer = upload.answer()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "stopped before the request was finished" in answer.json()["error"]
    assert own_server.process.wait(20) == 0


def test_an_idle_process_drains_for_the_notice(own_server: Server) -> None:
    """Load balancers have time to notice the readiness change; then the process exits with 0."""
    started = time.monotonic()
    own_server.process.send_signal(signal.SIGINT)
    own_server.wait(lambda: httpx.get(f"{own_server.url}/readyz").status_code == 503)
    assert own_server.process.wait(20) == 0
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize("own_server", [{"drain_grace_s": 1.0}], indirect=True)
def test_work_beyond_the_grace_period_gets_draining(own_server: Server, stalled: Stalled) -> None:
    """A region that is not finished in time gets `draining`, and the process still exits with 0."""
    upload = stalled(own_server)
    own_server.process.send_signal(signal.SIGTERM)
    answer = upload.answer()
    assert (answer.status_code, problem_of(answer).name) == (503, "draining")
    assert own_server.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_immediately(
    own_server: Server, stalled: Stalled, number: signal.Signals
) -> None:
    """The region in flight would otherwise have a minute."""
    stalled(own_server)
    own_server.process.send_signal(number)
    own_server.wait(lambda: httpx.get(f"{own_server.url}/readyz").status_code == 503)
    own_server.process.send_signal(number)
    assert own_server.process.wait(30) == -number


STUCK = """
import sys, time
from slidecascade.analysis import preparation
from slidecascade.cli import main

assert preparation.open_image
preparation.open_image = lambda *_, **__: time.sleep(1000)
sys.exit(main(["serve", "--port", sys.argv[1]]))
"""


def test_a_thread_that_never_ends_does_not_block_other_requests(tmp_path: Path) -> None:
    """A region stuck in decoding is answered when its time is up, and is load until the process ends."""
    port = free_port()
    command = [sys.executable, "-c", STUCK, str(port)]
    settings = {"max_regions_in_flight": 1, "drain_grace_s": 0.2, "drain_notice_s": 0.0}
    server = launch(command, port=port, home=tmp_path, **settings)
    request = '{"pipeline": "nuclei", "mpp": 0.5, "deadline_s": 0.2}'
    files = {"image": b"x", "request": request.encode()}
    try:
        late = httpx.post(f"{server.url}/v1/regions", files=files, timeout=60)
        assert (late.status_code, problem_of(late).name) == (504, "deadline-exceeded")
        assert server.metric("slidecascade_regions_in_flight") == 1
        assert httpx.post(f"{server.url}/v1/regions", files=files, timeout=60).status_code == 429
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    finally:
        code = server.stop()
    assert code == 1
    assert server.lines()[-1]["message"] == "threads still running at exit"


def run_serve(home: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slidecascade", "serve", *arguments]
    known = environment(home, **settings)
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_one_sentence(server: Server, tmp_path: Path) -> None:
    """The port is named, and what to do."""
    ended = run_serve(tmp_path, "--port", str(server.port))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert str(server.port) in ended.stderr
    assert "--port" in ended.stderr


def test_a_host_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    """The address is named, not the port."""
    arguments = ["--host", "nowhere.invalid", "--port", str(free_port())]
    ended = run_serve(tmp_path, *arguments, allow_anonymous=True)  # authentication is not what is tested here
    assert (ended.returncode, ended.stderr) == (
        1,
        "slidecascade: 'nowhere.invalid' is not an address of this machine: set another --host.\n",
    )


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path: Path, device: str) -> None:
    """The service does not start on the CPU instead, and ONNX Runtime adds no lines of its own."""
    ended = run_serve(tmp_path, "--port", str(free_port()), device=device)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"SLIDECASCADE_DEVICE is '{device}'" in ended.stderr


@pytest.mark.parametrize("own_server", [{"max_region_in_flight": 3}], indirect=True)
def test_a_misspelt_setting_is_reported(own_server: Server) -> None:
    """It is no setting: the log says so, and what was meant; the value is kept out of it."""
    warning = next(line for line in own_server.lines() if line["message"] == "unknown setting")
    assert (warning["name"], warning["meant"]) == (
        "SLIDECASCADE_MAX_REGION_IN_FLIGHT",
        "SLIDECASCADE_MAX_REGIONS_IN_FLIGHT",
    )


def test_a_bad_model_is_one_sentence(tmp_path: Path) -> None:
    """A model that is not the file its package vouches for keeps the service from starting, and is named."""
    models = tmp_path / "models"
    shutil.copytree(bundled_models_dir() / "nuclei-unet", models / "nuclei-unet")
    for path in models.rglob("model.onnx"):
        path.write_bytes(path.read_bytes() + b"\0")
    ended = run_serve(tmp_path, "--models", str(models), "--port", str(free_port()))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "nuclei-unet" in ended.stderr
    assert "sha256" in ended.stderr


def test_a_folder_that_looks_like_two_is_one_sentence(tmp_path: Path) -> None:
    """A folder whose name holds what separates folders is rejected, not interpreted as two folders."""
    (tmp_path / f"a{os.pathsep}b").mkdir()
    ended = run_serve(tmp_path, "--slides", str(tmp_path / f"a{os.pathsep}b"), "--port", str(free_port()))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert os.pathsep in ended.stderr
    assert "slide_roots" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["--port", "0"], ["--port", "x"], ["--host"], ["--slides", "/no/such/folder"]]
)
def test_a_wrong_call_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    """Errors of configuration are distinguished from failures."""
    assert run_serve(tmp_path, *arguments).returncode == 2


def test_only_this_machine_is_listened_to(server: Server) -> None:
    """By default the service cannot be reached from the network."""
    with socket.socket() as probe:
        probe.settimeout(2)
        probe.connect(("127.0.0.1", server.port))
    here = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in here - {"127.0.0.1", "127.0.1.1"}:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((str(address), server.port)) != 0
