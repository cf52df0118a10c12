"""The Open Inference Protocol against a real served process, driven by Triton's own HTTP client."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

import toy_models
from served_process import Server, StartServer
from slidecascade.models.repository import ModelPackage
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.precision import served_packages
from slidecascade.settings import bundled_models_dir, read_settings

PACKAGES = served_packages(read_settings())
BINARY = "application/octet-stream"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(
        server.url.removeprefix("http://"), connection_timeout=60, network_timeout=60
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[LocalRunner]:
    made = LocalRunner(PACKAGES.values())
    yield made
    made.close()


def images(package: ModelPackage, count: int) -> NDArray[Any]:
    (shape,) = package.spec.signature.input_shapes(batch=count, side_px=64).values()
    rng = np.random.default_rng(count)
    if package.spec.inputs[0].dtype == "float32":
        return rng.random(shape, np.float32)
    return rng.integers(0, 256, shape, np.uint8)


def tensor(pixels: NDArray[Any], *, binary: bool, name: str = "image") -> triton.InferInput:
    made = triton.InferInput(name, list(pixels.shape), "UINT8" if pixels.dtype == np.uint8 else "FP32")
    made.set_data_from_numpy(pixels, binary_data=binary)
    return made


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(("binary_in", "binary_out"), [(True, True), (False, False), (True, False)])
def test_tritons_client_gets_what_the_network_gives(
    client: triton.InferenceServerClient, runner: LocalRunner, name: str, binary_in: bool, binary_out: bool
) -> None:
    """Every bundled model, tensors as JSON and as binary data: bit for bit the local runner's output."""
    package = PACKAGES[name]
    pixels = images(package, 3 if binary_in else 1)
    metadata = client.get_model_metadata(name)
    asked, output = metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]
    answer = client.infer(
        name,
        [tensor(pixels, binary=binary_in, name=asked)],
        outputs=[triton.InferRequestedOutput(output, binary_data=binary_out)],
        request_id="call-7",
        model_version=str(package.spec.version) if binary_in else "",
    )
    expected = runner.run(name, {asked: pixels})[output]
    found = answer.as_numpy(output)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert answer.get_response()["id"] == "call-7"


def test_tritons_client_learns_about_the_server(client: triton.InferenceServerClient) -> None:
    """Health, metadata and the names of inputs and outputs, as the models' config.pbtxt has them."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "slidecascade"
    for name, package in PACKAGES.items():
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, str(package.spec.version))
        assert not client.is_model_ready(name, "99")
        config = (package.onnx_path.parents[1] / "config.pbtxt").read_text(encoding="utf-8")
        reported = client.get_model_metadata(name)
        for part in reported["inputs"] + reported["outputs"]:
            assert f'name: "{part["name"]}"' in config
    assert not client.is_model_ready("gold")
    with pytest.raises(InferenceServerException, match="There is no model 'gold'"):
        client.get_model_metadata("gold")


def call(
    server: Server, body: bytes, *, path: str = "nash-cell/infer", json_bytes: object = None, **headers: str
) -> httpx.Response:
    stated = {} if json_bytes is None else {"Inference-Header-Content-Length": str(json_bytes)}
    url = f"{server.url}/v2/models/{path}"
    return httpx.post(url, content=body, headers=stated | headers, timeout=60)


def request(**changes: Any) -> bytes:
    """A request for one crop whose binary data follow, with `changes` to its input."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 72, 72, 3]}
    return json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 15552}} | changes]}).encode()


PIXELS = bytes(15552)
GOOD = request()


