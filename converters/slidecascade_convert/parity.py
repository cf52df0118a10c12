"""Does the exported graph answer as the model it was made from?"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slidecascade.privacy import forbid_telemetry

if TYPE_CHECKING:
    import onnx

# Odd multiples of 8, so that a graph that froze a size or wants a power of two is found out.
DYNAMIC_SIZES_PX = ((256, 256), (72, 136), (184, 40))

_ONNX_UINT8 = 2  # onnx.TensorProto.UINT8


class ParityError(ValueError):
    """The exported graph and its source model disagree beyond the tolerance."""


@dataclass(frozen=True)
class Parity:
    """How far an exported graph is from its source, over every input tried.

    Float outputs are compared in their own unit, uint8 outputs in grey levels.
    """

    inputs: int
    max_abs: float
    mean_abs: float
    tolerance: float


def check_parity(
    model: Any,
    onnx_model: "onnx.ModelProto",
    *,
    scale: float,
    offset: float = 0.0,
    sizes_px: Sequence[tuple[int, int]] = DYNAMIC_SIZES_PX,
    batches: Sequence[int] = (1, 4),
    tolerance: float | None = None,
    seed: int = 0,
) -> Parity:
    """Run a Keras model and its graph on the same uint8 images and compare the outputs.

    Args:
        model: The source: float32 ``(N, H, W, 3)``, that is ``image * scale + offset``, to float32 outputs.
        onnx_model: The graph, from uint8 ``(N, H, W, 3)`` to float32 outputs or to uint8 ``round(255 * p)``.
        scale: The factor given to the exporter.
        offset: The offset given to the exporter.
        sizes_px: (height, width) pairs to try; pass the one fixed size of a network that has one.
        batches: Numbers of images to try at each size.
        tolerance: Largest allowed absolute difference; by default 1e-4, or 1 grey level for uint8.
        seed: Seed of the test images.

    Raises:
        ParityError: An output's shape differs or a difference exceeds the tolerance.
    """
    rng = np.random.default_rng(seed)
    run = _graph_function(onnx_model)
    differences: list[npt.NDArray[np.float64]] = []
    for (height, width), batch in itertools.product(sizes_px, batches):
        images = _test_images(rng, batch, height, width)
        expected = model(images.astype(np.float32) * np.float32(scale) + np.float32(offset))
        differences.append(_difference(np.asarray(expected), run(images)))
    is_bytes = onnx_model.graph.output[0].type.tensor_type.elem_type == _ONNX_UINT8
    limit = tolerance if tolerance is not None else (1.0 if is_bytes else 1e-4)
    joined = np.concatenate(differences)
    parity = Parity(len(differences), float(joined.max()), float(joined.mean()), limit)
    # A comparison with NaN is False, so "not within" also refuses a graph that answers NaN.
    if not parity.max_abs <= limit:
        raise ParityError(
            f"The graph differs from its source by up to {parity.max_abs:.3g} (allowed {limit:.3g}); "
            "check the scale and offset, or export with another opset."
        )
    return parity


def _difference(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Absolute differences, flat, in the unit of the graph's output."""
    if actual.shape != expected.shape:
        raise ParityError(
            f"The graph answers {actual.shape} where the model answers {expected.shape}; "
            "export the model with the sizes it is served at."
        )
    if actual.dtype == np.uint8:
        expected = np.round(255.0 * expected.clip(0.0, 1.0))
    difference: npt.NDArray[np.float64] = np.abs(actual.astype(np.float64) - expected).ravel()
    return difference


def _test_images(rng: np.random.Generator, batch: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Images ``(N, H, W, 3)`` of fine noise over large blocks: small and large structures both count."""
    blocks = rng.integers(0, 200, (batch, -(-height // 16), -(-width // 16), 3))
    large = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return (large + rng.integers(0, 56, (batch, height, width, 3))).astype(np.uint8)


def _graph_function(
    onnx_model: "onnx.ModelProto",
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]:
    forbid_telemetry()
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_model.SerializeToString(), providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        outputs: list[npt.NDArray[Any]] = session.run(None, {input_name: images})
        return outputs[0]

    return run
