"""Weights in PyTorch files: read by ``weights_only=True``, so that no pickle runs."""

from __future__ import annotations

import json
import pickletools
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, Final

import torch
from torch import Tensor

from slidecascade.errors import ConversionError
from slidecascade_convert.source import MAX_SOURCE_BYTES
from slidecascade_convert.torch_failures import failing_as

# Where training frameworks keep the weights among optimizer states, epochs and settings.
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model")

# Before the checkpoint's own pickle a file of torch before 1.6 has three: a number, a version, a machine.
_LEGACY_PICKLES: Final = 3

# Standard library objects that are found beside weights; any other has no business in a checkpoint.
_HARMLESS_MODULES: Final = frozenset(
    {"argparse", "collections", "datetime", "decimal", "enum", "pathlib", "typing"}
)
_HARMLESS_NAMES: Final = frozenset(
    {f"builtins.{name}" for name in ("complex", "frozenset", "object", "range", "set", "slice")}
    | {"copyreg._reconstructor"}
)

_WAY_OUT: Final = "save its weights, torch.save(model.state_dict(), 'weights.pth'), and give that file with --arch"
_DAMAGED: Final = "The source is a PyTorch file but is damaged: copy it again."

_SAFETENSORS_TYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _StandIn:
    """Takes the place of an object that is not a tensor: it is made, called and filled without any effect."""

    def __new__(cls, *_args: object, **_options: object) -> _StandIn:
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The weights in the ``torch.save`` file `path`, by name.

    Objects beside the weights (settings, callbacks) are replaced by stand-ins; nothing they name is imported.

    Raises:
        ConversionError: when the file is damaged, a pickled module or learner, or holds no weights.
    """
    with failing_as(_DAMAGED):
        check_archive(path)
        pickled = list(_pickle_operations(path))
    _refuse_object(pickled)
    unknown = _unknown_names(pickled)
    with failing_as(_DAMAGED), torch.serialization.safe_globals([(_StandIn, name) for name in unknown]):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise ConversionError(
                f"The source is a PyTorch file that cannot be read without running its code: {_WAY_OUT}."
            ) from error
    return _weights(content)


def check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than a served model can hold.

    Raises:
        ConversionError: it does.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_SOURCE_BYTES:
                raise ConversionError(
                    "The archive unpacks to more than 2 GiB, the most a model may have: save its weights alone."
                )


def read_safetensors(path: Path) -> Mapping[str, Tensor]:
    """The weights in the safetensors file `path`: a length, a JSON header, and the numbers.

    Raises:
        ConversionError: when it is damaged or holds a type that networks of this kind do not have.
    """
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", content)
    start = 8 + length
    with failing_as("The source begins as a safetensors file but is damaged: copy it again."):
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        return {
            str(name): _tensor(content, start, entry["dtype"], entry["shape"], entry["data_offsets"])
            for name, entry in header.items()
        }


def _tensor(content: bytearray, start: int, kind: str, shape: list[int], offsets: list[int]) -> Tensor:
    if kind not in _SAFETENSORS_TYPES:
        raise ConversionError(f"The source holds weights of the type {kind}: save them as float32.")
    dtype = _SAFETENSORS_TYPES[kind]
    begin, end = offsets
    count = (end - begin) // dtype.itemsize
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=start + begin).reshape(shape)


def _pickle_operations(path: Path) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the operations in the checkpoint's pickle, which is not executed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(each for each in archive.namelist() if each.partition("/")[2] == "data.pkl")
            yield from _operations(archive.read(name))
        return
    with path.open("rb") as file:
        for _ in range(_LEGACY_PICKLES):
            for _operation in _operations(file):
                pass
        yield from _operations(file)


def _operations(pickled: bytes | IO[bytes]) -> Iterator[tuple[str, Any]]:
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in {"GLOBAL", "STACK_GLOBAL", "EMPTY_DICT", "EMPTY_LIST"}:
            yield operation.name, argument


def _refuse_object(pickled: list[tuple[str, Any]]) -> None:
    """Refuse a pickle whose outermost object is an instance of somebody's class."""
    first, argument = pickled[0] if pickled else ("", None)
    if first not in {"GLOBAL", "STACK_GLOBAL"}:
        return
    module, _, name = str(argument).partition(" ") if argument else ("", "", "object")
    if module == "collections" or module.startswith("torch._utils"):
        return
    raise ConversionError(_told_of_object(module, name))


def _told_of_object(module: str, name: str) -> str:
    if module.startswith("fastai"):
        return (
            f"The source is a pickled fastai {name}, and opening it would run code: "
            + _WAY_OUT.replace("model.", "learn.model.")
            + "."
        )
    return f"The source is a pickled {name or 'object'}, and opening it would run code: {_WAY_OUT}."


def _unknown_names(pickled: list[tuple[str, Any]]) -> list[str]:
    """References of the pickle that torch does not know; those to the standard library are rejected."""
    names = {str(argument).replace(" ", ".", 1) for kind, argument in pickled if kind == "GLOBAL"}
    known = set(torch._weights_only_unpickler._get_allowed_globals())
    unknown = sorted(names - known)
    for name in unknown:
        module = name.partition(".")[0]
        if module in sys.stdlib_module_names - _HARMLESS_MODULES and name not in _HARMLESS_NAMES:
            raise ConversionError(f"The source refers to {name[:80]}, and opening it would run that: {_WAY_OUT}.")
    return unknown


def _weights(content: object) -> Mapping[str, Tensor]:
    for _ in range(len(_WRAPPERS)):
        if isinstance(content, _StandIn):
            raise ConversionError(_told_of_object("", "module"))
        if not isinstance(content, Mapping):
            kind = "one tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
            raise ConversionError(f"The source holds {kind} and no named weights: {_WAY_OUT}.")
        found = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping | _StandIn)), None)
        if found is None:
            break
        content = content[found]
    assert isinstance(content, Mapping)  # noqa: S101 - the loop leaves nothing else
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        entries = ", ".join(repr(str(name))[:40] for name in list(content)[:3])
        raise ConversionError(f"The source holds no weights (its entries: {entries or 'none'}): {_WAY_OUT}.")
    return tensors
