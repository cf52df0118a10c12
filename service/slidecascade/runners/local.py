"""ONNX Runtime sessions in this process. The only module that imports onnxruntime."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slidecascade.errors import ModelFailedError, ModelPackageError, SettingsError
from slidecascade.models.batches import batch_of, part_of, require_finite
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import AnySpec
from slidecascade.models.tensors import Shape, Signature, Tensors
from slidecascade.privacy import forbid_telemetry

forbid_telemetry()  # at import, because ONNX Runtime reads the switch while it is being imported

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
"""ONNX Runtime's minimum log severity."""

MAX_SESSIONS = 15
"""Maximum sessions per network on a GPU, one per batch shape: two tile shapes and the three squares of second
looks, in three batch sizes."""

MAX_GROWTH_BYTES = 128 * 2**20
"""An arena on a CPU doubles, but grows by no more than this at once: the default of 1 GiB leaves much unused."""

OPTIMAL_BATCH = 8
"""The batch size TensorRT optimises its engines for."""

Device = Literal["cpu", "cuda", "tensorrt"]
Provider = tuple[str, dict[str, Any]]
Spec = AnySpec
Shapes = tuple[tuple[str, Shape], ...]
"""The shapes of all inputs, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where sessions run.

    Attributes:
        device: ``cpu``, ``cuda`` or ``tensorrt``. TensorRT runs networks of fixed input size; others run on CUDA,
            since their engines would have to be built for the largest possible tile.
        gpu: the index of the GPU.
        memory_mib: maximum GPU memory of a session in MiB; 0: unlimited.
        engine_dir: folder of TensorRT's engine cache; None: no cache.
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
        # Defaults: cuDNN benchmarks every algorithm for every new shape, and the arena doubles when it grows.
        options = {
            "device_id": self.gpu,
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
        return options | ({"gpu_mem_limit": self.memory_mib << 20} if self.memory_mib else {})

    def _tensorrt(self, spec: Spec, most: int) -> dict[str, Any]:
        options: dict[str, Any] = {"device_id": self.gpu}
        for name, count in (("min", 1), ("opt", min(OPTIMAL_BATCH, most)), ("max", most)):
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
    """The sessions of one network, and its signature.

    On CUDA there is one session for each of the most recently used input shapes. cuDNN's plans belong to a session
    and are rebuilt whenever its input shape changes: with one session a region took 1.4 s on an H100 instead of
    31 ms, nearly all of it planning.
    """

    def __init__(self, signature: Signature, make: Callable[[], ort.InferenceSession], *, by_shape: bool) -> None:
        self.signature = signature
        self._make, self._by_shape = make, by_shape
        self._kept: OrderedDict[Shapes, ort.InferenceSession] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, inputs: Tensors) -> ort.InferenceSession:
        """The session for the shapes of `inputs`, created on first use."""
        key = tuple((name, inputs[name].shape) for name in sorted(inputs)) if self._by_shape else ()
        with self._lock:
            session = self._kept.get(key) or self._make()
            self._kept[key] = session
            self._kept.move_to_end(key)
            if len(self._kept) > MAX_SESSIONS:
                self._kept.popitem(last=False)
        return session


class LocalRunner:
    """The networks of this process, shared by all threads.

    On a CPU the cores are used by concurrent tiles, not by threads inside one network: a shared session with one
    thread per call was measured to be faster than sessions that spread each call over the cores.

    Args:
        packages: the models to serve.
        threads_per_call: threads inside one network.
        placement: the device.
        warm_up: batch sizes, ascending, that a GPU runs before the first request.

    Raises:
        ModelPackageError: for a graph ONNX Runtime rejects, or whose tensors contradict its ``model.yaml``.
        SettingsError: when the device is a GPU and none is usable.
    """

    def __init__(
        self,
        packages: Iterable[ModelPackage],
        *,
        threads_per_call: int = 1,
        placement: Placement = ON_CPU,
        warm_up: Sequence[int] = (1,),
    ) -> None:
        # Failures are raised as errors; the library's own lines on stderr would only repeat them.
        ort.set_default_logger_severity(FATAL_ONLY)
        sizes: tuple[int, ...] = (1,)
        if placement.device != "cpu":
            # The [gpu] extra installs CUDA and cuDNN as Python packages, which the loader does not find by itself.
            ort.preload_dlls()
            sizes = tuple(warm_up)
        packages = tuple(packages)
        self._is_on_cpu = placement.device == "cpu"
        self._classifiers = {package.spec.name for package in packages if package.spec.task == "classify"}
        self._sessions = {
            package.spec.name: _open(package, threads_per_call, placement, sizes) for package in packages
        }

    def run(self, model: str, inputs: Tensors) -> Tensors:
        sessions = self._sessions[model]
        sessions.signature.require_inputs(model, inputs)
        # Matrix products round differently for a single row (GEMV), so a single crop is duplicated.
        alone = model in self._classifiers and batch_of(inputs) == 1
        given = {name: np.repeat(array, 2, axis=0) for name, array in inputs.items()} if alone else inputs
        try:
            outputs = _run(sessions, given)
        except ORT_ERRORS as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise ModelFailedError(f"Model {model!r} failed on {shapes}: see the service's log.") from error
        require_finite(model, outputs)
        return part_of(outputs, 0, 1) if alone else outputs

    def trim(self) -> None:
        """Give back what the sessions on a CPU keep, 0.4 GB a thread with `nuclei-unet` and tiles of 1184 px.

        ONNX Runtime does so at the end of a run that asks for it, so each network runs once on a small image.
        """
        if not self._is_on_cpu:
            return
        for sessions in self._sessions.values():
            with suppress(*ORT_ERRORS):  # nothing depends on it
                _run(sessions, _zeros(sessions.signature, 1), shrink=True)

    def close(self) -> None:
        self._sessions.clear()


def _open(package: ModelPackage, threads_per_call: int, placement: Placement, sizes: Sequence[int]) -> Sessions:
    """Sessions of `package`, validated with one run for each batch size in `sizes`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_per_call
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    # A pattern is one block for each input shape, kept by the session beside those of other shapes and threads.
    # Without it two threads with tiles of 1184 px took 0.95 GB instead of 1.29 GB, and no more time.
    options.enable_mem_pattern = placement.device != "cpu"
    if placement.device == "cpu":
        _create_shared_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    providers = placement.providers(package.spec, most=sizes[-1])
    built = ort.get_available_providers()
    if providers[0][0] not in built:  # checked first, because ONNX Runtime would only log it
        raise SettingsError(_missing(placement.device, built))

    def make() -> ort.InferenceSession:
        # From bytes: what is run is what was hashed; `load_package` rejects graphs with external data.
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
                f"Model {package.spec.name!r} cannot be loaded by ONNX Runtime: convert it again. "
                f"({_first_line(error)})"
            ) from error
        if session.get_providers()[0] != providers[0][0]:
            # ONNX Runtime falls back to the CPU without raising an error.
            raise SettingsError(_missing(placement.device, session.get_providers()))
        _require_stated(package.spec, session)
        _test_run(package.spec.name, sessions, inputs)
    return sessions


