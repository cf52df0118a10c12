"""ONNX Runtime sessions in this process. The only module that imports onnxruntime."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from slidecascade.errors import ModelFailedError, ModelPackageError, SettingsError
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import MAPS, ClassifierSpec, FixedSize, SegmenterSpec

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

MOST_SHAPES = 6
"""Shapes of batches for each of which a network on a GPU keeps a session: two of tiles in three sizes of batch."""

USUAL_BATCH = 8
"""The size of batches TensorRT makes its engines best for."""

Device = Literal["cpu", "cuda", "tensorrt"]
Provider = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where sessions run.

    Attributes:
        device: ``cpu``, or ``cuda`` or ``tensorrt`` for a GPU. TensorRT takes networks of a fixed input size: for
            others its engines would have to be built for the largest tile there may be. Those run on CUDA.
        gpu: the number of the GPU.
        memory_mib: most memory a session may take on the GPU, in MiB; 0: all there is.
        engine_dir: where TensorRT keeps its engines; None: it does not.
    """

    device: Device = "cpu"
    gpu: int = 0
    memory_mib: int = 0
    engine_dir: Path | None = None

    def providers(self, spec: SegmenterSpec | ClassifierSpec, *, most: int) -> list[Provider]:
        """ONNX Runtime's providers for batches of up to `most` images, best first."""
        found: list[Provider] = [("CPUExecutionProvider", {})]
        if self.device != "cpu":
            found.insert(0, ("CUDAExecutionProvider", self._cuda()))
        if self.device == "tensorrt" and isinstance(spec.input, FixedSize):
            found.insert(0, ("TensorrtExecutionProvider", self._tensorrt(spec, spec.input, most)))
        return found

    def _cuda(self) -> dict[str, Any]:
        # By default cuDNN tries out every algorithm for every new shape, and the arena doubles when it grows.
        options = {
            "device_id": self.gpu,
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
        return options | ({"gpu_mem_limit": self.memory_mib << 20} if self.memory_mib else {})

    def _tensorrt(self, spec: SegmenterSpec | ClassifierSpec, size: FixedSize, most: int) -> dict[str, Any]:
        options: dict[str, Any] = {"device_id": self.gpu}
        for name, count in (("min", 1), ("opt", min(USUAL_BATCH, most)), ("max", most)):
            options[f"trt_profile_{name}_shapes"] = f"image:{count}x{size.height_px}x{size.width_px}x3"
        if self.memory_mib:
            options["trt_max_workspace_size"] = self.memory_mib << 20
        if self.engine_dir is not None:
            options |= {
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(self.engine_dir),
                "trt_engine_cache_prefix": f"{spec.name}-{spec.sha256[:16]}",
                "trt_timing_cache_enable": True,
                "trt_timing_cache_path": str(self.engine_dir),
            }
        return options


ON_CPU = Placement()


class Sessions:
    """The sessions of one network.

    On CUDA there is one for each shape ``(N, H, W, 3)`` of those last asked for. cuDNN's plans belong to a session
    and are made anew whenever its input has another shape than the time before: on an H100 a region of 31 ms took
    1.4 s, nearly all of it planning.
    """

    def __init__(self, make: Callable[[], ort.InferenceSession], *, by_shape: bool) -> None:
        self._make, self._by_shape = make, by_shape
        self._kept: OrderedDict[tuple[int, ...], ort.InferenceSession] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, shape: tuple[int, ...]) -> ort.InferenceSession:
        """The session for images of `shape`, made if need be."""
        key = shape if self._by_shape else ()
        with self._lock:
            session = self._kept.get(key) or self._make()
            self._kept[key] = session
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_SHAPES:
                self._kept.popitem(last=False)
        return session


