"""Imports Keras and its backend on demand, without their startup messages."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

EXPORTER: Final = "tensorflow"
"""The backend of the ONNX export."""
_STDERR: Final = 2


def prepare_keras() -> None:
    """Suppress TensorFlow's startup messages; must be called before Keras is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def imported_keras() -> Any:
    """Keras with its backend; TensorFlow's output to stderr on import, which its settings do not suppress, is
    discarded."""
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
