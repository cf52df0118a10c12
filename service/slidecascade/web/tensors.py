"""Tensors of the Open Inference Protocol (KServe v2), in JSON and in Triton's binary tensor data extension."""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidecascade.errors import MalformedRequestError
from slidecascade.models.batches import batch_of, part_of
from slidecascade.models.spec import AnySpec
from slidecascade.models.tensors import InputSpec, OutputSpec, Shape, Tensors

MAX_JSON_BYTES: Final = 16 * 2**20
"""Maximum size of a request's JSON part; larger tensors are sent as binary data."""

MAX_PX: Final = 2**24
"""Maximum pixels in one request: 16 images of 1024 x 1024."""

MAX_RUN_PX: Final = 2**22
"""Maximum pixels in one run, and in one image; a U-Net takes 1.3 GB for these, and 4.4 GB for 4 times more."""

MAX_ANSWER_BYTES: Final = 2**29
"""Maximum bytes of all outputs of one request: 8 float32 channels of 16 million pixels."""

Spec = AnySpec


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class InferInputParameters(_Part):
    binary_data_size: int | None = Field(default=None, ge=0)
    shared_memory_region: str | None = None


class InferInput(_Part):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: InferInputParameters = InferInputParameters()
    data: list[Any] | None = None


class InferOutputParameters(_Part):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class InferOutput(_Part):
    name: str
    parameters: InferOutputParameters = InferOutputParameters()


class InferParameters(_Part):
    binary_data_output: bool = False
    timeout: int | None = Field(default=None, ge=0)


class InferRequest(_Part):
    id: str | None = Field(default=None, max_length=256)
    parameters: InferParameters = InferParameters()
    inputs: tuple[InferInput, ...]
    outputs: tuple[InferOutput, ...] = ()


class Inference:
    """A request for one network: `inputs`, and the format of its outputs.

    Attributes:
        inputs: arrays by name, of the types and shapes that the network takes.
        timeout_s: the client's timeout in seconds; None if it set none.
    """

    def __init__(self, body: bytes, *, json_bytes: int, spec: Spec, max_images: int) -> None:
        """Read the request in `body`, whose first `json_bytes` are JSON.

        Raises:
            MalformedRequestError: when the request is invalid.
        """
        request = _parse(body[:json_bytes].removeprefix(BOM_UTF8))  # Windows editors add a byte order mark
        self._id = request.id
        self._spec = spec
        self.timeout_s = request.parameters.timeout / 1e6 if request.parameters.timeout else None
        self._wanted = _wanted(request, spec)
        sent = _sent(request, spec)
        shapes = {tensor.name: tensor.shape for tensor in request.inputs}
        self._image_px = _require_shapes(shapes, spec, max_images)
        self.inputs = _arrays(sent, body[json_bytes:])

    def runs(self) -> Iterator[Tensors]:
        """The inputs divided into runs of bounded memory."""
        step = max(1, MAX_RUN_PX // self._image_px)
        for start in range(0, batch_of(self.inputs), step):
            yield part_of(self.inputs, start, start + step)

    def answer(self, outputs: Tensors) -> tuple[bytes, bytes]:
        """The response's JSON and the binary data after it, which may be empty."""
        described, binary = [], []
        for output, is_binary in self._wanted:
            data = np.ascontiguousarray(outputs[output.name])
            tensor: dict[str, Any] = {
                "name": output.name,
                "datatype": output.datatype,
                "shape": list(data.shape),
            }
            if is_binary:
                tensor["parameters"] = {"binary_data_size": data.nbytes}
                binary.append(data.tobytes())
            else:
                tensor["data"] = data.ravel()
            described.append(tensor)
        answer = {"model_name": self._spec.name, "model_version": str(self._spec.version), "outputs": described}
        if self._id is not None:
            answer["id"] = self._id
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), b"".join(binary)


def metadata(spec: Spec) -> dict[str, Any]:
    """The metadata of a model in the protocol's format."""
    return {
        "name": spec.name,
        "versions": [str(spec.version)],
        "platform": "onnxruntime_onnx",
        "inputs": [_described(tensor) for tensor in spec.inputs],
        "outputs": [_described(tensor) for tensor in spec.outputs],
    }


def _described(tensor: InputSpec | OutputSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.open_shape)}


def _parse(document: bytes) -> InferRequest:
    try:
        return InferRequest.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        if not where:
            raise MalformedRequestError(
                "The request is not a valid JSON object: check the JSON and Inference-Header-Content-Length."
            ) from None
        raise MalformedRequestError(f"The field {where} of the request is invalid: {first['msg']}.") from None


def _wanted(request: InferRequest, spec: Spec) -> tuple[tuple[OutputSpec, bool], ...]:
    """The requested outputs in the requested order, or all, and whether each is returned as binary data."""
    stated = {output.name: output for output in spec.outputs}
    asked = request.outputs or tuple(InferOutput(name=name) for name in stated)
    wanted: dict[str, tuple[OutputSpec, bool]] = {}
    for output in asked:
        if output.name not in stated or output.name in wanted:
            problem = "is requested twice" if output.name in wanted else "is not an output"
            raise MalformedRequestError(
                f"{output.name[:64]!r} {problem}: model {spec.name!r} returns {', '.join(stated)}."
            )
        if output.parameters.classification or output.parameters.shared_memory_region is not None:
            raise MalformedRequestError(
                "The classification and shared memory extensions are not supported: request outputs without them."
            )
        binary = output.parameters.binary_data
        is_binary = request.parameters.binary_data_output if binary is None else binary
        wanted[output.name] = (stated[output.name], is_binary)
    return tuple(wanted.values())


