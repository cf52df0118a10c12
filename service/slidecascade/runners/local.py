"""ONNX Runtime sessions in this process. The only module that imports onnxruntime."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slidecascade.errors import ModelFailedError, ModelPackageError, SettingsError
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade.models.tensors import Shape, Signature, Tensors, batch_of, part_of, require_finite
from slidecascade.privacy import forbid_telemetry

forbid_telemetry()  # the one thing done at import: ONNX Runtime reads the switch while it is imported itself

import onnxruntime as ort  # noqa: E402
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors  # noqa: E402

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
Spec = SegmenterSpec | ClassifierSpec
Shapes = tuple[tuple[str, Shape], ...]
"""The shapes of all inputs, by name."""


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

    def providers(self, spec: Spec, *, most: int) -> list[Provider]:
        """ONNX Runtime's providers for batches of up to `most` images, best first."""
        found: list[Provider] = [("CPUExecutionProvider", {})]
        if self.device != "cpu":
            found.insert(0, ("CUDAExecutionProvider", self._cuda()))
        if self.device == "tensorrt" and spec.signature.has_fixed_sizes:
            found.insert(0, ("TensorrtExecutionProvider", self._tensorrt(spec, most)))
        return found

    def _cuda(self) -> dict[str, Any]:
        # By default cuDNN tries out every algorithm for every new shape, and the arena doubles when it grows.
        options = {
            "device_id": self.gpu,
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
        return options | ({"gpu_mem_limit": self.memory_mib << 20} if self.memory_mib else {})

    def _tensorrt(self, spec: Spec, most: int) -> dict[str, Any]:
        options: dict[str, Any] = {"device_id": self.gpu}
        for name, count in (("min", 1), ("opt", min(USUAL_BATCH, most)), ("max", most)):
            shapes = spec.signature.input_shapes(batch=count, side_px=1)
            profile = ",".join(f"{tensor}:{'x'.join(map(str, shape))}" for tensor, shape in shapes.items())
            options[f"trt_profile_{name}_shapes"] = profile
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
    """The sessions of one network, and what it takes and returns.

    On CUDA there is one for each of the shapes of inputs last asked for. cuDNN's plans belong to a session
    and are made anew whenever its input has another shape than the time before: on an H100 a region of 31 ms took
    1.4 s, nearly all of it planning.
    """

    def __init__(self, signature: Signature, make: Callable[[], ort.InferenceSession], *, by_shape: bool) -> None:
        self.signature = signature
        self._make, self._by_shape = make, by_shape
        self._kept: OrderedDict[Shapes, ort.InferenceSession] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, inputs: Tensors) -> ort.InferenceSession:
        """The session for arrays of the shapes of `inputs`, made if need be."""
        key = tuple((name, inputs[name].shape) for name in sorted(inputs)) if self._by_shape else ()
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
        packages = tuple(packages)
        self._classifiers = {package.spec.name for package in packages if package.spec.task == "classify"}
        self._sessions = {
            package.spec.name: _open(package, threads_per_call, placement, sizes) for package in packages
        }

    def run(self, model: str, inputs: Tensors) -> Tensors:
        sessions = self._sessions[model]
        sessions.signature.require_inputs(model, inputs)
        # The product of a single row is rounded in another way than that of several: no crop runs alone.
        alone = model in self._classifiers and batch_of(inputs) == 1
        given = {name: np.repeat(array, 2, axis=0) for name, array in inputs.items()} if alone else inputs
        try:
            outputs = _run(sessions, given)
        except ORT_ERRORS as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise ModelFailedError(f"Model {model!r} failed on {shapes}: see the service's log.") from error
        require_finite(model, outputs)
        return part_of(outputs, 0, 1) if alone else outputs

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
    signature = package.spec.signature
    sessions = Sessions(signature, make, by_shape=providers[0][0] == "CUDAExecutionProvider")
    for size in sizes:
        inputs = _zeros(signature, size)
        try:
            session = sessions.of(inputs)
        except ORT_ERRORS as error:
            raise ModelPackageError(
                f"Model {package.spec.name!r} is refused by ONNX Runtime: convert it again. ({_first_line(error)})"
            ) from error
        if session.get_providers()[0] != providers[0][0]:
            # ONNX Runtime falls back to the CPU without a word that a program could catch.
            raise SettingsError(_missing(placement.device, session.get_providers()))
        _require_stated(package.spec, session)
        _try(package.spec.name, sessions, inputs)
    return sessions


def _zeros(signature: Signature, batch: int) -> Tensors:
    shapes = signature.input_shapes(batch=batch, side_px=WARM_UP_PX)
    return {tensor.name: np.zeros(shapes[tensor.name], tensor.numpy_dtype) for tensor in signature.inputs}


def _run(sessions: Sessions, inputs: Tensors) -> Tensors:
    names = sessions.signature.output_names
    return dict(zip(names, sessions.of(inputs).run(list(names), dict(inputs)), strict=True))


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


def _require_stated(spec: Spec, session: ort.InferenceSession) -> None:
    """Check that the graph takes and returns the tensors that ``model.yaml`` states, and no others.

    Raises:
        ModelPackageError: when it does not.
    """
    signature = spec.signature
    for kind, stated, found in (
        ("takes", signature.inputs, session.get_inputs()),
        ("returns", signature.outputs, session.get_outputs()),
    ):
        of_graph = {tensor.name: tensor for tensor in found}
        if of_graph.keys() != {tensor.name for tensor in stated}:
            raise ModelPackageError(
                f"Model {spec.name!r} {kind} {', '.join(of_graph)}, its model.yaml states "
                f"{', '.join(tensor.name for tensor in stated)}: correct its tensors or convert it again."
            )
        for tensor in stated:
            graph = of_graph[tensor.name]
            if graph.type != tensor.onnx_type or not _agree(tensor.open_shape, graph.shape):
                raise ModelPackageError(
                    f"Model {spec.name!r} {kind} {tensor.name!r} as {graph.type} {tuple(graph.shape)}, its "
                    f"model.yaml states {tensor.onnx_type} {tensor.shape}: correct them or convert it again."
                )


def _agree(stated: Shape, found: Sequence[int | str | None]) -> bool:
    """Whether no size that the graph fixes is stated otherwise; it may leave sizes open, or its whole shape."""
    if not found:
        return True
    return len(stated) == len(found) and all(
        not isinstance(size, int) or size == due for size, due in zip(found, stated, strict=True)
    )


def _try(model: str, sessions: Sessions, inputs: Tensors) -> None:
    """Run the network once on `inputs`, which also warms it up.

    Raises:
        ModelPackageError: when it fails, or returns other types or shapes than ``model.yaml`` states.
    """
    shapes = sessions.signature.require_inputs(model, inputs)
    try:
        outputs = _run(sessions, inputs)
    except ORT_ERRORS as error:
        given = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
        raise ModelPackageError(
            f"Model {model!r} does not run on {given} as its model.yaml states: correct `inputs` or convert it "
            f"again. ({_first_line(error)})"
        ) from error
    if mismatch := sessions.signature.mismatch(outputs, shapes):
        raise ModelPackageError(
            f"Model {model!r} {mismatch}: correct `outputs`, `classes` or `head` or convert it again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
