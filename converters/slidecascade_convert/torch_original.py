"""PyTorch files, opened without running Python that is in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from slidecascade.errors import ConversionError
from slidecascade_convert.original import Facts, Original
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.source import SourceFormat
from slidecascade_convert.torch_checkpoints import read_checkpoint, read_safetensors
from slidecascade_convert.torch_export import export_module, export_program, export_traced
from slidecascade_convert.torch_failures import RAISED, failing_as
from slidecascade_convert.torch_networks import fit, network
from slidecascade_convert.torch_program import Program, open_program
from slidecascade_convert.torch_script import open_script

if TYPE_CHECKING:
    import onnx


_SIDE_PX: Final = 256
"""On which a module is tried; a multiple of all usual strides."""


def open_torch(request: ConversionRequest, form: SourceFormat, scratch: Path) -> Original:
    """The PyTorch network in the request's source.

    Raises:
        InvalidRequestError: weights alone, and no architecture they are for.
        ConversionError: when the file cannot be read without running what is in it, or does not fit its network.
    """
    if form is SourceFormat.TORCH_PROGRAM:
        program = open_program(request.source, scratch)
        return _TorchOriginal(program.module, _program_facts(program), lambda: export_program(program.exported))
    if form is SourceFormat.TORCHSCRIPT:
        script = open_script(request.source)
        facts = _facts(script, request)
        return _TorchOriginal(script, facts, lambda: export_traced(script, request, channels=_channels(facts)))
    # The file first: its contents decide whether --arch is required.
    weights = (read_safetensors if form is SourceFormat.SAFETENSORS else read_checkpoint)(request.source)
    model = network(request.arch)
    notes = fit(model, weights)
    facts = _facts(model, request, notes)
    return _TorchOriginal(model, facts, lambda: export_module(model, request, channels=_channels(facts)))


def _facts(module: Callable[[Any], Any], request: ConversionRequest, notes: tuple[str, ...] = ()) -> Facts:
    """A module does not state its input: grey is what runs on one channel and not on three."""
    side = request.input_px or _SIDE_PX
    is_grey = not _runs(module, 3, side) and _runs(module, 1, side)
    return Facts(layout="NCHW", height_px=None, width_px=None, is_grey=is_grey, versions=_versions(), notes=notes)


def _runs(module: Callable[[Any], Any], channels: int, side: int) -> bool:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module(torch.zeros(1, channels, side, side))
    except RAISED:
        return False
    return True


def _channels(facts: Facts) -> int:
    return 1 if facts.is_grey else 3


def _program_facts(program: Program) -> Facts:
    return Facts(
        layout=program.shape.layout,
        height_px=program.shape.height_px,
        width_px=program.shape.width_px,
        is_grey=program.shape.is_grey,
        batch=program.batch,
        takes_bytes=program.takes_bytes,
        versions=_versions() | {"saved_by_torch": program.saved_by},
    )


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "onnx", "onnxscript")}


class _TorchOriginal:
    def __init__(self, module: Callable[[Any], Any], facts: Facts, export: Callable[[], onnx.ModelProto]) -> None:
        self._module, self._export = module, export
        self._is_tried = False
        self.facts = facts

    def predict(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.facts.batch == 1 and len(pixels) > 1:
            return np.concatenate([self.predict(each[None]) for each in pixels])
        answer = self._run(pixels)
        if not self._is_tried:
            self._is_tried = True
            if not np.array_equal(answer, self._run(pixels), equal_nan=True):
                raise ConversionError(
                    "The network returns different outputs for equal inputs: call its eval() before exporting it."
                )
        return answer

    def export(self) -> onnx.ModelProto:
        return self._export()

    def _run(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with failing_as(f"The network does not run on a batch of the shape {pixels.shape}."), torch.no_grad():
            answer = self._module(torch.from_numpy(pixels))
        if isinstance(answer, tuple | list) and len(answer) == 1:
            answer = answer[0]
        if not isinstance(answer, torch.Tensor):
            raise ConversionError(
                f"The network answers with a {type(answer).__name__}: wrap it in a module that returns one tensor."
            )
        return answer.float().numpy()