def _sent(request: InferRequest, spec: Spec) -> tuple[tuple[InputSpec, InferInput], ...]:
    """Each tensor of the request and its specification, in the request's order."""
    stated = {tensor.name: tensor for tensor in spec.inputs}
    sent = sorted((tensor.name[:64], tensor.datatype[:16]) for tensor in request.inputs)
    if sent != sorted((tensor.name, tensor.datatype) for tensor in spec.inputs):
        due = ", ".join(f"{tensor.name!r} of {tensor.datatype}" for tensor in spec.inputs)
        found = ", ".join(f"{name!r} of {datatype}" for name, datatype in sent[:8]) or "none"
        raise MalformedRequestError(
            f"Model {spec.name!r} takes the inputs {due}, but the request has {found}: send these inputs."
        )
    if any(tensor.parameters.shared_memory_region is not None for tensor in request.inputs):
        raise MalformedRequestError(
            "The shared memory extension is not supported: send the tensors in the request."
        )
    return tuple((stated[tensor.name], tensor) for tensor in request.inputs)


def _require_shapes(shapes: Mapping[str, Shape], spec: Spec, max_images: int) -> int:
    """Validate `shapes` against the network and the limits; the pixels of one image of the largest input."""
    signature = spec.signature
    try:
        outputs = signature.output_shapes(shapes)
    except ValueError as error:
        raise MalformedRequestError(
            f"Model {spec.name!r} does not accept these inputs: {error}; see /v2/models/{spec.name}."
        ) from None
    count, image_px = next(iter(shapes.values()))[0], signature.pixels(shapes)
    if count < 1:
        raise MalformedRequestError("The inputs contain no images: send at least one.")
    if image_px > MAX_RUN_PX:
        raise MalformedRequestError(
            f"An image has more than {MAX_RUN_PX} pixels, the maximum: divide it into tiles."
        )
    if count > max_images or count * image_px > MAX_PX:
        raise MalformedRequestError(
            f"The request has more than {max_images} images or {MAX_PX} pixels, the maximum: divide it."
        )
    answer_bytes = sum(
        math.prod(outputs[output.name]) * output.numpy_dtype.itemsize for output in signature.outputs
    )
    if answer_bytes > MAX_ANSWER_BYTES:
        raise MalformedRequestError(
            f"The outputs would take {answer_bytes} bytes, and the maximum is {MAX_ANSWER_BYTES}: divide the "
            "request."
        )
    return image_px


def _arrays(sent: tuple[tuple[InputSpec, InferInput], ...], binary: bytes) -> Tensors:
    """The tensors by name; binary data are concatenated in the order of the tensors that have them."""
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for stated, tensor in sent:
        size = tensor.parameters.binary_data_size
        if size is None:
            arrays[tensor.name] = _from_json(tensor, stated)
            continue
        due = math.prod(tensor.shape) * stated.numpy_dtype.itemsize
        if tensor.data is not None or size != due or start + size > len(binary):
            raise MalformedRequestError(
                f"The shape of {tensor.name!r} requires exactly {due} bytes of binary data, but binary_data_size "
                f"states {size} and {len(binary) - start} were sent: correct the shape or the data."
            )
        arrays[tensor.name] = _from_binary(binary, start, tensor, stated)
        start += size
    if start != len(binary):
        raise MalformedRequestError(
            f"The request has {len(binary)} bytes of binary data, but the inputs state {start} in "
            "binary_data_size: correct the sizes or the data."
        )
    return arrays


def _from_binary(binary: bytes, start: int, tensor: InferInput, stated: InputSpec) -> NDArray[Any]:
    count = math.prod(tensor.shape)
    if stated.dtype == "bool":  # the protocol allows any byte, NumPy only 0 and 1
        return np.asarray(np.frombuffer(binary, np.uint8, count, start) != 0).reshape(tensor.shape)
    found = np.frombuffer(binary, stated.numpy_dtype, count, start).reshape(tensor.shape)
    return np.require(found, requirements="A")  # may be unaligned after an input of another type


def _from_json(tensor: InferInput, stated: InputSpec) -> NDArray[Any]:
    """The tensor whose values are in the JSON, flat or nested."""
    try:
        values = np.asarray(tensor.data)
    except ValueError:  # rows of different lengths
        values = np.empty(0)
    if values.shape != tensor.shape and values.shape != (math.prod(tensor.shape),):
        raise MalformedRequestError(
            f"The data of {tensor.name!r} must be {math.prod(tensor.shape)} numbers, as its shape states."
        )
    if not _holds(stated.numpy_dtype, values):
        raise MalformedRequestError(f"The data of {tensor.name!r} must be {_values(stated.numpy_dtype)}.")
    return values.astype(stated.numpy_dtype).reshape(tensor.shape)


def _holds(dtype: np.dtype[Any], values: NDArray[Any]) -> bool:
    """Whether `dtype` can represent all `values`."""
    if dtype.kind == "b":
        return values.dtype.kind == "b"
    if dtype.kind == "f":
        return values.dtype.kind in "iuf" and bool(np.abs(values.astype(np.float64)).max() <= np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    return values.dtype.kind in "iu" and int(values.min()) >= limits.min and int(values.max()) <= limits.max


def _values(dtype: np.dtype[Any]) -> str:
    """The values of `dtype`, in words."""
    if dtype.kind == "b":
        return "true or false"
    if dtype.kind == "f":
        return f"numbers in the range of {dtype}"
    limits = np.iinfo(dtype)
    return f"whole numbers from {limits.min} to {limits.max}"
