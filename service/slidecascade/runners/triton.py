"""Networks on a Triton server, over gRPC. The only module that imports tritonclient.

The server reads the same models folder. Triton's protocol reports no checksum of the loaded model, so its name,
version, inputs and outputs are validated against ``model.yaml``, and so is the sha256 in its ``config.pbtxt`` if
there is one.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from slidecascade.cancellation import Control
from slidecascade.errors import (
    MissingExtraError,
    ModelFailedError,
    NotReadyError,
    OverloadedError,
    SettingsError,
    SlideCascadeError,
    UnknownModelError,
)
from slidecascade.models.batches import batch_of, image_bytes, part_of, require_finite
from slidecascade.models.repository import ModelPackage
from slidecascade.models.tensors import Tensors
from slidecascade.runners.runner import RETRY_AFTER_S, CallerView, Runner
from slidecascade.runners.server_metadata import ServedModel, Spec, require_served
from slidecascade.runners.sharedmemory import Layout, Region, RegionRefusedError, Regions

try:
    import tritonclient.grpc as triton
except (ModuleNotFoundError, RuntimeError) as missing:  # RuntimeError when only grpcio is missing
    raise MissingExtraError.of("tritonclient", "triton", "for models on a Triton server") from missing

LOG = logging.getLogger(__name__)

INFER_TIMEOUT_S = 60.0
"""Timeout of one batch."""

QUERY_TIMEOUT_S = 10.0
"""Timeout of requests for metadata, readiness and shared memory."""

RETRY_DELAY_S = 0.3
"""Longer than gRPC's first reconnect backoff."""

CLOCK_TOLERANCE_S = 0.05
MAX_MESSAGE_BYTES = 1 << 30
"""gRPC messages must stay below 2 GiB."""

CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect within seconds of a server restart; by default the backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
UNAVAILABLE, NOT_FOUND = "StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND"
DEADLINE_EXCEEDED, CANCELLED = "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"
QUEUE_FULL = "maximum queue size"
"""Part of Triton's message when its queue is full; any other UNAVAILABLE means that it cannot be reached."""

HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Lease:
    """A region in use by one call, and its layout."""

    region: Region
    layout: Layout


