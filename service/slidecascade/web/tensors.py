"""Tensors on the wire: the Open Inference Protocol (KServe v2) in JSON and with Triton's binary tensor data."""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidecascade.errors import MalformedRequestError
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec

INPUT: Final = "image"
MAX_JSON_BYTES: Final = 16 * 2**20
"""Largest JSON part of a request; more pixels travel as binary data."""

MAX_PX: Final = 2**24
"""Most pixels in one request: 16 images of 1024 x 1024."""

MAX_RUN_PX: Final = 2**22
"""Most pixels in one run, and in one image: 2048 x 2048 take a U-Net 1.3 GB, four times as many 4.4 GB."""

_DATATYPES: Final = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}
Spec = SegmenterSpec | ClassifierSpec


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class _InputParameters(_Part):
    binary_data_size: int | None = Field(default=None, ge=0)
    shared_memory_region: str | None = None


class _Input(_Part):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _InputParameters = _InputParameters()
    data: list[Any] | None = None


class _OutputParameters(_Part):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class _Output(_Part):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(_Part):
    binary_data_output: bool = False
    timeout: int | None = Field(default=None, ge=0)


class _Request(_Part):
    id: str | None = Field(default=None, max_length=256)
    parameters: _Parameters = _Parameters()
    inputs: tuple[_Input, ...]
    outputs: tuple[_Output, ...] = ()


class Inference:
    """A request for one network: `images`, and how its output is to be returned.

    Attributes:
        images: ``(N, H, W, 3)`` uint8.
        binary: whether the output travels as binary data.
        timeout_s: what the caller gives it, in seconds; None: no limit of its own.
    """

    def __init__(self, body: bytes, *, json_bytes: int, spec: Spec, max_images: int) -> None:
        """Read the request in `body`, whose first `json_bytes` are JSON.

        Raises:
            MalformedRequestError: saying what cannot be used.
        """
        request = _parse(body[:json_bytes].removeprefix(BOM_UTF8))  # editors of Windows write one
        self._id = request.id
        self._spec = spec
        self.timeout_s = request.parameters.timeout / 1e6 if request.parameters.timeout else None
        self.binary = _binary_wanted(request, spec)
        self.images = _images(request, body[json_bytes:], spec, max_images)

    def runs(self) -> Iterator[NDArray[np.uint8]]:
        """The images in as many parts as runs are to be made, so that memory has a bound."""
        step = max(1, MAX_RUN_PX // math.prod(self.images.shape[1:3]))
        for start in range(0, len(self.images), step):
            yield self.images[start : start + step]

    def answer(self, output: NDArray[Any]) -> tuple[bytes, bytes]:
        """The answer's JSON and the binary data that follow it, empty where there are none."""
        tensor: dict[str, Any] = {
            "name": output_name(self._spec),
            "datatype": _DATATYPES[output.dtype],
            "shape": list(output.shape),
        }
        data = np.ascontiguousarray(output)
        if self.binary:
            tensor["parameters"] = {"binary_data_size": data.nbytes}
        else:
            tensor["data"] = data.ravel()
        answer = {"model_name": self._spec.name, "model_version": str(self._spec.version), "outputs": [tensor]}
        if self._id is not None:
            answer["id"] = self._id
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), data.tobytes() if self.binary else b""


def output_name(spec: Spec) -> str:
    """The name of a network's one output."""
    return "maps" if spec.task == "segment" else "probabilities"


def metadata(spec: Spec) -> dict[str, Any]:
    """What the protocol tells of a model."""
    height, width = spec.input.height_px or -1, spec.input.width_px or -1
    segments = spec.task == "segment"
    output = {
        "name": output_name(spec),
        "datatype": "UINT8" if segments else "FP32",
        "shape": [-1, height, width, 2] if segments else [-1, len(spec.classes)],
    }
    return {
        "name": spec.name,
        "versions": [str(spec.version)],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, height, width, 3]}],
        "outputs": [output],
    }


