"""Models in separate services behind a real server process: known failures and how they are handled."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

import proc
import toy_models
import toy_pipeline
from open_sockets import listening
from served_process import Server, StartServer, Upload, environment, free_port, launch
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.precision import served_packages
from slidecascade.settings import bundled_models_dir, read_settings

Image = NDArray[np.uint8]
SIDE_PX = 8
FRAGILE = "toy-fragile"
TWO = "toy-classifier=bento,nuclei-unet=bento"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled models, one that fails and one of several inputs and outputs."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("nuclei-unet", "nash-cell", "nash-hepatocyte"):
        shutil.copytree(bundled_models_dir() / name, folder / name)
    fragile = toy_models.classifier_fields(FRAGILE, SIDE_PX, crop={"size_px": 8})
    toy_models.write_package(folder, fragile, toy_models.fragile_classifier(SIDE_PX))
    toy_models.write_package(folder, toy_models.stain_fields(), toy_models.stain_segmenter())
    return folder


@pytest.fixture(scope="module")
def local(models: Path) -> Iterator[LocalRunner]:
    runner = LocalRunner(served_packages(read_settings(models_dir=models)).values())
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def bento(start_server: StartServer, models: Path, slide_root: Path) -> Server:
    """One process for the tests that end no service; calls are joined as on a GPU."""
    limits = {"max_inferences_in_flight": 512, "max_queue_items": 2048}
    return start_server(models=models, slides=slide_root, runner="bento", batching="on", **limits)


def test_a_scan_finds_one_port_and_private_sockets(bento: Server) -> None:
    """The processes of models listen on Unix sockets, in folders that nobody else may enter."""
    found = listening(bento.process.pid)
    assert found.tcp == {("127.0.0.1", bento.port)}
    assert found.udp == set()
    assert len(found.unix) >= 4
    for path in map(Path, found.unix):
        folder = path.parent.stat()
        assert (stat.S_IMODE(folder.st_mode), folder.st_uid) == (0o700, os.getuid()), path


def infer_all(server: Server, model: str, calls: list[Image]) -> list[httpx.Response]:
    """The answers to all of `calls`, made at the same time."""

    async def infer(client: httpx.AsyncClient, images: Image) -> httpx.Response:
        size = {"binary_data_size": images.nbytes}
        tensor = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "parameters": size}
        document = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(document))}
        url = f"{server.url}/v2/models/{model}/infer"
        return await client.post(url, content=document + images.tobytes(), headers=headers)

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=len(calls))
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            return list(await asyncio.gather(*(infer(client, images) for images in calls)))

    return asyncio.run(all_of_them())


def output(answer: httpx.Response) -> NDArray[Any]:
    """The tensor of an answer."""
    assert answer.status_code == 200, answer.text
    (tensor,) = answer.json()["outputs"]
    kind = np.uint8 if tensor["datatype"] == "UINT8" else np.float32
    return np.array(tensor["data"], kind).reshape(tensor["shape"])


def noise(seed: int, *shape: int) -> Image:
    """Pixels, none of which is without red."""
    return np.random.default_rng(seed).integers(1, 256, (*shape, 3), np.uint8)


def region(server: Server, png: bytes, **fields: Any) -> httpx.Response:
    files = {"image": ("a", png, "image/png"), "request": ("b", json.dumps(fields).encode(), "application/json")}
    return httpx.post(f"{server.url}/v1/regions", files=files, timeout=120)


def readiness(server: Server) -> int:
    """The status of a probe, which must come within seconds."""
    return httpx.get(f"{server.url}/readyz", timeout=5).status_code


def test_by_default_no_model_processes_are_started(server: Server) -> None:
    """Without the setting the networks run where they always did."""
    assert server.children() == {}


def test_each_model_has_a_process(bento: Server, models: Path) -> None:
    """One each, that runs nothing else."""
    names = sorted(line.split("model-")[1].split()[0] for line in bento.children().values())
    assert names == sorted(path.name for path in models.iterdir())


def test_the_cells_are_the_same_to_the_last_bit(server: Server, bento: Server, tissue_png: bytes) -> None:
    """Networks, joined calls and the way there and back change no coordinate and no probability."""
    request = {"pipeline": "nash", "mpp": 0.5, "tile_px": 128}
    here, there = region(server, tissue_png, **request).json(), region(bento, tissue_png, **request).json()
    assert here["features"] == there["features"]
    assert len(here["features"]) > 5
    assert bento.metric('slidecascade_model_run_seconds_count{model="nash-cell"}') >= 1


def test_500_calls_at_a_time_are_all_answered(bento: Server, local: LocalRunner) -> None:
    """None fails, none is shed, and each caller gets the answer to its own images."""
    calls = [noise(seed, 1 + seed % 3, SIDE_PX, SIDE_PX) for seed in range(500)]
    for images, answer in zip(calls, infer_all(bento, FRAGILE, calls), strict=True):
        assert np.array_equal(output(answer), local.run(FRAGILE, {"image": images})["probabilities"])


def test_a_burst_on_a_slow_network_is_not_shed(bento: Server, local: LocalRunner) -> None:
    """The first calls run one by one; the queued ones are not rejected by an estimate from these."""
    calls = [noise(seed, 1, 64, 64) for seed in range(3)]
    for images in calls:
        output(infer_all(bento, "nuclei-unet", [images])[0])
    calls = [noise(seed, 1, 128, 128) for seed in range(24)]
    for images, answer in zip(calls, infer_all(bento, "nuclei-unet", calls), strict=True):
        assert np.array_equal(output(answer), local.run("nuclei-unet", {"image": images})["maps"])


def test_a_call_that_fails_fails_alone(bento: Server, local: LocalRunner) -> None:
    """Of batched calls those with an invalid image fail, the others are answered."""
    calls = [noise(seed, 2, SIDE_PX, SIDE_PX) for seed in range(60)]
    for images in calls[7::20]:
        images[1, :, :, 0] = 0
    for number, answer in enumerate(infer_all(bento, FRAGILE, calls)):
        if number % 20 == 7:
            assert (answer.status_code, FRAGILE in answer.text) == (502, True)
        else:
            assert np.array_equal(output(answer), local.run(FRAGILE, {"image": calls[number]})["probabilities"])


def test_calls_of_all_sizes_meet(bento: Server, local: LocalRunner) -> None:
    """Images of different height and width are never put into one array."""
    calls = [noise(seed, 1 + seed % 2, 16 * (1 + seed % 3), 16 * (1 + seed % 5)) for seed in range(60)]
    for images, answer in zip(calls, infer_all(bento, "nuclei-unet", calls), strict=True):
        assert np.array_equal(output(answer), local.run("nuclei-unet", {"image": images})["maps"])


def test_several_inputs_and_outputs_go_to_a_process_and_back(bento: Server) -> None:
    """Of four types and two sizes, from many callers at the same time, whose calls are joined there."""
    calls = [toy_models.stain_inputs(seed, 1 + seed % 3, 8 * (1 + seed % 2), 12) for seed in range(40)]

    async def infer(client: httpx.AsyncClient, inputs: dict[str, NDArray[Any]]) -> httpx.Response:
        datatypes = {"image": "UINT16", "gain": "FP32"}
        tensors = [
            {"name": name, "datatype": datatypes[name], "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in inputs.items()
        ]
        return await client.post(f"{bento.url}/v2/models/toy-stain/infer", json={"inputs": tensors})

    async def all_of_them() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=120) as client:
            return list(await asyncio.gather(*(infer(client, inputs) for inputs in calls)))

    for inputs, answer in zip(calls, asyncio.run(all_of_them()), strict=True):
        assert answer.status_code == 200, answer.text
        maps, brightness = answer.json()["outputs"]
        expected = toy_models.stain_outputs(inputs)
        for reported, due in ((maps, expected["maps"]), (brightness, expected["brightness"])):
            assert tuple(reported["shape"]) == due.shape
            np.testing.assert_array_equal(np.array(reported["data"]).reshape(due.shape), due)


def test_model_services_expose_no_request_data(bento: Server) -> None:
    """They have no metrics page with raw paths, write no access lines, and the log is JSON."""
    pid = next(iter(bento.children()))
    inodes = {name[len("socket:[") : -1] for name in proc.open_files(pid) if name.startswith("socket:")}
    bound_to = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    (path,) = {line[7] for line in bound_to if len(line) == 8 and line[6] in inodes and "slidecascade-" in line[7]}
    assert Path(path).parent.stat().st_mode & 0o77 == 0  # what listens there opens pickles
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://model/livez").status_code == 200
        assert client.get("http://model/metrics").status_code == 404
        assert client.post("http://model/v1/rendered.tiff").status_code == 404
    assert {line["logger"].split(".")[0] for line in bento.lines()} == {"slidecascade"}
    assert "rendered.tiff" not in bento.log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> toy_pipeline.ToyPipeline:
    """Quick networks, and the one of the pipeline `nuclei`."""
    made = toy_pipeline.ToyPipeline(tmp_path_factory.mktemp("toy"))
    shutil.copytree(bundled_models_dir() / "nuclei-unet", made.models_dir / "nuclei-unet")
    return made


@pytest.fixture(scope="module")
def toys(start_server: StartServer, toy: toy_pipeline.ToyPipeline, slide_root: Path) -> Server:
    """A process whose services are killed by tests; the last of them ends it."""
    folders = {"models": toy.models_dir, "pipelines_dir": toy.pipelines_dir, "slides": slide_root}
    return start_server(**folders, runner_by_model=TWO, max_queue_items=64)


def blobs(side_px: int) -> bytes:
    image = toy_pipeline.blobs(1, side_px, side_px, side_px * side_px // 2600)
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])


def are_gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def count_of(server: Server, words: str) -> int:
    """How many lines of the log say so."""
    return sum(words in line["message"] for line in server.lines())


def test_a_full_queue_is_overload(toys: Server) -> None:
    """Calls beyond the queue limit get Retry-After; all others are answered."""
    answers = infer_all(toys, "nuclei-unet", [noise(seed, 16, 64, 64) for seed in range(24)])
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    refused = answers[codes.index(429)]
    assert "queue of model 'nuclei-unet' is full" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1


def test_a_service_that_dies_is_replaced(toys: Server) -> None:
    """Killed under a region it is started again, readiness falls and recovers, and the region is answered."""
    png, request = blobs(1024), {"pipeline": "toy", "mpp": 0.5, "tile_px": 128}
    expected = region(toys, png, **request)
    assert expected.status_code == 200

    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(region(toys, png, **request)))
    asking.start()
    toys.wait(lambda: toys.metric("slidecascade_regions_in_flight") == 1)
    (killed,) = (pid for pid, line in toys.children().items() if "toy-classifier" in line)
    os.kill(killed, signal.SIGKILL)
    toys.wait(lambda: readiness(toys) == 503)
    toys.wait(lambda: readiness(toys) == 200, seconds=60)
    asking.join()
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["features"] == expected.json()["features"]
    assert killed not in toys.children()


def test_a_service_that_hangs_is_replaced(toys: Server) -> None:
    """Stopped under two regions it is killed and started again within ten seconds; calls are made once more."""
    png, request = blobs(1024), {"pipeline": "toy", "mpp": 0.5, "tile_px": 128}
    expected = region(toys, png, **request)
    assert expected.status_code == 200
    broken_off = count_of(toys, "call to the service of model")

    answers: list[httpx.Response] = []
    asking = [threading.Thread(target=lambda: answers.append(region(toys, png, **request))) for _ in range(2)]
    for thread in asking:
        thread.start()
    toys.wait(lambda: toys.metric("slidecascade_regions_in_flight") == 2)
    (hung,) = (pid for pid, line in toys.children().items() if "toy-classifier" in line)
    os.kill(hung, signal.SIGSTOP)

    def is_replaced() -> bool:
        return any("toy-classifier" in line for pid, line in toys.children().items() if pid != hung)

    toys.wait(is_replaced, seconds=10)
    for thread in asking:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    for answer in answers:
        assert answer.json()["features"] == expected.json()["features"]
    assert are_gone([hung])
    assert count_of(toys, "call to the service of model") > broken_off
    toys.wait(lambda: readiness(toys) == 200)


def test_model_services_stop_last(toys: Server, stalled: Callable[[Server], Upload]) -> None:
    """They stay until regions in flight are finished, even if they get SIGTERM too, as from service managers."""
    children = toys.children()
    upload = stalled(toys)
    for pid in (toys.process.pid, *children):
        os.kill(pid, signal.SIGTERM)
    toys.wait(lambda: readiness(toys) == 503)
    toys.wait_for_end_of_notice()
    assert upload.finish().status_code == 200
    assert toys.process.wait(30) == 0
    toys.wait(lambda: are_gone(children))


def test_model_services_stop_when_their_parent_is_killed(start_server: StartServer, models: Path) -> None:
    """And only those models have one that the settings name."""
    server = start_server(models=models, runner_by_model=f"{FRAGILE}=bento")
    children = server.children()
    assert [FRAGILE in line for line in children.values()] == [True]
    assert output(infer_all(server, FRAGILE, [noise(1, 1, SIDE_PX, SIDE_PX)])[0]).shape == (1, 3)
    server.process.kill()
    server.process.wait()
    server.wait(lambda: are_gone(children))


def test_killed_processes_leave_no_folders(
    start_server: StartServer,
    models: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BentoML's clients have none; that of the sockets, which none was left to remove, goes at the next start."""
    temporary = tmp_path_factory.mktemp("t")  # short: a socket's path has few bytes
    monkeypatch.setenv("TMPDIR", str(temporary))

    def folders() -> list[str]:
        return sorted(path.name.rpartition("-")[0] for path in temporary.iterdir())

    server = start_server(models=models, runner_by_model=f"{FRAGILE}=bento")
    children = server.children()
    assert folders() == ["slidecascade-sockets"]
    os.killpg(server.process.pid, signal.SIGKILL)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    server.wait(lambda: are_gone(children))
    (left,) = temporary.iterdir()
    os.utime(left, (0, 0))  # as if a minute ago
    again = start_server(models=models, runner_by_model=f"{FRAGILE}=bento")
    assert folders() == ["slidecascade-sockets"]
    assert not left.exists()
    assert again.stop() == 0
    assert folders() == []


