"""TorchScript archives: their code is checked before it is compiled, and file access is rejected."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from slidecascade.errors import ConversionError
from slidecascade_convert.torch_checkpoints import check_archive
from slidecascade_convert.torch_failures import failing_as

# TorchScript has no imports and no files but these operators, and native classes that load libraries. Compiled
# code can run as soon as it is loaded (__setstate__), so that the text is looked at.
_FORBIDDEN: Final = re.compile(r"\b(save|from_file|rpc_\w+)\b|\btorch\.classes\.(?!quantized\.)([\w.]+)")
_UNKNOWN: Final = re.compile(r"Unknown (?:builtin )?op(?:erator)?:? '?([\w:.]+)")


def open_script(path: Path) -> Any:
    """The TorchScript module in `path`, on the CPU and for inference.

    Raises:
        ConversionError: when it is damaged, reaches for files, or uses operators that are not torch's own.
    """
    with failing_as("The source is a TorchScript archive but is damaged: copy it again."):
        check_archive(path)
        _check_code(path)
    with failing_as("The source is a TorchScript archive that torch cannot load: save it again."):
        try:
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]  # torch's own
        except RuntimeError as error:
            if match := _UNKNOWN.search(str(error)):
                raise ConversionError(
                    f"The TorchScript uses the operator {match[1]}, which torch alone does not have: save it "
                    "without, or export it as ONNX."
                ) from error
            raise
        return module.float().eval()


def _check_code(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            code = archive.read(entry).decode("utf-8", "replace") if entry.endswith(".py") else ""
            if match := _FORBIDDEN.search(code):
                raise ConversionError(
                    f"The TorchScript uses {match[1] or match[2]}, which reaches beyond the network: save the "
                    "module's state_dict instead, and give that with --arch."
                )
