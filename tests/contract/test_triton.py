"""The triton runner against a real Triton server that serves the models folder as it is."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from benchmarks.peers import triton_server
from benchmarks.peers.triton_server import TritonServer
from benchmarks.slides.tiling import Bench, rendered
from numpy.typing import NDArray

import toy_models
from served_process import free_port
from slidecascade.cancellation import Control
from slidecascade.errors import (
    DeadlineExceededError,
    ModelFailedError,
    ModelPackageError,
    NotReadyError,
    OverloadedError,
    SettingsError,
)
from slidecascade.heads import probabilities
from slidecascade.models.repository import ModelPackage, load_package, load_repository
from slidecascade.models.tensors import rgb_image
from slidecascade.models.triton_config import triton_config
from slidecascade.pipelines.cells import FILE
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners import sharedmemory
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner
from slidecascade.runners.triton import TritonRunner
from slidecascade.settings import bundled_models_dir

PACKAGES = load_repository(bundled_models_dir())
CELL, HEPATOCYTE, UNET = (PACKAGES[name] for name in ("nash-cell", "nash-hepatocyte", "nuclei-unet"))
BOTH_WAYS = pytest.mark.parametrize("shared_memory", [True, False], ids=["memory", "messages"])


@pytest.fixture(scope="module", autouse=True)
def _runtime() -> None:
    try:
        triton_server.runtime()
    except triton_server.NoTritonError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Serves the bundled models folder; for all tests that do not stop it."""
    with triton_server.serving(bundled_models_dir(), tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture(scope="module")
def local() -> LocalRunner:
    return LocalRunner(PACKAGES.values())


def crops(count: int, *, side: int = 72, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def classify(runner: Runner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ``nash-cell`` says of `images`."""
    return runner.run("nash-cell", {"image": images})["probabilities"]


def known_regions(server: TritonServer) -> set[str]:
    """Names of the shared memory regions registered with the server."""
    with triton.InferenceServerClient(server.url) as client:
        return set(client.get_system_shared_memory_status().regions)


@BOTH_WAYS
@pytest.mark.parametrize("pipeline", ["nuclei", "nash"])
def test_the_cells_are_those_of_the_local_runner(
    server: TritonServer, local: LocalRunner, pipeline: str, shared_memory: bool
) -> None:
    """A rendered region in tiles: same outlines, scores, probabilities and classes, bit for bit."""
    image = rendered(320)
    spec = load_pipelines(PACKAGES, None, (FILE,))[pipeline]
    runner = TritonRunner(PACKAGES.values(), url=server.url, shared_memory=shared_memory)
    found, expected = (
        Bench(spec, which).analyse(image, mpp=0.5, tile_px=192, threads=2) for which in (runner, local)
    )
    runner.close()

    assert len(found.instances) == len(expected.instances) > 30
    for name in ("centroids", "vertices", "offsets", "scores"):
        np.testing.assert_array_equal(getattr(found.instances, name), getattr(expected.instances, name))
    np.testing.assert_array_equal(found.class_index, expected.class_index)
    for one, other in zip(found.instances.probabilities, expected.instances.probabilities, strict=True):
        np.testing.assert_array_equal(one, other)


@BOTH_WAYS
def test_a_large_batch_is_split_in_order(server: TritonServer, local: LocalRunner, shared_memory: bool) -> None:
    """More images than the served model takes at once are returned as one writable array in their order."""
    runner = TritonRunner([CELL], url=server.url, shared_memory=shared_memory)
    images = crops(70)[:, ::-1]  # not contiguous
    outputs = runner.run("nash-cell", {"image": images})["probabilities"]
    runner.close()

    expected = local.run("nash-cell", {"image": np.ascontiguousarray(images)})["probabilities"]
    np.testing.assert_array_equal(outputs, expected)
    assert outputs.flags.writeable
    assert classify(runner, crops(0)).shape == (0, 3)


def test_threads_share_a_runner(server: TritonServer, local: LocalRunner) -> None:
    """Calls of many threads never see each other's memory, and every region is released at the end."""
    runner = TritonRunner([CELL], url=server.url, shared_memory=True)
    batches = [crops(1 + seed % 5, seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda images: classify(runner, images), batches))
    assert 1 <= len(known_regions(server)) <= 4
    runner.close()

    for images, answer in zip(batches, answers, strict=True):
        # The server may join calls that come together, and a product of one row rounds its last bit differently.
        np.testing.assert_allclose(answer, classify(local, images), rtol=1e-5, atol=1e-7)
    assert known_regions(server) == set()


def test_memory_is_shared_on_this_machine_only(server: TritonServer) -> None:
    """By default the runner shares memory with a server on this machine."""
    runner = TritonRunner([CELL], url=server.url)
    classify(runner, crops(1))
    assert len(known_regions(server)) == 1
    runner.close()


def test_without_memory_to_share_messages_do(
    server: TritonServer, local: LocalRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that has no shared memory gets the same answers."""
    monkeypatch.setattr(sharedmemory, "SEGMENTS_DIR", tmp_path / "none")
    runner = TritonRunner([CELL], url=server.url, shared_memory=True)
    np.testing.assert_array_equal(classify(runner, crops(3)), classify(local, crops(3)))
    assert known_regions(server) == set()
    runner.close()


@BOTH_WAYS
def test_nobody_waits_beyond_a_limit(server: TritonServer, local: LocalRunner, shared_memory: bool) -> None:
    """The caller's limit and the runner's own end a call, and what the server does late harms no later call."""
    image = rendered(512)[None]
    hurried = TritonRunner([UNET], url=server.url, timeout_s=0.05, shared_memory=shared_memory)
    with pytest.raises(ModelFailedError, match=r"within 0\.05 s"):
        hurried.run("nuclei-unet", {"image": image})
    runner = TritonRunner([UNET], url=server.url, shared_memory=shared_memory)
    with pytest.raises(DeadlineExceededError):
        runner.on_behalf_of(Control(deadline_s=0.05)).run("nuclei-unet", {"image": image})
    small = np.ascontiguousarray(image[:, :64, :64])
    found, expected = (made.run("nuclei-unet", {"image": small})["maps"] for made in (runner, local))
    np.testing.assert_array_equal(found, expected)
    hurried.close()
    runner.close()
    assert known_regions(server) == set()


def test_an_image_the_network_cannot_take_fails_alone(server: TritonServer) -> None:
    """A rejection by the network or server is a failure of the model; the next call works."""
    runner = TritonRunner(PACKAGES.values(), url=server.url)
    with pytest.raises(ModelFailedError, match="'nuclei-unet' cannot be run on these inputs: the height is 52"):
        runner.run("nuclei-unet", {"image": crops(1, side=60)[:, :52]})
    with pytest.raises(ModelFailedError, match=r"'nash-cell' .* \(2, 71, 71, 3\)"):
        classify(runner, crops(2, side=71))
    assert classify(runner, crops(2)).shape == (2, 3)
    runner.close()


@pytest.mark.parametrize("change", ["sha256", "inputs", "outputs"])
def test_another_model_is_refused(server: TritonServer, change: str) -> None:
    """A served model whose tensors or stated sha256 are not those of model.yaml is refused by name."""
    other = {
        "sha256": "0" * 64,
        "inputs": (rgb_image(height_px=72, width_px=72).model_copy(update={"dtype": "int8"}),),
        "outputs": probabilities.outputs(["One", "Two"]),
    }[change]
    package = replace(CELL, spec=CELL.spec.model_copy(update={change: other}))
    runner = TritonRunner([package], url=server.url)
    with pytest.raises(ModelPackageError, match="'nash-cell' on the Triton server"):
        runner.check_ready()
    images = crops(1).astype(package.spec.input.dtype)
    with pytest.raises(ModelPackageError, match="'nash-cell' on the Triton server"):
        runner.run("nash-cell", {"image": images})
    runner.close()


def test_a_version_that_is_not_served_is_not_ready(server: TritonServer) -> None:
    """The version of model.yaml is requested."""
    package = replace(CELL, spec=CELL.spec.model_copy(update={"version": 7}))
    runner = TritonRunner([package, UNET], url=server.url)
    with pytest.raises(NotReadyError, match="not ready to run 'nash-cell' version 7:"):
        runner.check_ready()
    with pytest.raises(NotReadyError, match="does not serve"):
        classify(runner, crops(1))
    runner.close()


def test_an_unreachable_server_is_reported_immediately() -> None:
    """Making a runner needs no server; running and asking say that there is none, within seconds."""
    runner = TritonRunner([CELL], url=f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    for ask in (runner.check_ready, lambda: classify(runner, crops(1))):
        with pytest.raises(NotReadyError, match="cannot be reached"):
            ask()
    assert time.monotonic() - started < 10
    runner.close()


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "http://localhost:8001", "localhost:http", "a b:1", ":8001", "x:0", "x:99999", "u@x:1"],
)
def test_an_address_is_host_and_port(url: str) -> None:
    """Anything else is refused with an example of what is meant."""
    with pytest.raises(SettingsError, match="localhost:8001"):
        TritonRunner([CELL], url=url)


@pytest.fixture(scope="module")
def stain(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """A network of two inputs and two outputs, of four types, with the config.pbtxt that a package gets."""
    folder = toy_models.write_package(
        tmp_path_factory.mktemp("stain"), toy_models.stain_fields(), toy_models.stain_segmenter()
    )
    package = load_package(folder)
    config = triton_config(package.spec, max_batch=4)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    return package


@pytest.fixture(scope="module")
def stain_server(stain: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    models = stain.onnx_path.parents[2]
    with triton_server.serving(models, tmp_path_factory.mktemp("stain-server")) as server:
        yield server


@BOTH_WAYS
@pytest.mark.parametrize("count", [1, 4, 11])
def test_several_inputs_and_outputs(
    stain_server: TritonServer, stain: ModelPackage, shared_memory: bool, count: int
) -> None:
    """Each of its own type and size, in batches no larger than the server takes: what the local runner gives."""
    runner = TritonRunner([stain], url=stain_server.url, shared_memory=shared_memory)
    runner.check_ready()
    inputs = toy_models.stain_inputs(count, count, 12, 20)
    found = runner.run("toy-stain", inputs)
    runner.close()
    for expected in (toy_models.stain_outputs(inputs), LocalRunner([stain]).run("toy-stain", inputs)):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_an_output_that_is_not_finite_is_named(stain_server: TritonServer, stain: ModelPackage) -> None:
    """Whichever of the outputs it is in."""
    runner = TritonRunner([stain], url=stain_server.url)
    inputs = toy_models.stain_inputs(1, 1, 8, 8) | {"gain": np.full((1, 4), np.nan, np.float32)}
    with pytest.raises(ModelFailedError, match="NaN or infinite values in 'brightness'"):
        runner.run("toy-stain", inputs)
    runner.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imperfect")


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    """A repository of which one model cannot be loaded, and another has a short queue."""
    models = folder / "models"
    for package in (CELL, HEPATOCYTE):
        shutil.copytree(package.onnx_path.parents[1], models / package.spec.name)
    (models / "nash-hepatocyte" / "1" / "model.onnx").write_bytes(b"not a graph")
    config = models / "nash-cell" / "config.pbtxt"
    short = "dynamic_batching {\n  default_queue_policy { max_queue_size: 2 }\n"
    config.write_text(config.read_text().replace("dynamic_batching {\n", short))
    return models


@pytest.fixture(scope="module")
def servers(folder: Path, models: Path) -> Iterator[list[TritonServer]]:
    """The running server, for tests to end it and put another in its place."""
    servers = [triton_server.start(models, folder)]
    yield servers
    servers[-1].stop()


def test_the_model_that_is_missing_is_named(servers: list[TritonServer]) -> None:
    """Readiness asks every model; the server alone would say that it is live."""
    runner = TritonRunner([CELL, HEPATOCYTE], url=servers[-1].url)
    with pytest.raises(NotReadyError, match="not ready to run 'nash-hepatocyte' version 1: ") as reported:
        runner.check_ready()
    assert reported.value.retry_after_s > 0
    with pytest.raises(NotReadyError):
        runner.run("nash-hepatocyte", {"image": crops(1, side=96)})
    assert classify(runner, crops(1)).shape == (1, 3)
    runner.close()


def test_a_full_queue_is_overload(servers: list[TritonServer]) -> None:
    """Of many concurrent callers some are answered and the others get overloaded, without retries."""
    runner = TritonRunner([CELL], url=servers[-1].url)
    refused, answered = 0, 0

    def call(seed: int) -> None:
        nonlocal refused, answered
        try:
            classify(runner, crops(32, seed=seed))
        except OverloadedError:
            refused += 1
        else:
            answered += 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(call, range(12)))
    runner.close()
    assert refused + answered == 12
    assert refused
    assert answered


def test_a_killed_server_is_reported_and_reconnected(
    servers: list[TritonServer], folder: Path, models: Path, local: LocalRunner
) -> None:
    """Killed in the middle of a call: a clear error. Back again: the same runner works, with new regions."""
    runner = TritonRunner([CELL], url=servers[-1].url, shared_memory=True)
    expected = classify(local, crops(4))
    np.testing.assert_array_equal(classify(runner, crops(4)), expected)
    threading.Timer(0.2, servers[-1].kill).start()
    with pytest.raises(NotReadyError, match="cannot be reached"):
        _run_until_it_fails(runner)
    with pytest.raises(NotReadyError, match="cannot be reached"):
        runner.check_ready()
    old = servers[-1]
    servers.append(triton_server.start(models, folder, ports=(old.http_port, old.grpc_port)))
    _wait_for(runner)
    np.testing.assert_array_equal(classify(runner, crops(4)), expected)

    # And again, between two calls this time: the runner finds out only by its next call.
    servers[-1].kill()
    servers.append(triton_server.start(models, folder, ports=(old.http_port, old.grpc_port)))
    np.testing.assert_array_equal(classify(runner, crops(4)), expected)
    runner.close()
    assert known_regions(servers[-1]) == set()


def _run_until_it_fails(runner: TritonRunner) -> None:
    while True:
        classify(runner, crops(32))


def _wait_for(runner: TritonRunner) -> None:
    """Until gRPC has connected again: it pauses for two seconds at most."""
    ends_at = time.monotonic() + 10
    while True:
        try:
            runner.check_ready()
        except NotReadyError:
            assert time.monotonic() < ends_at
            time.sleep(0.1)
        else:
            return