def _parse(document: bytes) -> _Request:
    try:
        return _Request.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        if not where:
            raise MalformedRequestError(
                "The request is not a JSON object: check it, and Inference-Header-Content-Length."
            ) from None
        raise MalformedRequestError(f"The request is wrong at {where}: {first['msg']}.") from None


def _binary_wanted(request: _Request, spec: Spec) -> bool:
    binary = request.parameters.binary_data_output
    for output in request.outputs:
        if output.name != output_name(spec):
            raise MalformedRequestError(
                f"Model {spec.name!r} has no output {output.name!r}: its output is {output_name(spec)!r}."
            )
        if output.parameters.classification or output.parameters.shared_memory_region is not None:
            raise MalformedRequestError(
                "Outputs are returned whole and in the answer: ask without classification and shared memory."
            )
        if output.parameters.binary_data is not None:
            binary = output.parameters.binary_data
    return binary


def _images(request: _Request, binary: bytes, spec: Spec, max_images: int) -> NDArray[np.uint8]:
    sent = [(tensor.name[:64], tensor.datatype[:16]) for tensor in request.inputs]
    if sent != [(INPUT, "UINT8")]:
        told = ", ".join(f"{name!r} of {datatype}" for name, datatype in sent[:4]) or "none"
        raise MalformedRequestError(
            f"Model {spec.name!r} takes one input, {INPUT!r} of datatype UINT8; sent was {told}."
        )
    tensor = request.inputs[0]
    if tensor.parameters.shared_memory_region is not None:
        raise MalformedRequestError("Shared memory is not read here: send the tensor in the request.")
    _require_shape(tensor.shape, spec, max_images)
    if tensor.parameters.binary_data_size is None:
        if binary:
            raise MalformedRequestError("Binary data follow, but no input states its binary_data_size.")
        return _from_json(tensor)
    wanted = math.prod(tensor.shape)
    if tensor.data is not None or not tensor.parameters.binary_data_size == len(binary) == wanted:
        raise MalformedRequestError(
            f"The shape of {INPUT!r} needs {wanted} bytes of binary data and no others, binary_data_size says "
            f"{tensor.parameters.binary_data_size} and {len(binary)} were sent."
        )
    return np.frombuffer(binary, np.uint8).reshape(tensor.shape)


def _require_shape(shape: tuple[int, ...], spec: Spec, max_images: int) -> None:
    wanted = metadata(spec)["inputs"][0]["shape"]
    fits = len(shape) == 4 and min(shape) > 0
    if not fits or any(side not in (-1, found) for side, found in zip(wanted, shape, strict=True)):
        raise MalformedRequestError(f"Model {spec.name!r} takes images of shape {wanted}, not {list(shape)}.")
    count, height, width, _ = shape
    if height % spec.input.multiple_of or width % spec.input.multiple_of:
        raise MalformedRequestError(
            f"Model {spec.name!r} takes images whose sides are multiples of {spec.input.multiple_of} px: pad them."
        )
    if height * width > MAX_RUN_PX:
        raise MalformedRequestError(f"Send images of at most {MAX_RUN_PX} pixels each: cut them into tiles.")
    if count > max_images or count * height * width > MAX_PX:
        raise MalformedRequestError(
            f"Send at most {max_images} images and {MAX_PX} pixels in one request: divide it."
        )


def _from_json(tensor: _Input) -> NDArray[np.uint8]:
    """The tensor whose values are in the JSON, flat or nested."""
    try:
        values = np.asarray(tensor.data)
    except ValueError:  # rows of different lengths
        values = np.empty(0)
    if values.shape != tensor.shape and values.shape != (math.prod(tensor.shape),):
        raise MalformedRequestError(
            f"The data of {INPUT!r} are not {math.prod(tensor.shape)} numbers, as its shape says."
        )
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise MalformedRequestError(f"The data of {INPUT!r} must be whole numbers from 0 to 255.")
    return values.astype(np.uint8).reshape(tensor.shape)
