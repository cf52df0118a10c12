"""The int8 graph of the bundled `nuclei-unet`: calibrated on training images, then checked.

`python -m slidecascade_training.nuclei.int8 --data DIR --nucls DIR --models DIR`

Static quantisation with one scale per output channel of weights, and activations clipped at a percentile, after
`slidecascade_training.nuclei.equalising`. Layers with few channels, on whose outputs an error weighs most and
whose float32 costs little, stay float32, and so does the second, which is the most sensitive of the large ones.
Calibration and the choice of layers rest on training images only; the validation split decides once, at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import ModelPackageError
from slidecascade.heads.unet import UnetOptions
from slidecascade.models.repository import INT8_FILE, load_package, model_yaml
from slidecascade.models.spec import Int8Spec, SegmenterSpec
from slidecascade.privacy import forbid_telemetry
from slidecascade.staging import write_file
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.dsb2018 import NucleiImage
from slidecascade_evaluation.matching import count_matches, iou_matrix
from slidecascade_training.nuclei.equalising import equalise
from slidecascade_training.nuclei.package import NAME
from slidecascade_training.nuclei.thresholds import Predict, accuracy_of, decode, graph_predictor, measure_by_kind
from slidecascade_training.nuclei.tissue import render_tissue

if TYPE_CHECKING:
    import onnx

MAX_LOSS: Final = 0.003
"""Most AP50, and mean AP, by which int8 may be worse than float32."""

MIN_KEPT: Final = 0.995
"""Least share of float32's cells that int8 finds, too, at an IoU of at least 0.5."""

_SIDE_PX: Final = 256
_OF_EACH_KIND: Final = 40
_TISSUE_SEED: Final = 777
_PERCENTILE: Final = 99.999
_FEW_CHANNELS: Final = 32
_SENSITIVE: Final = (48, 48, 3, 3)


def calibration_images(data: Path, nucls: Path) -> list[NucleiImage]:
    """Training images of every kind; none of the validation or tuning split."""
    rng = np.random.default_rng(0)
    kinds: dict[str, list[NucleiImage]] = {}
    for image in dsb2018.read_images(data, "train"):
        kinds.setdefault(image.kind, []).append(image)
    chosen: list[NucleiImage] = []
    for images in kinds.values():
        order = np.arange(len(images))
        rng.shuffle(order)
        chosen += [images[index] for index in order[: min(len(images) // 2, _OF_EACH_KIND)]]
    return [*chosen, *render_tissue(8, _TISSUE_SEED), *dsb2018.read_nucls(nucls)]


def squares(images: Sequence[NucleiImage]) -> list[npt.NDArray[np.uint8]]:
    """``(1, 256, 256, 3)`` of each image, at a place of its own."""
    return [_square(item.image, seed)[None] for seed, item in enumerate(images)]


def _square(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    below, right = (max(0, _SIDE_PX - side) for side in image.shape[:2])
    padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
    rng = np.random.default_rng(seed)
    y, x = (int(rng.integers(0, side - _SIDE_PX + 1)) for side in padded.shape[:2])
    return np.asarray(padded[y : y + _SIDE_PX, x : x + _SIDE_PX], np.uint8)


class _Reader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, images: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._images: Iterator[npt.NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


def quantised(float32: Path, images: Sequence[NucleiImage]) -> onnx.ModelProto:
    """The graph at `float32` in int8, calibrated on `images`; ranges of channels are of every second one."""
    import onnx

    forbid_telemetry()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared, equal, result = (Path(folder) / f"{name}.onnx" for name in ("prepared", "equal", "int8"))
        quant_pre_process(str(float32), str(prepared), skip_symbolic_shape=True)
        model = onnx.load_model(prepared)
        equalise(model, squares(images[::2]))
        onnx.save_model(model, equal)
        quantize_static(
            str(equal),
            str(result),
            _Reader(squares(images)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MaxPool", "Concat"],
            nodes_to_exclude=_float_layers(model),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": _PERCENTILE},
        )
        return onnx.load_model(result)


def _float_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the first convolution, of those with few output channels, and of the sensitive one."""
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    layers = [(node.name, shapes[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"]
    kept = [name for name, shape in layers if shape[0] <= _FEW_CHANNELS or shape == _SENSITIVE]
    return [layers[0][0], *kept]


def checked(
    images: Sequence[NucleiImage], float32: Predict, int8: Predict, options: UnetOptions
) -> dict[str, float]:
    """The accuracy of int8 on validation images, and the share of cells that it keeps.

    Raises:
        ModelPackageError: it is worse than may be.
    """
    before, after = (measure_by_kind(images, predict, options) for predict in (float32, int8))
    found = accuracy_of(after, by_kind=True)
    loss = {name: value - found[name] for name, value in accuracy_of(before, by_kind=True).items()}
    cells = kept = 0
    for item in images:
        iou = iou_matrix(*(decode(predict(item.image), options) for predict in (float32, int8)))
        cells, kept = cells + len(iou), kept + count_matches(iou, 0.5).true_positives
    if max(loss["ap50"], loss["mean_ap"]) > MAX_LOSS or kept < MIN_KEPT * cells:
        raise ModelPackageError(
            f"int8 loses {loss['ap50']:.4f} of AP50 and {loss['mean_ap']:.4f} of mean AP and keeps {kept} of "
            f"{cells} cells: keep float32, or calibrate it on other images."
        )
    return {name: round(value, 4) for name, value in (found | {"cells_kept": kept / cells}).items()}


def add_int8(data: Path, nucls: Path, models_dir: Path) -> dict[str, float]:
    """Write the int8 graph of the package in `models_dir`; its accuracy.

    Raises:
        ModelPackageError: the package cannot be read, or int8 is worse than may be.
    """
    folder = models_dir / NAME
    package = load_package(folder)
    if not isinstance(package.spec, SegmenterSpec):
        raise ModelPackageError(f"{folder} is not a segmenter: train it again.")
    graph = quantised(package.onnx_path, calibration_images(data, nucls))
    options = UnetOptions.model_validate(package.spec.options.model_dump())
    validation = list(dsb2018.read_images(data, "validate"))
    float32, int8 = graph_predictor(_read(package.onnx_path)), graph_predictor(graph)
    accuracy = checked(validation, float32, int8, options)
    content = graph.SerializeToString()
    stated = Int8Spec(sha256=hashlib.sha256(content).hexdigest(), accuracy=accuracy)
    write_file(package.onnx_path.with_name(INT8_FILE), content)
    spec = package.spec.model_copy(update={"int8": stated})
    write_file(folder / "model.yaml", model_yaml(spec).encode())
    return accuracy


def _read(path: Path) -> Any:
    import onnx

    return onnx.load_model(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m slidecascade_training.nuclei.int8", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument("--nucls", type=Path, required=True, help="folder of the NuCLS crops")
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    arguments = parser.parse_args()
    accuracy = add_int8(arguments.data, arguments.nucls, arguments.models)
    sys.stdout.write("".join(f"{name}: {value:g}\n" for name, value in accuracy.items()))


if __name__ == "__main__":
    main()