@pytest.mark.parametrize(
    ("document", "binary", "says"),
    [
        (b"", b"", "not a valid JSON object"),
        (b"[]", b"", "not a valid JSON object"),
        (b"\x80\x05.", b"", "not a valid JSON object"),
        (b"{}", b"", "inputs"),
        (b'{"inputs": []}', b"", "takes the inputs 'image' of UINT8, but the request has none"),
        (request(name="pixels"), PIXELS, "takes the inputs 'image' of UINT8, but the request has 'pixels'"),
        (request(datatype="FP32"), PIXELS, "but the request has 'image' of FP32"),
        (request(shape=[1, 73, 72, 3]), PIXELS, r"shape \(1, 73, 72, 3\), expected \(batch, 72, 72, 3\)"),
        (request(shape=[0, 72, 72, 3]), b"", "contain no images"),
        (request(shape=[-1, 72, 72, 3]), PIXELS, "contain no images"),
        (request(shape=[72, 72, 3]), PIXELS, r"shape \(72, 72, 3\), expected"),
        (request(shape=[1, 72, 72, 3, 1]), PIXELS, r"shape \(1, 72, 72, 3, 1\), expected"),
        (request(shape=[10**9, 72, 72, 3]), PIXELS, "more than 32 images"),
        (request(shape="many"), PIXELS, "shape"),
        (GOOD, PIXELS[1:], "15552 bytes of binary data"),
        (GOOD, PIXELS + b"!", "has 15553 bytes of binary data, but the inputs state 15552"),
        (request(parameters={"binary_data_size": -1}), PIXELS, "binary_data_size"),
        (request(parameters={}), PIXELS, "must be 15552 numbers"),
        (
            request(parameters={}, data=[0] * 15552),
            PIXELS,
            "has 15552 bytes of binary data, but the inputs state 0 in binary_data_size",
        ),
        (request(parameters={"shared_memory_region": "/etc"}), b"", "shared memory extension is not supported"),
        (request(parameters={}), b"", "must be 15552 numbers"),
        (request(parameters={}, data=[1, 2, 3]), b"", "must be 15552 numbers"),
        (request(parameters={}, data=[[1], [1, 2]]), b"", "must be 15552 numbers"),
        (request(parameters={}, data=["a"] * 15552), b"", "whole numbers"),
        (request(parameters={}, data=[0.5] * 15552), b"", "whole numbers"),
        (request(parameters={}, data=[256] * 15552), b"", "whole numbers"),
        (request(parameters={}, data=[-1] * 15552), b"", "whole numbers"),
        (request(parameters={}, data=[None] * 15552), b"", "whole numbers"),
        (GOOD[:-1] + b', "outputs": [{"name": "x"}]}', PIXELS, "'x' is not an output"),
        (
            GOOD[:-1] + b', "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]}',
            PIXELS,
            "classification and shared memory",
        ),
        (GOOD[:-1] + b', "parameters": {"timeout": -5}}', PIXELS, "timeout"),
    ],
)
def test_an_invalid_request_gets_the_cause(server: Server, document: bytes, binary: bytes, says: str) -> None:
    """Each is 400 with the protocol's own error, one sentence."""
    response = call(server, document + binary, json_bytes=len(document))
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert error.endswith(".")
    assert re.search(says, error), error


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999999999", "15553", "1e3"])
def test_a_wrong_json_length_is_rejected(server: Server, length: str) -> None:
    """The header must be a number of bytes that were sent."""
    response = call(server, GOOD, json_bytes=length)
    assert (response.status_code, list(response.json())) == (400, ["error"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("gold/infer", 404),
        ("nash-cell/versions/2/infer", 404),
        ("nash-cell/versions/x/infer", 404),
        ("%2e%2e%2Fetc%2Fpasswd/infer", 404),
        ("", 404),
        ("nash-cell/elsewhere", 404),
    ],
)
def test_unknown_models_and_versions_are_reported(server: Server, path: str, status: int) -> None:
    """Models, versions and addresses that do not exist."""
    response = call(server, GOOD + PIXELS, path=path, json_bytes=len(GOOD))
    assert (response.status_code, list(response.json())) == (status, ["error"])


def test_images_of_a_wrong_multiple_are_rejected(server: Server) -> None:
    """A segmenter's images need sides its stride divides."""
    document = request(shape=[1, 65, 64, 3], parameters={"binary_data_size": 12480})
    response = call(server, document + bytes(12480), path="nuclei-unet/infer", json_bytes=len(document))
    assert response.status_code == 400
    assert "the height is 65, it must be a multiple of 8" in response.json()["error"]


