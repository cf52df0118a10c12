"""Quantisation to int8, used only if measured decisions agree with float32 and it is faster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade.heads.head import SegmenterOptions
from slidecascade.privacy import forbid_telemetry
from slidecascade_convert import tiles
from slidecascade_convert.outcome import Quantisation
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.sessions import open_session, run_session

if TYPE_CHECKING:
    import onnx

_SEGMENTER_PX = 256
_BATCH = 8
_TIMED_RUNS = 5


class _Reader:
    """Calibration images, a batch at a time, as ONNX Runtime asks for them."""

    def __init__(self, images: tiles.Images) -> None:
        self._batches: Iterator[tiles.Images] = iter(
            [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        )

    def get_next(self) -> dict[str, tiles.Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantised(
    served: onnx.ModelProto, request: ConversionRequest, scratch: Path
) -> tuple[onnx.ModelProto, Quantisation]:
    """The int8 graph if it is faster and decides as the float32 one on images it was not calibrated on, else that.

    Every second calibration image is held out for the measurement.

    Raises:
        ConversionError: there are fewer than two calibration images.
    """
    if request.calibrate is None:
        raise ConversionError("int8 needs images like those it will see: add --calibrate DIR.")
    side = request.input_px or _SEGMENTER_PX
    images = tiles.from_folder(request.calibrate, side, side, resize=request.task == "classify")
    if len(images) < 2:
        raise ConversionError("int8 needs at least two images in --calibrate, better a hundred of every kind.")
    small = _quantise(served, images[::2], scratch)
    kept_back = images[1::2]
    sessions = [open_session(model) for model in (served, small)]
    before, after = (_decisions(session, kept_back, request) for session in sessions)
    float32_ms, int8_ms = _fastest_ms(sessions, kept_back[:_BATCH])
    loss = float((before != after).mean())
    quantisation = Quantisation(
        is_kept=is_worth_it(loss, request.max_loss, float32_ms=float32_ms, int8_ms=int8_ms),
        loss=loss,
        max_loss=request.max_loss,
        images=len(kept_back),
        float32_ms=round(float32_ms, 2),
        int8_ms=round(int8_ms, 2),
    )
    return (small if quantisation.is_kept else served), quantisation


def _quantise(served: onnx.ModelProto, images: tiles.Images, scratch: Path) -> onnx.ModelProto:
    """Static quantisation, QDQ, one scale per output channel of each weight."""
    import onnx

    forbid_telemetry()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, prepared, result = (scratch / f"{name}.onnx" for name in ("whole", "prepared", "int8"))
    onnx.save_model(served, whole)
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(result),
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Convolutions and dense layers hold the work; the rest stays float32, so that no probability is coarse.
        op_types_to_quantize=["Conv", "ConvTranspose", "MatMul", "Gemm", "MaxPool", "Add", "Concat"],
    )
    return onnx.load_model(result)


def is_worth_it(loss: float, max_loss: float, *, float32_ms: float, int8_ms: float) -> bool:
    """Whether int8 both decides alike and is faster; on CPUs without int8 instructions it is slower."""
    return loss < max_loss and int8_ms < float32_ms


def _decisions(session: Any, images: tiles.Images, request: ConversionRequest) -> npt.NDArray[Any]:
    """The class of each image or the foreground of each pixel."""
    answers = np.concatenate(
        [run_session(session, images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )
    if request.task == "classify":
        classes: npt.NDArray[Any] = answers.argmax(axis=1)
        return classes
    is_object: npt.NDArray[Any] = answers[..., 0] >= round(255 * SegmenterOptions().foreground)
    return is_object


def _fastest_ms(sessions: Sequence[Any], batch: tiles.Images) -> list[float]:
    """Milliseconds per image of each session at its fastest, in turns, so that other work slows all alike."""
    times = np.empty((_TIMED_RUNS, len(sessions)))
    for row in times:
        for index, session in enumerate(sessions):
            start_s = time.perf_counter()
            run_session(session, batch)
            row[index] = time.perf_counter() - start_s
    fastest: list[float] = (1000 * times.min(axis=0) / len(batch)).tolist()
    return fastest
