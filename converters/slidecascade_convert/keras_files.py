"""Reads Keras files without Keras: extracts the configuration and checks the weights without running code."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from slidecascade.errors import ConversionError
from slidecascade_convert.keras_config import parse

if TYPE_CHECKING:
    import h5py

MAX_WEIGHTS_BYTES: Final = 2 * 2**30
MAX_CONFIG_BYTES: Final = 64 * 2**20

# Where Keras 3 keeps the layers in a file of weights alone; the second was the name in its first releases.
_KERAS3_GROUPS: Final = ("layers", "_layer_checkpoint_dependencies")


@dataclass(frozen=True, slots=True)
class KerasFile:
    """A checked Keras file.

    Attributes:
        config: the model's configuration; None for a file of weights alone.
        weights: the HDF5 file Keras loads the weights from.
        keras_version: as the file states it, or "unknown".
    """

    config: dict[str, Any] | None
    weights: Path
    keras_version: str


def read_hdf5(source: Path, scratch: Path) -> KerasFile:
    """A Keras 2 or Keras 3 ``.h5`` file, whole model or weights alone.

    Raises:
        ConversionError: when it is damaged, no Keras file, or refers to other files.
    """
    import h5py

    try:
        with h5py.File(source, "r") as file:
            config = file.attrs.get("model_config")
            group = _weights_group(file)
            is_legacy = "layer_names" in group.attrs or "layer_names0" in group.attrs
            if not is_legacy and not any(name in file for name in _KERAS3_GROUPS):
                raise ConversionError(
                    "The source is an HDF5 file but no Keras model: it has neither a configuration nor layers."
                )
            version = _text(group.attrs.get("keras_version", file.attrs.get("keras_version", "unknown")))
            _check_datasets(group)
    except (OSError, RuntimeError, KeyError) as error:
        raise ConversionError("The source begins as an HDF5 file but is damaged: copy it again.") from error
    # Keras detects the format by the file name's suffix.
    weights = scratch / ("source.h5" if is_legacy else "source.weights.h5")
    weights.symlink_to(source.resolve())
    return KerasFile(None if config is None else parse(_text(config)), weights, version)


def read_archive(source: Path, scratch: Path) -> KerasFile:
    """A Keras 3 ``.keras`` archive; its weights are unpacked to `scratch`, as far as they state their size truly.

    Raises:
        ConversionError: when it is damaged, larger unpacked than a model can be, or refers to other files.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            config = parse(_member(archive, "config.json", MAX_CONFIG_BYTES))
            metadata = parse(_member(archive, "metadata.json", MAX_CONFIG_BYTES))
            weights = scratch / "source.weights.h5"
            _unpack(archive, "model.weights.h5", weights, MAX_WEIGHTS_BYTES)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, OSError, EOFError, zlib.error) as error:
        raise ConversionError("The source begins as a Keras archive but is damaged: copy it again.") from error
    _check_weights_file(weights)
    return KerasFile(config, weights, str(metadata.get("keras_version", "unknown"))[:20])


def _weights_group(file: h5py.File) -> h5py.Group:
    """Where the layers' weights are; asked for by its link first, because opening a link could leave the file."""
    import h5py

    link = file.get("model_weights", getlink=True)
    if link is None:
        return file
    if not isinstance(link, h5py.HardLink):
        raise ConversionError("The HDF5 file has links to other places: save the model again as one file.")
    return file["model_weights"]


def _check_weights_file(weights: Path) -> None:
    import h5py

    try:
        with h5py.File(weights, "r") as file:
            _check_datasets(file)
    except (OSError, RuntimeError) as error:
        raise ConversionError("The weights in the Keras archive are damaged: copy the file again.") from error


def _check_datasets(group: h5py.Group) -> None:
    """Refuse links to other files, and data that unpacks to more than a model can hold."""
    total = 0
    for dataset in _datasets(group):
        if dataset.external or dataset.is_virtual:
            raise ConversionError("The HDF5 file keeps weights in other files: save the model again as one file.")
        total += int(dataset.nbytes)
        if total > MAX_WEIGHTS_BYTES:
            raise ConversionError("The weights unpack to more than 2 GiB, which no served model can hold.")


def _datasets(group: h5py.Group) -> Iterator[h5py.Dataset]:
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ConversionError("The HDF5 file has links to other places: save the model again as one file.")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield item
        elif isinstance(item, h5py.Group):
            yield from _datasets(item)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member's bytes. What the header states is not believed: reading stops at the limit."""
    with archive.open(name) as member:
        content = member.read(limit + 1)
    if len(content) > limit:
        raise ConversionError(
            f"{name} in the Keras archive unpacks to more than {limit >> 20} MiB, the maximum of a model."
        )
    return content


def _unpack(archive: zipfile.ZipFile, name: str, target: Path, limit: int) -> None:
    written = 0
    with archive.open(name) as member, target.open("wb") as file:
        while chunk := member.read(1 << 20):
            written += len(chunk)
            if written > limit:
                raise ConversionError(
                    f"{name} in the Keras archive unpacks to more than {limit >> 30} GiB, the maximum of a model."
                )
            file.write(chunk)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
