"""Detects the format of a checkpoint by its first bytes, without running any of its code."""

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
# torch.save before 1.6: a pickle of this number, then others.
_LEGACY_TORCH_SIGNATURE = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


class SourceFormat(Enum):
    """The kinds of checkpoint that are read."""

    HDF5 = "Keras HDF5"
    KERAS_ZIP = "Keras 3 archive"
    SAVED_MODEL = "SavedModel"
    ONNX = "ONNX"
    TORCH_CHECKPOINT = "PyTorch checkpoint"
    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "TorchScript"
    TORCH_PROGRAM = "torch.export program"
    STARDIST = "StarDist folder"

    @property
    def is_torch(self) -> bool:
        """Opened by PyTorch."""
        return self in _OF_TORCH

    @property
    def is_keras(self) -> bool:
        """Has layers by name."""
        return self in _OF_KERAS

    @property
    def may_hold_weights_alone(self) -> bool:
        """May lack the network of its weights."""
        return self in _OF_KERAS or self in (SourceFormat.TORCH_CHECKPOINT, SourceFormat.SAFETENSORS)


_OF_KERAS: Final = frozenset({SourceFormat.HDF5, SourceFormat.KERAS_ZIP})
_OF_TORCH: Final = frozenset(
    {
        SourceFormat.TORCH_CHECKPOINT,
        SourceFormat.SAFETENSORS,
        SourceFormat.TORCHSCRIPT,
        SourceFormat.TORCH_PROGRAM,
    }
)


def recognise(source: Path) -> SourceFormat:
    """The format of the file `source`.

    Raises:
        InvalidRequestError: when there is no such file.
        ConversionError: when it is empty, too large or of no format that is read.
    """
    if source.is_dir():
        return _recognise_folder(source)
    if not source.is_file():
        raise InvalidRequestError("The source file does not exist: give the path of a trained model.")
    size = source.stat().st_size
    _check_size(size)
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
    if start.startswith(_LEGACY_TORCH_SIGNATURE):
        return SourceFormat.TORCH_CHECKPOINT
    # A safetensors file begins with the length of its JSON header.
    if len(start) > 9 and int.from_bytes(start[:8], "little") < size and start[8:9] == b"{":
        return SourceFormat.SAFETENSORS
    raise ConversionError(_told_of_other(start))


def sha256(source: Path) -> str:
    """The sha256 in hexadecimal: of the file, or of the names and sha256 of a folder's files, in order."""
    if source.is_dir():
        lines = [f"{sha256(path)}  {path.relative_to(source).as_posix()}\n" for path in _files(source)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    """Every file in `folder`; links are rejected, because they could point outside."""
    found = sorted(folder.rglob("*"))
    if any(path.is_symlink() for path in found):
        raise ConversionError("The source's folder has links to other places: copy the files themselves.")
    return [path for path in found if path.is_file()]


def _check_size(size: int) -> None:
    if size > MAX_SOURCE_BYTES:
        raise ConversionError(
            f"The source has {size / 2**30:.1f} GiB, and a served model holds at most 2: save it without the "
            "optimizer's state, or in half precision."
        )


def _recognise_zip(source: Path) -> SourceFormat:
    try:
        with zipfile.ZipFile(source) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ConversionError("The source begins as a zip archive but is damaged: copy it again.") from error
    if "config.json" in names and "model.weights.h5" in names:
        return SourceFormat.KERAS_ZIP
    if form := _torch_format(names):
        return form
    raise ConversionError(
        "The source is a zip archive but no Keras or PyTorch model: give the file that its framework saved."
    )


def _torch_format(names: set[str]) -> SourceFormat | None:
    """The kind of a PyTorch archive, whose entries lie in one folder."""
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and "data.pkl" in inner:
        return SourceFormat.TORCHSCRIPT
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return SourceFormat.TORCH_PROGRAM
    return SourceFormat.TORCH_CHECKPOINT if "data.pkl" in inner else None


def _told_of_other(start: bytes) -> str:
    if start.lstrip().startswith(b"<"):
        return "The source is a web page, not a model: download the file itself."
    if start.startswith(b"version https://"):
        return "The source is a Git LFS pointer, not a model: fetch the file itself, `git lfs pull`."
    if start[0] == 0x80:
        return (
            "The source is a Python pickle, and opening it would run code: save the model's state_dict with "
            "torch.save, or export it as ONNX."
        )
    return "The format of the source is not supported: give a Keras, PyTorch or ONNX file."


def _recognise_folder(source: Path) -> SourceFormat:
    is_saved = (source / "saved_model.pb").is_file()
    if not is_saved and not ((source / "config.json").is_file() and any(source.glob("*.h5"))):
        raise ConversionError(
            "The source is a folder, but neither a SavedModel nor StarDist's: give one of these, or a Keras, "
            "PyTorch or ONNX file."
        )
    _check_size(sum(path.stat().st_size for path in _files(source)))
    return SourceFormat.SAVED_MODEL if is_saved else SourceFormat.STARDIST
