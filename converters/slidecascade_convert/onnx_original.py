"""ONNX files: read as data, made self-contained and brought to a current opset."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade_convert.half import HALF_TOLERANCE
from slidecascade_convert.original import Facts, Original, image_shape
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.sessions import open_session, run_session
from slidecascade_convert.source import MAX_SOURCE_BYTES

if TYPE_CHECKING:
    import onnx

MIN_OPSET, SERVED_OPSET = 9, 17


def open_onnx(request: ConversionRequest) -> Original:
    """The ONNX graph in the request's source.

    Raises:
        ConversionError: when it is damaged, older than opset 9, keeps weights outside its folder, or has not
            exactly one image input and one output.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(request.source, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ConversionError("The source begins as an ONNX file but is damaged: copy it again.") from error
    if not model.graph.node or not model.graph.output:
        raise ConversionError("The ONNX file holds no network: export it again.")
    _inline_external_data(model, request.source.resolve().parent)
    if opset_of(model) < MIN_OPSET:
        raise ConversionError(f"The graph is of opset {opset_of(model)}: export it with opset 9 or newer.")
    return _OnnxOriginal(model)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators in `model`."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)


def _inline_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Load external weights from files beside the source into the graph; other paths are rejected."""
    from onnx import TensorProto, external_data_helper

    tensors = [
        tensor
        for tensor in external_data_helper._get_all_tensors(model)
        if external_data_helper.uses_external_data(tensor)
    ]
    files = {_location(tensor): _weights_file(folder, _location(tensor)) for tensor in tensors}
    if sum(path.stat().st_size for path in files.values()) > MAX_SOURCE_BYTES:
        raise ConversionError("The graph's weights have more than 2 GiB, which no served model can hold.")
    for tensor in tensors:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, RuntimeError, onnx_errors()) as error:
            raise ConversionError(
                f"The weights in {_location(tensor)!r} cannot be read: copy the file again."
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")[:200]


def _weights_file(folder: Path, location: str) -> Path:
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder) or not path.is_file():
        raise ConversionError(
            f"The graph keeps weights in {location!r}, which is not a file in the source's folder: put it there, "
            "or save the graph as one file."
        )
    return path


def onnx_errors() -> type[Exception]:
    """What the onnx checker raises."""
    from onnx import checker

    return checker.ValidationError  # type: ignore[no-any-return]  # onnx has no types


class _OnnxOriginal:
    def __init__(self, model: onnx.ModelProto) -> None:
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        if len(inputs) != 1 or len(model.graph.output) != 1:
            raise ConversionError(
                f"The graph has {len(inputs)} inputs and {len(model.graph.output)} outputs: export one image "
                "input and one output."
            )
        self._model, self._input = model, inputs[0]
        sizes = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]
        image = image_shape("The graph's input", sizes)
        self._type = _input_type(inputs[0])
        self._frozen_batch = inputs[0].type.tensor_type.shape.dim[0].dim_value
        self.facts = Facts(
            layout=image.layout,
            height_px=image.height_px,
            width_px=image.width_px,
            is_grey=image.is_grey,
            takes_bytes=self._type == np.uint8,
            answers_bytes=model.graph.output[0].type.tensor_type.elem_type == onnx_uint8(),
            tolerance=HALF_TOLERANCE if _is_half(model) else 1e-4,
            versions={
                "producer": f"{model.producer_name} {model.producer_version}".strip() or "unknown",
                "source_opset": str(opset_of(model)),
                "onnx": metadata.version("onnx"),
                "onnxruntime": metadata.version("onnxruntime"),
            },
        )
        self._session: Any = None

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self._session is None:
            self._session = open_session(self._model)
        # A graph that froze its batch sees that many images at a time, the last one repeated as often as needed.
        step = self._frozen_batch or len(pixels)
        missing = -len(pixels) % step
        padded: npt.NDArray[Any] = np.concatenate([pixels, *[pixels[-1:]] * missing]).astype(self._type)
        parts = [run_session(self._session, padded[start : start + step]) for start in range(0, len(padded), step)]
        answer: npt.NDArray[np.float32] = np.concatenate(parts)[: len(pixels)].astype(np.float32)
        return answer / np.float32(255) if self.facts.answers_bytes else answer

    def export(self) -> onnx.ModelProto:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        if opset_of(model) < SERVED_OPSET:
            model = _upgraded(model)
        if self._frozen_batch:
            _free_batch(model, self._frozen_batch)
        return model


def onnx_uint8() -> int:
    from onnx import TensorProto

    return int(TensorProto.UINT8)


def _is_half(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _input_type(value: onnx.ValueInfoProto) -> type:
    from onnx import TensorProto

    types = {
        TensorProto.FLOAT: np.float32,
        TensorProto.FLOAT16: np.float16,
        TensorProto.DOUBLE: np.float64,
        TensorProto.UINT8: np.uint8,
    }
    element = value.type.tensor_type.elem_type
    if element not in types:
        raise ConversionError(
            f"The graph's input is {TensorProto.DataType.Name(element)}: export it with float32 or uint8 images."
        )
    return types[element]


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, SERVED_OPSET)
    except (RuntimeError, ValueError, onnx_errors()) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConversionError(
            f"The graph's opset {opset_of(model)} cannot be raised to {SERVED_OPSET}: export it anew. ({reason})"
        ) from error


def _free_batch(model: onnx.ModelProto, frozen: int) -> None:
    """Let reshapes that state the frozen batch take it from their input instead."""
    from onnx import numpy_helper

    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape" and len(node.input) > 1}
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors.append((node.output[0], node.attribute[0].t))
    for name, tensor in tensors:
        if name not in shapes:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == frozen:
            shape[0] = 0  # Reshape's word for "as in the input"
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