class TritonRunner:
    """Sends every batch to a Triton server. Thread-safe.

    The constructor makes no calls, so the service and the server can start in any order. A model is validated
    against its package before its first use, and again after the connection was lost.

    Args:
        packages: the models to serve; the server must serve the same names and versions.
        url: ``host:port`` of the server's gRPC endpoint.
        timeout_s: timeout of one batch in seconds.
        shared_memory: whether tensors are passed in memory shared with the server; None: if the server is on this
            machine. If the server rejects it, tensors are sent in messages.
        retry_after_s: retry delay in seconds, reported when the server is unavailable.

    Raises:
        SettingsError: when `url` is not ``host:port``.
    """

    def __init__(
        self,
        packages: Iterable[ModelPackage],
        *,
        url: str,
        timeout_s: float = INFER_TIMEOUT_S,
        shared_memory: bool | None = None,
        retry_after_s: int = RETRY_AFTER_S,
    ) -> None:
        self._specs = {package.spec.name: package.spec for package in packages}
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        shares = _is_this_machine(_host(url)) if shared_memory is None else shared_memory
        self._client = triton.InferenceServerClient(url, channel_args=CHANNEL)
        self._served: dict[str, ServedModel] = {}
        self._regions = Regions(register=self._register, unregister=self._unregister) if shares else None

    def run(self, model: str, inputs: Tensors) -> Tensors:
        """See `Runner.run`.

        Raises:
            ModelFailedError: when the run failed, timed out or returned invalid outputs.
            NotReadyError: when the server cannot be reached or does not serve the model.
            OverloadedError: when the server's queue is full.
            ModelPackageError: when the served model differs from its package.
        """
        return self._run(model, inputs, Control())

    def on_behalf_of(self, control: Control) -> Runner:
        """A view of this runner that observes the deadline and cancellation of `control`.

        Its `run` also raises what ``control.check()`` raises. It needs no closing.
        """
        return CallerView(self._run, control)

    def check_ready(self) -> None:
        """Check that the server is ready to run every model.

        Raises:
            NotReadyError: when the server cannot be reached, or models are not ready; the message names them.
            ModelPackageError: when a served model differs from its package.
        """
        try:
            waiting = [spec for spec in self._specs.values() if not self._is_ready(spec)]
            if waiting:
                names = ", ".join(f"{spec.name!r} version {spec.version}" for spec in waiting)
                raise NotReadyError(
                    f"The Triton server is not ready to run {names}: see its log, and start it on the same models "
                    "folder.",
                    retry_after_s=self._retry_after_s,
                )
            for name in self._specs:
                self._require(name)
        except triton.InferenceServerException as error:
            raise _unavailable(error, retry_after_s=self._retry_after_s) from error

    def close(self) -> None:
        """Release the shared memory and close the connection."""
        regions = self._regions
        if regions is not None:
            regions.close()
        self._client.close()

    def _run(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        if model not in self._specs:
            raise UnknownModelError(f"The Triton runner has no model {model!r}.")
        outputs = self._specs[model].signature.new_outputs(model, inputs)
        start, count = 0, batch_of(inputs)
        while start < count:
            served = self._with_retry(partial(self._require, model), model, inputs, control)
            step = max(1, min(served.max_batch, MAX_MESSAGE_BYTES // image_bytes(inputs, outputs)))
            batch, into = part_of(inputs, start, start + step), part_of(outputs, start, start + step)
            self._with_retry(partial(self._infer, model, batch, into, control), model, batch, control)
            start += step
        require_finite(model, outputs)
        return outputs

    def _with_retry(self, call: Callable[[], Answer], model: str, inputs: Tensors, control: Control) -> Answer:
        """The result of `call`, retried once when the connection was lost or the server has restarted."""
        control.check()
        try:
            return call()
        except triton.InferenceServerException as error:
            if not _is_retryable(error):
                raise self._failure(error, model, inputs, control) from error
            LOG.warning("lost the connection to the Triton server: %s", error.message())
        self._reset_server_state()
        time.sleep(max(0.0, min(RETRY_DELAY_S, control.seconds_left)))
        control.check()
        try:
            return call()
        except triton.InferenceServerException as error:
            raise self._failure(error, model, inputs, control) from error

    def _failure(self, error: Any, model: str, inputs: Tensors, control: Control) -> SlideCascadeError:
        if error.status() in (UNAVAILABLE, NOT_FOUND):
            return _unavailable(error, retry_after_s=self._retry_after_s)
        if error.status() == DEADLINE_EXCEEDED:
            if control.seconds_left < CLOCK_TOLERANCE_S:  # the request's deadline, which gRPC may meet early
                time.sleep(max(0.0, control.seconds_left))
            control.check()
            return ModelFailedError(
                f"The Triton server did not run model {model!r} within {self._timeout_s:g} s: check its load, or "
                "raise the timeout."
            )
        given = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
        return ModelFailedError(
            f"Model {model!r} failed on {given}: see the service's log and the Triton server's."
        )

    def _is_ready(self, spec: Spec) -> bool:
        # Not the server's own readiness, which is true even when a model failed to load.
        return bool(self._client.is_model_ready(spec.name, str(spec.version), client_timeout=QUERY_TIMEOUT_S))

    def _require(self, model: str) -> ServedModel:
        """The served model, validated against its package on first use."""
        served = self._served.get(model)
        if served is None:
            spec = self._specs[model]
            metadata = self._client.get_model_metadata(model, str(spec.version), client_timeout=QUERY_TIMEOUT_S)
            config = self._client.get_model_config(model, str(spec.version), client_timeout=QUERY_TIMEOUT_S).config
            served = self._served[model] = require_served(spec, metadata, config)
        return served

    def _reset_server_state(self) -> None:
        """Discard the state of the server: a restarted one may serve other models and knows no regions."""
        self._served.clear()
        regions = self._regions  # another thread may set it to None
        if regions is not None:
            regions.renew()

    def _infer(self, model: str, inputs: Tensors, outputs: Tensors, control: Control) -> None:
        """Run one batch of at most the model's maximum size, into `outputs`."""
        served = self._require(model)
        limit_s = min(self._timeout_s, control.seconds_left)
        regions = self._regions
        if regions is not None:
            # An input and an output may have the same name.
            layout = Layout.of([*inputs.items(), *((f">{name}", array) for name, array in outputs.items())])
            try:
                with regions.lease(layout.nbytes, is_lost=_is_lost) as region:
                    self._infer_in_memory(served, inputs, outputs, _Lease(region, layout), limit_s)
            except RegionRefusedError as error:
                LOG.warning("shared memory with the Triton server is not usable, sending messages: %s", error)
                self._regions = None
                regions.close()
            else:
                return
        self._infer_in_messages(served, inputs, outputs, limit_s)

    def _infer_in_messages(self, served: ServedModel, inputs: Tensors, outputs: Tensors, limit_s: float) -> None:
        sent = []
        for tensor in served.signature.inputs:
            given = triton.InferInput(tensor.name, list(inputs[tensor.name].shape), tensor.datatype)
            given.set_data_from_numpy(inputs[tensor.name])
            sent.append(given)
        requested = [triton.InferRequestedOutput(name) for name in outputs]
        result = self._send(served, sent, requested, limit_s)
        for name, into in outputs.items():
            found = result.as_numpy(name)
            served.require_output(name, found.shape, into.shape)
            into[...] = found

    def _infer_in_memory(
        self, served: ServedModel, inputs: Tensors, outputs: Tensors, lease: _Lease, limit_s: float
    ) -> None:
        region, offsets = lease.region, lease.layout.offsets
        sent, requested = [], []
        for tensor in served.signature.inputs:
            array, offset = inputs[tensor.name], offsets[tensor.name]
            region.write(array, offset=offset)
            given = triton.InferInput(tensor.name, list(array.shape), tensor.datatype)
            given.set_shared_memory(region.name, array.nbytes, offset)
            sent.append(given)
        for name, into in outputs.items():
            output = triton.InferRequestedOutput(name)
            output.set_shared_memory(region.name, into.nbytes, offsets[f">{name}"])
            requested.append(output)
        result = self._send(served, sent, requested, limit_s)
        for name, into in outputs.items():
            served.require_output(name, tuple(result.get_output(name).shape), into.shape)
            region.read_into(into, offset=offsets[f">{name}"])

    def _send(self, served: ServedModel, sent: list[Any], requested: list[Any], limit_s: float) -> Any:
        limit_s = max(limit_s, 1e-3)  # gRPC rejects timeouts of 0 and below
        return self._client.infer(served.name, sent, served.version, outputs=requested, client_timeout=limit_s)

    def _register(self, name: str, key: str, nbytes: int) -> None:
        try:
            self._client.register_system_shared_memory(name, key, nbytes, client_timeout=QUERY_TIMEOUT_S)
        except triton.InferenceServerException as error:
            if _is_lost(error):
                raise
            raise RegionRefusedError(error.message()) from error

    def _unregister(self, name: str) -> bool:
        try:
            self._client.unregister_system_shared_memory(name, client_timeout=QUERY_TIMEOUT_S)
        except triton.InferenceServerException:
            return False
        return True


def _is_lost(error: BaseException) -> bool:
    """Whether the call got no response, so that the server may still be processing it."""
    if not isinstance(error, triton.InferenceServerException):
        return not isinstance(error, SlideCascadeError)
    return error.status() in (UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED) and not _is_queue_full(error)


def _is_retryable(error: Any) -> bool:
    """Whether to retry: the connection was lost, or a restarted server knows neither model nor region."""
    return error.status() in (UNAVAILABLE, NOT_FOUND) and not _is_queue_full(error)


def _is_queue_full(error: Any) -> bool:
    return error.status() == UNAVAILABLE and QUEUE_FULL in error.message()


def _unavailable(error: Any, *, retry_after_s: int) -> SlideCascadeError:
    if _is_queue_full(error):
        return OverloadedError(
            "The Triton server's queue is full: try again in a moment.", retry_after_s=retry_after_s
        )
    if error.status() == NOT_FOUND:
        return NotReadyError(
            "The Triton server does not serve every model: start it on the same models folder.",
            retry_after_s=retry_after_s,
        )
    return NotReadyError(
        "The Triton server cannot be reached: start it, or correct the address of its gRPC endpoint.",
        retry_after_s=retry_after_s,
    )


def _host(url: str) -> str:
    parts = HOST_AND_PORT.fullmatch(url)
    if parts is None or not 0 < int(parts["port"]) < 1 << 16:
        raise SettingsError(
            f"SLIDECASCADE_TRITON_URL cannot be {url!r}: give host:port of the Triton server's gRPC endpoint, "
            "such as localhost:8001."
        )
    return parts["v6"] or parts["host"]


def _is_this_machine(host: str) -> bool:
    """Whether `host` is an address of this machine: only a local address can be bound."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    return any(_can_be_bound(family, address) for family, _, _, _, address in found)


def _can_be_bound(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