@cache
def _create_shared_arena() -> None:
    """Create the arena of all CPU sessions of this process; a session would otherwise keep one of its own.

    Networks of a cascade run one after the other, so their sum is never in use at once: a job of `nash` with two
    threads took 1.5 to 1.7 GiB with an arena for each session, 1.3 to 1.4 GiB with one, in the same time.
    """
    cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    growth = {"arena_extend_strategy": 0, "max_power_of_two_extend_bytes": MAX_GROWTH_BYTES}
    ort.create_and_register_allocator(cpu, ort.OrtArenaCfg(growth))


def _zeros(signature: Signature, batch: int) -> Tensors:
    shapes = signature.input_shapes(batch=batch, side_px=WARM_UP_PX)
    return {tensor.name: np.zeros(shapes[tensor.name], tensor.numpy_dtype) for tensor in signature.inputs}


def _run(sessions: Sessions, inputs: Tensors, *, shrink: bool = False) -> Tensors:
    """The outputs by name; `shrink`: the session's memory that is not in use is given back afterwards."""
    names = sessions.signature.output_names
    options = ort.RunOptions() if shrink else None
    if options is not None:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return dict(zip(names, sessions.of(inputs).run(list(names), dict(inputs), options), strict=True))


def _missing(device: Device, found: Sequence[str]) -> str:
    """The error message when ONNX Runtime offers only the providers `found` for `device`."""
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
    """Validate the graph's inputs and outputs against ``model.yaml``.

    Raises:
        ModelPackageError: when they differ.
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
    """Whether the sizes that the graph fixes equal the stated ones; the graph may leave any of them free."""
    if not found:
        return True
    return len(stated) == len(found) and all(
        not isinstance(size, int) or size == due for size, due in zip(found, stated, strict=True)
    )


def _test_run(model: str, sessions: Sessions, inputs: Tensors) -> None:
    """Run the network once on `inputs`, to validate its outputs and to warm it up.

    Raises:
        ModelPackageError: when the run fails, or dtypes or shapes differ from those in ``model.yaml``.
    """
    shapes = sessions.signature.require_inputs(model, inputs)
    try:
        outputs = _run(sessions, inputs)
    except ORT_ERRORS as error:
        given = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
        raise ModelPackageError(
            f"Model {model!r} failed on {given}, which its model.yaml allows: correct `inputs` or convert it "
            f"again. ({_first_line(error)})"
        ) from error
    if mismatch := sessions.signature.mismatch(outputs, shapes):
        raise ModelPackageError(
            f"Model {model!r} {mismatch}: correct `outputs`, `classes` or `head` or convert it again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
