"""Mask generators (latent to mask) and image translators (mask to image) given as ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError
from slidecascade.models.masks import drawn_image, mask_planes
from slidecascade.privacy import forbid_telemetry
from slidecascade_render.fluorescence.masks import Labels

MOST_LABEL: Final = 2**24
"""Maximum number of objects of a mask."""
_THRESHOLD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Network:
    """An ONNX graph of one input and one output on the CPU, on one thread, so that results repeat."""

    path: Path
    session: Any

    @classmethod
    def open(cls, path: Path, role: str) -> Network:
        """The graph at `path`.

        Raises:
            InvalidRequestError: it cannot be read, or has another number of inputs or outputs; `role` names it.
        """
        forbid_telemetry()
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = onnxruntime.InferenceSession(
                path.read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except OSError as error:
            raise InvalidRequestError(f"The {role} {path} cannot be read ({error.strerror}).") from error
        except (
            failures.Fail,
            failures.InvalidGraph,
            failures.InvalidProtobuf,
            failures.NotImplemented,
        ) as error:
            raise InvalidRequestError(
                f"The {role} {path.name} is not an ONNX graph that ONNX Runtime loads: export it again."
            ) from error
        inputs, outputs = len(session.get_inputs()), len(session.get_outputs())
        if inputs != 1 or outputs != 1:
            raise InvalidRequestError(
                f"The {role} {path.name} has {inputs} inputs and {outputs} outputs: export it with one of each."
            )
        return cls(path, session)

    @property
    def input_shape(self) -> tuple[int | str | None, ...]:
        return tuple(self.session.get_inputs()[0].shape)

    def run(self, values: NDArray[np.float32], role: str) -> NDArray[Any]:
        """The output for `values`.

        Raises:
            InvalidRequestError: the graph rejects them.
        """
        forbid_telemetry()
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

        try:
            found: NDArray[Any] = self.session.run(None, {self.session.get_inputs()[0].name: values})[0]
        except (Fail, InvalidArgument, RuntimeException) as error:
            raise InvalidRequestError(
                f"The {role} {self.path.name} fails on float32 {values.shape}: export it for inputs of this shape."
            ) from error
        return found


@dataclass(frozen=True, slots=True)
class MaskGenerator:
    """A graph from a latent ``(1, D)`` of standard normal numbers to a mask."""

    network: Network
    size: int

    @classmethod
    def open(cls, path: Path) -> MaskGenerator:
        """Raises InvalidRequestError for a graph of another shape."""
        network = Network.open(path, "mask generator")
        shape = network.input_shape
        if (
            len(shape) != 2
            or not isinstance(shape[1], int)
            or network.session.get_inputs()[0].type != "tensor(float)"
        ):
            raise InvalidRequestError(
                f"The mask generator {path.name} takes {_text(shape)}: export it with one float32 latent "
                "(batch, size) of fixed size."
            )
        return cls(network, shape[1])

    def labels(self, rng: np.random.Generator) -> Labels:
        """``(H, W)`` labels 1 to n of a drawn latent.

        Raises:
            InvalidRequestError: the output is no mask.
        """
        latent = rng.standard_normal((1, self.size)).astype(np.float32)
        mask = self.network.run(latent, "mask generator")
        if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
            mask = mask[:, 0] if mask.shape[1] == 1 else mask[..., 0]
        if mask.ndim != 3 or mask.shape[0] != 1 or min(mask.shape[1:]) < 2:
            raise InvalidRequestError(
                f"The mask generator {self.network.path.name} returns {_text(mask.shape)}: export it with one "
                "mask (1, height, width) of labels or probabilities."
            )
        return labels_of(mask[0], self.network.path.name)


def labels_of(mask: NDArray[Any], name: str) -> Labels:
    """Labels 1 to n of a mask ``(H, W)``: of whole numbers, or the connected pieces of probabilities above 0.5.

    Raises:
        InvalidRequestError: NaN, negative numbers, or too many objects.
    """
    if mask.dtype.kind == "f":
        if not np.isfinite(mask).all():
            raise InvalidRequestError(f"The mask of {name} contains NaN or infinite values: correct the network.")
        _, labels = cv2.connectedComponents((mask > _THRESHOLD).astype(np.uint8), ltype=cv2.CV_32S)
        return np.asarray(labels, np.int32)
    if mask.size and int(mask.min()) < 0:
        raise InvalidRequestError(f"The mask of {name} contains negative labels: number objects from 1.")
    numbers, dense = np.unique(mask, return_inverse=True)
    if len(numbers) > MOST_LABEL:
        raise InvalidRequestError(f"The mask of {name} has {len(numbers)} objects, at most {MOST_LABEL} are used.")
    first = 0 if len(numbers) and numbers[0] == 0 else 1
    return (dense.reshape(mask.shape) + first).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Translator:
    """A graph from a mask to an image of 0 to 1, ``(1, C, H, W)``.

    It is given the foreground, or foreground and edges of objects, of 0 and 1, as its input has one channel or
    two.
    """

    network: Network
    channels: int
    multiple_of: int = 1

    @classmethod
    def open(cls, path: Path, *, multiple_of: int = 1) -> Translator:
        """Raises InvalidRequestError for a graph of another shape."""
        network = Network.open(path, "image translator")
        shape = network.input_shape
        if len(shape) != 4 or shape[1] not in (1, 2):
            raise InvalidRequestError(
                f"The image translator {path.name} takes {_text(shape)}: export it with one float32 input (batch, "
                "1, height, width) of the foreground, or with 2 channels of foreground and edges."
            )
        return cls(network, int(shape[1]), multiple_of)

    def image(self, labels: Labels) -> NDArray[np.float32]:
        """``(H, W, C)`` of 0 to 1.

        Raises:
            InvalidRequestError: the output is of another size or number of channels, or not finite.
        """
        planes = mask_planes(labels, self.channels, multiple_of=self.multiple_of)
        image = self.network.run(planes, "image translator")
        name = self.network.path.name
        if image.ndim != 4 or image.shape[0] != 1 or image.shape[2:] != planes.shape[2:] or image.shape[1] > 8:
            raise InvalidRequestError(
                f"The image translator {name} returns {_text(image.shape)} for a mask of {labels.shape[1]} x "
                f"{labels.shape[0]} pixels: export it with an image (1, channels, height, width) of that size."
            )
        if not np.isfinite(image).all():
            raise InvalidRequestError(f"The image of {name} contains NaN or infinite values: correct the network.")
        return drawn_image(image, *labels.shape)


def _text(shape: tuple[int | str | None, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