def test_a_good_request_by_hand(server: Server) -> None:
    """Binary data in, JSON out by default; an unknown Content-Type is accepted."""
    response = call(server, GOOD + PIXELS, json_bytes=len(GOOD), **{"Content-Type": "text/plain"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["model_name"] == "nash-cell"
    assert answer["outputs"][0]["shape"] == [1, 3]
    assert sum(answer["outputs"][0]["data"]) == pytest.approx(1)
    series = 'slidecascade_requests_total{method="POST",route="/v2/models/{name}/infer",status="200"}'
    assert server.metric(series) >= 1
    assert server.metric('slidecascade_batch_size_count{model="nash-cell"}') >= 1


def test_encoded_bodies_and_other_methods_are_refused(server: Server) -> None:
    """In the protocol's words as well."""
    response = call(server, GOOD + PIXELS, json_bytes=len(GOOD), **{"Content-Encoding": "gzip"})
    assert (response.status_code, list(response.json())) == (415, ["error"])
    response = httpx.get(f"{server.url}/v2/models/nash-cell/infer")
    assert (response.status_code, list(response.json())) == (405, ["error"])


def test_bodies_and_calls_are_limited(start_server: StartServer) -> None:
    """Too many bytes are 413 unread; batching shows in the metrics of waiting; JSON is limited further."""
    small = start_server(max_tensor_bytes=20_000, batching="on", max_batch=2)
    assert call(small, GOOD + PIXELS, json_bytes=len(GOOD)).status_code == 200
    assert small.metric('slidecascade_batch_wait_seconds_count{model="nash-cell"}') == 1
    response = call(small, GOOD + PIXELS * 2, json_bytes=len(GOOD))
    assert (response.status_code, list(response.json())) == (413, ["error"])
    document = request(shape=[3, 72, 72, 3])
    response = call(small, document + PIXELS, json_bytes=len(document))
    assert "more than 2 images" in response.json()["error"]


def test_a_callers_time_limit_is_kept(server: Server) -> None:
    """Also where the network is called directly: what is late before it begins is not begun."""
    late = GOOD[:-1] + b', "parameters": {"timeout": 1}}'
    response = call(server, late + PIXELS, json_bytes=len(late))
    assert (response.status_code, response.json()) == (
        504,
        {"error": "The network did not finish before the deadline: send fewer images or a longer timeout."},
    )
    patient = GOOD[:-1] + b', "parameters": {"timeout": 60000000}}'
    assert call(server, patient + PIXELS, json_bytes=len(patient)).status_code == 200


@pytest.fixture(scope="module")
def stains(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Serves a network of uint16 images of four channels, with a second input and a second output."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(bundled_models_dir() / "nuclei-unet", models / "nuclei-unet")
    toy_models.write_package(models, toy_models.stain_fields(), toy_models.stain_segmenter())
    return start_server(models=models, batching="on", max_batch=8)


@pytest.fixture(scope="module")
def stains_client(stains: Server) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(
        stains.url.removeprefix("http://"), connection_timeout=60, network_timeout=60
    )
    yield made
    made.close()


@pytest.mark.parametrize(("binary_in", "binary_out"), [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize("asked", [[], ["maps", "brightness"], ["brightness"]])
def test_networks_of_several_inputs_and_outputs(
    stains_client: triton.InferenceServerClient, binary_in: bool, binary_out: bool, asked: list[str]
) -> None:
    """Types and values by hand: uint16 and float32 in, uint8 and float32 at half the size out, those asked for."""
    inputs = toy_models.stain_inputs(5, 3, 8, 12)
    sent = []
    for name, datatype in (("gain", "FP32"), ("image", "UINT16")):
        sent.append(triton.InferInput(name, list(inputs[name].shape), datatype))
        sent[-1].set_data_from_numpy(inputs[name], binary_data=binary_in)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in asked]
    answer = stains_client.infer("toy-stain", sent, outputs=outputs or None)
    expected = toy_models.stain_outputs(inputs)
    assert [item["name"] for item in answer.get_response()["outputs"]] == (asked or list(expected))
    for name in asked or expected:
        found = answer.as_numpy(name)
        assert found.dtype == expected[name].dtype
        np.testing.assert_array_equal(found, expected[name])


def test_metadata_is_what_model_yaml_states(stains: Server, stains_client: triton.InferenceServerClient) -> None:
    """In the protocol's words under /v2, and with channels and meanings under /v1."""
    reported = stains_client.get_model_metadata("toy-stain")
    assert [
        (item["name"], item["datatype"], item["shape"]) for item in reported["inputs"] + reported["outputs"]
    ] == [
        ("image", "UINT16", [-1, -1, -1, 4]),
        ("gain", "FP32", [-1, 4]),
        ("maps", "UINT8", [-1, -1, -1, 1]),
        ("brightness", "FP32", [-1, -1, -1, 1]),
    ]
    model = httpx.get(f"{stains.url}/v1/models/toy-stain", timeout=30).json()
    image, _ = model["inputs"]
    assert image["channels"] == ["nuclear", "membrane", "cytoplasm", "autofluorescence"]
    assert (image["shape"], image["multiple_of"]) == (["batch", "height", "width", 4], 4)
    assert [(item["name"], item["stride"], item["meaning"]) for item in model["outputs"]] == [
        ("maps", 1, "probability"),
        ("brightness", 2, "intensity"),
    ]


def test_values_that_are_not_finite_are_the_models_failure(stains: Server) -> None:
    """Float outputs of any meaning are looked through before they are returned."""
    inputs = toy_models.stain_inputs(1, 1, 4, 4) | {"gain": np.full((1, 4), np.inf, np.float32)}
    tensors = [
        {"name": name, "datatype": datatype, "shape": inputs[name].shape,
         "parameters": {"binary_data_size": inputs[name].nbytes}}
        for name, datatype in (("image", "UINT16"), ("gain", "FP32"))
    ]  # fmt: skip
    document = json.dumps({"inputs": tensors}).encode()
    binary = inputs["image"].tobytes() + inputs["gain"].tobytes()
    response = call(stains, document + binary, path="toy-stain/infer", json_bytes=len(document))
    assert response.status_code == 502
    assert "NaN or infinite values in 'brightness'" in response.json()["error"]
