"""Which kind of file a checkpoint is, told from its first bytes; nothing in it is run."""

from __future__ import annotations

import hashlib
import zipfile
from enum import Enum
from pathlib import Path
from typing import Final

from slidecascade.errors import ConversionError, InvalidRequestError

# The served graph is one protobuf message, which cannot be larger; a larger source could not become one.
MAX_SOURCE_BYTES: Final = 2 * 2**30

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURE = b"PK\x03\x04"


class SourceFormat(Enum):
    """The kinds of checkpoint that are read."""

    HDF5 = "Keras HDF5"
    KERAS_ZIP = "Keras 3 archive"
    ONNX = "ONNX"


def recognise(source: Path) -> SourceFormat:
    """The format of the file `source`.

    Raises:
        InvalidRequestError: when there is no such file.
        ConversionError: when it is empty, too large or of no format that is read.
    """
    if source.is_dir():
        raise ConversionError(_told_of_folder(source))
    if not source.is_file():
        raise InvalidRequestError("The source file does not exist: give the path of a trained model.")
    size = source.stat().st_size
    if size > MAX_SOURCE_BYTES:
        raise ConversionError(
            f"The source has {size / 2**30:.1f} GiB, and a served model holds at most 2: save it without the "
            "optimizer's state, or in half precision."
        )
    if size == 0:
        raise ConversionError("The source is empty: copy the file again.")
    with source.open("rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5_SIGNATURE):
        return SourceFormat.HDF5
    if start.startswith(_ZIP_SIGNATURE):
        return _recognise_zip(source)
    # An ONNX file has no signature, but it always begins with its IR version: field 1, a small number.
    if len(start) > 2 and start[0] == 0x08 and 1 <= start[1] < 0x40:
        return SourceFormat.ONNX
    raise ConversionError(
        "The source is none of the files that are read here: give a Keras .h5 or .keras file or an ONNX file."
    )


def sha256(source: Path) -> str:
    """The sha256 of the file, in hexadecimal."""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recognise_zip(source: Path) -> SourceFormat:
    try:
        with zipfile.ZipFile(source) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ConversionError("The source begins as a zip archive but is damaged: copy it again.") from error
    if "config.json" in names and "model.weights.h5" in names:
        return SourceFormat.KERAS_ZIP
    if any(name.endswith("data.pkl") for name in names):
        raise ConversionError(
            "The source is a PyTorch file, which is not read yet: export it with torch.onnx.export."
        )
    raise ConversionError("The source is a zip archive but no Keras model: give a .keras file, or unpack it.")


def _told_of_folder(source: Path) -> str:
    if (source / "saved_model.pb").is_file():
        return (
            "The source is a SavedModel, whose graph can read and write files when it runs: save the model as "
            ".keras or .h5, or convert it with tf2onnx and give the ONNX file."
        )
    return "The source is a folder: give a Keras .h5 or .keras file or an ONNX file."