def test_a_model_that_cannot_run_is_reported_once(tmp_path: Path) -> None:
    """The sentence of the service's process is what the command ends with; no process is left."""
    fields = toy_models.classifier_fields(classes=[{"name": "Only", "color": [0, 0, 0]}])
    toy_models.write_package(tmp_path, toy_models.segmenter_fields(), toy_models.darkness_segmenter())
    toy_models.write_package(tmp_path, fields, toy_models.redness_classifier(72))
    command = [
        sys.executable,
        "-m",
        "slidecascade",
        "serve",
        "--port",
        str(free_port()),
        "--models",
        str(tmp_path),
    ]
    variables = environment(tmp_path, runner_by_model="toy-classifier=bento")
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        "slidecascade: Model 'toy-classifier' returns 'probabilities' as"
    )
    assert "Traceback" not in ended.stderr


def test_bentomls_own_server_drains_too(
    toy: toy_pipeline.ToyPipeline, slide_root: Path, tmp_path: Path, stalled: Callable[[Server], Upload]
) -> None:
    """BentoML's supervisor stops all processes at once and removes the sockets; the region in flight is answered
    all the same. A second server of the same home, which wipes the folder of metrics, takes none of ours away."""
    port, home = free_port(), tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "bentoml", "serve", "slidecascade.hosting.bento_entry:SlideCascade"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"models_dir": toy.models_dir, "pipelines_dir": toy.pipelines_dir, "slide_roots": slide_root}
    server = launch(command, port=port, home=home, runner_by_model=TWO, **settings)
    try:
        assert sum("--service-name model-" in line for line in server.children().values()) == 2
        assert region(server, blobs(128), pipeline="toy", mpp=0.5).status_code == 200
        shutil.rmtree(home / "prometheus_multiproc_dir", ignore_errors=True)
        assert server.metric('slidecascade_model_run_seconds_count{model="toy-classifier"}') >= 1
        upload = stalled(server)  # of a pipeline to whose service there is no connection yet
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: readiness(server) == 503)
        server.wait_for_end_of_notice()
        assert upload.finish().status_code == 200
        assert server.process.wait(30) == 0
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text() + (home / "stdout.txt").read_text()
