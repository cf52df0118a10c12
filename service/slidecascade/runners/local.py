"""ONNX Runtime sessions in this process. The only module that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from slidecascade.errors import ModelFailedError, ModelPackageError, SettingsError
from slidecascade.registry import MAPS, ClassifierSpec, ModelPackage, SegmenterSpec

ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
WARM_UP_PX = 64
FATAL_ONLY = 4
"""The severity from which on ONNX Runtime writes to stderr."""

Device = Literal["cpu", "cuda"]
PROVIDERS: dict[Device, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


class LocalRunner:
    """One session per model, shared by all threads.

    On CPU the cores are kept busy by tiles side by side, not by threads inside one network: a shared session
    with one thread per call was measured faster than sessions that spread each call over the cores.

    Args:
        packages: the models to serve.
        threads_per_call: threads inside one network.
        device: ``cpu``, or ``cuda`` for the first GPU.

    Raises:
        ModelPackageError: for a graph ONNX Runtime refuses, or whose shapes contradict its ``model.yaml``.
        SettingsError: when a GPU was asked for and there is none to use.
    """

    def __init__(
        self, packages: Iterable[ModelPackage], *, threads_per_call: int = 1, device: Device = "cpu"
    ) -> None:
        # Failures are raised as sentences; raw lines of the library on stderr would only repeat them.
        ort.set_default_logger_severity(FATAL_ONLY)
        if device == "cuda":
            # The [gpu] extra brings CUDA and cuDNN as Python packages, which the loader does not find by itself.
            ort.preload_dlls()
        self._sessions = {package.spec.name: _open(package, threads_per_call, device) for package in packages}

    def run(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        session = self._sessions[model]
        try:
            output: NDArray[Any] = session.run(None, {"image": images})[0]
        except ORT_ERRORS as error:
            raise ModelFailedError(
                f"Model {model!r} failed on {len(images)} images of {images.shape[2]} x {images.shape[1]} px: "
                "see the service's log."
            ) from error
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise ModelFailedError(f"Model {model!r} returned values that are not numbers: verify the model.")
        return output

    def close(self) -> None:
        self._sessions.clear()


def _open(package: ModelPackage, threads_per_call: int, device: Device) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_per_call
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    try:
        # From bytes: what is run is what was hashed; `load_package` refused graphs with external data.
        session = ort.InferenceSession(package.read(), options, providers=PROVIDERS[device])
    except ORT_ERRORS as error:
        raise ModelPackageError(
            f"Model {package.spec.name!r} is refused by ONNX Runtime: convert it again. ({_first_line(error)})"
        ) from error
    if session.get_providers()[0] != PROVIDERS[device][0]:
        # ONNX Runtime falls back to the CPU without a word that a program could catch.
        raise SettingsError(
            "SLIDECASCADE_DEVICE is 'cuda', but ONNX Runtime found no usable GPU: install the [gpu] extra and the "
            "driver, or set it to 'cpu'."
        )
    _check(package.spec, session)
    return session


def _check(spec: SegmenterSpec | ClassifierSpec, session: ort.InferenceSession) -> None:
    """Hold the graph against ``model.yaml``, then run it once, which also warms it up."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].name != "image" or inputs[0].type != "tensor(uint8)":
        raise ModelPackageError(f"Model {spec.name!r} must take one input, `image`, uint8 (N, H, W, 3).")
    if len(outputs) != 1:
        raise ModelPackageError(f"Model {spec.name!r} must have one output, it has {len(outputs)}.")
    side = -(-WARM_UP_PX // spec.input.multiple_of) * spec.input.multiple_of
    height, width = spec.input.height_px or side, spec.input.width_px or side
    image = np.zeros((1, height, width, 3), np.uint8)
    try:
        output = session.run(None, {"image": image})[0]
    except ORT_ERRORS as error:
        raise ModelPackageError(
            f"Model {spec.name!r} does not run on an image of {width} x {height} px as its model.yaml says: "
            f"correct `input` or convert it again. ({_first_line(error)})"
        ) from error
    expected = (1, height, width, MAPS[spec.head]) if spec.task == "segment" else (1, len(spec.classes))
    kind = np.uint8 if spec.task == "segment" else np.float32
    if output.shape != expected or output.dtype != kind:
        raise ModelPackageError(
            f"Model {spec.name!r} returns {output.dtype} {output.shape}, its model.yaml implies "
            f"{np.dtype(kind)} {expected}: correct `classes`, `head` and `task` or convert it again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
