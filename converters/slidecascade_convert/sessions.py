"""ONNX Runtime sessions of intermediate graphs, with errors in one sentence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade.privacy import forbid_telemetry

if TYPE_CHECKING:
    import onnx

# The messages in which ONNX Runtime reports an unknown operator.
_UNKNOWN_OPERATOR = (
    re.compile(r"Could not find an implementation for ([\w.:]+)"),
    re.compile(r"No Op registered for ([\w.:]+)"),
    re.compile(r"([\w.:]+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"No opset import for domain ([\w.:]+)"),
)


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph or an input it cannot use."""
    forbid_telemetry()
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    return (
        raised.Fail,
        raised.InvalidArgument,
        raised.InvalidGraph,
        raised.InvalidProtobuf,
        raised.NotImplemented,
        raised.RuntimeException,
    )


def open_session(model: onnx.ModelProto, *, threads: int = 0) -> Any:
    """A session of `model` on the CPU; `threads` 0 uses all cores.

    Raises:
        ConversionError: naming the operator that ONNX Runtime lacks, or with its first line.
    """
    forbid_telemetry()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        text = str(error)
        for pattern in _UNKNOWN_OPERATOR:
            if match := pattern.search(text):
                raise ConversionError(
                    f"The graph uses the operator {match[1]}, which ONNX Runtime does not have: export it with "
                    "standard operators."
                ) from error
        raise ConversionError(f"ONNX Runtime refuses the graph: export it anew. ({first_line(error)})") from error


def run_session(session: Any, images: npt.NDArray[Any], *, outputs: list[str] | None = None) -> Any:
    """The first output for `images`, or a list of those named in `outputs`.

    Raises:
        ConversionError: the graph does not run on images of this size.
    """
    try:
        answers = session.run(outputs, {session.get_inputs()[0].name: images})
    except runtime_errors() as error:
        raise ConversionError(
            f"The graph does not run on a batch of the shape {images.shape}: convert it for the size it was "
            f"exported at. ({first_line(error)})"
        ) from error
    return answers if outputs else answers[0]


_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours and other control sequences (ECMA-48), which PyTorch's exporter writes into its messages."""


def first_line(error: Exception) -> str:
    """The first informative line of `error`, without terminal codes."""
    text = _TERMINAL_CODE.sub("", str(error).replace("\r", "\n"))
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), type(error).__name__)
