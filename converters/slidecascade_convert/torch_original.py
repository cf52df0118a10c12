"""PyTorch files, opened without running Python that is in them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from slidecascade.errors import ConversionError
from slidecascade_convert.original import Facts, Original
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.source import SourceFormat
from slidecascade_convert.torch_checkpoints import read_checkpoint, read_safetensors
from slidecascade_convert.torch_export import export_module, export_program, export_traced
from slidecascade_convert.torch_failures import told
from slidecascade_convert.torch_networks import fit, network
from slidecascade_convert.torch_program import Program, open_program
from slidecascade_convert.torch_script import open_script

if TYPE_CHECKING:
    import onnx


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
        return _TorchOriginal(script, _facts(), lambda: export_traced(script, request))
    model = network(request.arch)
    read = read_safetensors if form is SourceFormat.SAFETENSORS else read_checkpoint
    notes = fit(model, read(request.source))
    return _TorchOriginal(model, _facts(notes), lambda: export_module(model, request))


def _facts(notes: tuple[str, ...] = ()) -> Facts:
    return Facts(layout="NCHW", height_px=None, width_px=None, versions=_versions(), notes=notes)


def _program_facts(program: Program) -> Facts:
    return Facts(
        layout=program.layout,
        height_px=program.height_px,
        width_px=program.width_px,
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
        answer = self._run(pixels)
        if not self._is_tried:
            self._is_tried = True
            if not np.array_equal(answer, self._run(pixels), equal_nan=True):
                raise ConversionError(
                    "The network answers differently when it is asked twice: call its eval() before exporting it."
                )
        return answer

    def export(self) -> onnx.ModelProto:
        return self._export()

    def _run(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with told(f"The network does not run on a batch of the shape {pixels.shape}."), torch.no_grad():
            answer = self._module(torch.from_numpy(pixels))
        if isinstance(answer, tuple | list) and len(answer) == 1:
            answer = answer[0]
        if not isinstance(answer, torch.Tensor):
            raise ConversionError(
                f"The network answers with a {type(answer).__name__}: wrap it in a module that returns one tensor."
            )
        return answer.float().numpy()
