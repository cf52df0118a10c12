"""Keras and its backend, imported where they are needed and without their start-up notes."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

EXPORTER: Final = "tensorflow"
"""The backend that ONNX graphs are exported with."""
_STDERR: Final = 2


def prepare_keras() -> None:
    """Before Keras is first imported: TensorFlow keeps its start-up notes to itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def imported_keras() -> Any:
    """Keras with its backend; what TensorFlow writes to stderr on import, whatever its settings, is dropped."""
    prepare_keras()
    sys.stderr.flush()
    kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    try:
        import keras
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)
    return keras