class LocalRunner:
    """The networks of this process, shared by all threads.

    On CPU the cores are kept busy by tiles side by side, not by threads inside one network: a shared session
    with one thread per call was measured faster than sessions that spread each call over the cores.

    Args:
        packages: the models to serve.
        threads_per_call: threads inside one network.
        placement: the device.
        warm_up: sizes of batches, ascending, that a GPU is to have seen before the first request.

    Raises:
        ModelPackageError: for a graph ONNX Runtime refuses, or whose shapes contradict its ``model.yaml``.
        SettingsError: when a GPU was asked for and there is none to use.
    """

    def __init__(
        self,
        packages: Iterable[ModelPackage],
        *,
        threads_per_call: int = 1,
        placement: Placement = ON_CPU,
        warm_up: Sequence[int] = (1,),
    ) -> None:
        # Failures are raised as sentences; raw lines of the library on stderr would only repeat them.
        ort.set_default_logger_severity(FATAL_ONLY)
        sizes: tuple[int, ...] = (1,)
        if placement.device != "cpu":
            # The [gpu] extra brings CUDA and cuDNN as Python packages, which the loader does not find by itself.
            ort.preload_dlls()
            sizes = tuple(warm_up)
        self._sessions = {
            package.spec.name: _open(package, threads_per_call, placement, sizes) for package in packages
        }

    def run(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        sessions = self._sessions[model]
        try:
            output: NDArray[Any] = sessions.of(images.shape).run(None, {"image": images})[0]
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


def _open(package: ModelPackage, threads_per_call: int, placement: Placement, sizes: Sequence[int]) -> Sessions:
    """Sessions that have been tried with batches of `sizes`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_per_call
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    providers = placement.providers(package.spec, most=sizes[-1])
    built = ort.get_available_providers()
    if providers[0][0] not in built:  # asked first, for ONNX Runtime would tell of it in lines of its own
        raise SettingsError(_missing(placement.device, built))

    def make() -> ort.InferenceSession:
        # From bytes: what is run is what was hashed; `load_package` refused graphs with external data.
        return ort.InferenceSession(graph, options, providers=providers)

    graph = package.read()
    sessions = Sessions(make, by_shape=providers[0][0] == "CUDAExecutionProvider")
    side = -(-WARM_UP_PX // package.spec.input.multiple_of) * package.spec.input.multiple_of
    height, width = package.spec.input.height_px or side, package.spec.input.width_px or side
    for size in sizes:
        image = np.zeros((size, height, width, 3), np.uint8)
        try:
            session = sessions.of(image.shape)
        except ORT_ERRORS as error:
            raise ModelPackageError(
                f"Model {package.spec.name!r} is refused by ONNX Runtime: convert it again. ({_first_line(error)})"
            ) from error
        if session.get_providers()[0] != providers[0][0]:
            # ONNX Runtime falls back to the CPU without a word that a program could catch.
            raise SettingsError(_missing(placement.device, session.get_providers()))
        _check(package.spec, session, image)
    return sessions


def _missing(device: Device, found: Sequence[str]) -> str:
    """What to say when ONNX Runtime could make `found` alone of the providers of `device`."""
    if "CUDAExecutionProvider" in found:
        return (
            f"SLIDECASCADE_DEVICE is {device!r}, but ONNX Runtime cannot load TensorRT: install NVIDIA's "
            "TensorRT, which is not part of the [gpu] extra, or set it to 'cuda'."
        )
    return (
        f"SLIDECASCADE_DEVICE is {device!r}, but ONNX Runtime found no usable GPU: install the [gpu] extra "
        "and the driver, or set it to 'cpu'."
    )


def _check(spec: SegmenterSpec | ClassifierSpec, session: ort.InferenceSession, image: NDArray[np.uint8]) -> None:
    """Hold the graph against ``model.yaml``, then run it once on `image` (N, H, W, 3), which also warms it up."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].name != "image" or inputs[0].type != "tensor(uint8)":
        raise ModelPackageError(f"Model {spec.name!r} must take one input, `image`, uint8 (N, H, W, 3).")
    if len(outputs) != 1:
        raise ModelPackageError(f"Model {spec.name!r} must have one output, it has {len(outputs)}.")
    size, height, width, _ = image.shape
    try:
        output = session.run(None, {"image": image})[0]
    except ORT_ERRORS as error:
        raise ModelPackageError(
            f"Model {spec.name!r} does not run on an image of {width} x {height} px as its model.yaml says: "
            f"correct `input` or convert it again. ({_first_line(error)})"
        ) from error
    expected = (size, height, width, MAPS[spec.head]) if spec.task == "segment" else (size, len(spec.classes))
    kind = np.uint8 if spec.task == "segment" else np.float32
    if output.shape != expected or output.dtype != kind:
        raise ModelPackageError(
            f"Model {spec.name!r} returns {output.dtype} {output.shape}, its model.yaml implies "
            f"{np.dtype(kind)} {expected}: correct `classes`, `head` and `task` or convert it again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
