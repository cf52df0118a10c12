"""The model repository: loads packages and validates them against their ``model.yaml``.

A package is ``<name>/model.yaml``, ``<name>/config.pbtxt`` and ``<name>/<version>/model.onnx``: the layout of
a Triton model repository with one additional file. Where ``model.yaml`` states it, ``<name>/<version>/int8.onnx``
is the same network in int8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import TypeAdapter, ValidationError

from slidecascade.errors import ModelPackageError
from slidecascade.models.edition1 import with_tensors
from slidecascade.models.graph import has_external_data
from slidecascade.models.signatures import TrustedKeys, require_signed
from slidecascade.models.spec import AnySpec, ModelSpec

INT8_FILE: Final = "int8.onnx"

_MODEL_SPEC: TypeAdapter[AnySpec] = TypeAdapter(ModelSpec)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A specification and the path of its graph; `signed_by` is the key whose signature was checked."""

    spec: AnySpec
    onnx_path: Path
    signed_by: str | None = None

    def in_int8(self) -> ModelPackage:
        """The package with its int8 graph: a model of another sha256 and accuracy, but of the same tensors.

        Raises:
            ValueError: it has none.
        """
        int8 = self.spec.int8
        if int8 is None:
            raise ValueError(f"Model {self.spec.name!r} has no int8 graph.")
        stated = {"sha256": int8.sha256, "accuracy": int8.accuracy}
        path = self.onnx_path.with_name(INT8_FILE)
        return ModelPackage(self.spec.model_copy(update=stated), path, self.signed_by)

    def read(self) -> bytes:
        """The bytes of the graph.

        Raises:
            ModelPackageError: when its sha256 differs from ``model.yaml``.
        """
        graph = self.onnx_path.read_bytes()
        found = hashlib.sha256(graph).hexdigest()
        if found != self.spec.sha256:
            raise ModelPackageError(
                f"Model {self.spec.name!r} does not match its model.yaml: the sha256 of {self.onnx_path.name} "
                f"is {found[:12]}…, expected {self.spec.sha256[:12]}…; restore the file or convert the "
                "model again."
            )
        return graph


def load_package(folder: Path, trusted: TrustedKeys | None = None) -> ModelPackage:
    """Read and validate the package in `folder`; with `trusted` keys, one of them must have signed it.

    Raises:
        ModelPackageError: when a file is missing, ``model.yaml`` is invalid, the graph has external data or its
            sha256 differs, or the signature is not there or not valid.
    """
    spec, signed_by = _read_spec(folder, trusted)
    package = ModelPackage(spec, folder / str(spec.version) / "model.onnx", signed_by)
    for graph in (package, *([] if spec.int8 is None else [package.in_int8()])):
        if not graph.onnx_path.is_file():
            raise ModelPackageError(
                f"Model {spec.name!r} has no {spec.version}/{graph.onnx_path.name}: convert it again or remove "
                "its folder."
            )
        _reject_external_data(graph)
    return package


def _reject_external_data(package: ModelPackage) -> None:
    """Reject a graph with external data, which its sha256 would not cover."""
    name = package.spec.name
    try:
        external = has_external_data(package.read())
    except ValueError as error:
        raise ModelPackageError(
            f"Model {name!r} is not an ONNX graph: its model.onnx cannot be read; convert it again."
        ) from error
    if external:
        raise ModelPackageError(
            f"Model {name!r} keeps weights outside its model.onnx, where its sha256 does not cover them: "
            "convert it again without external data."
        )


def load_repository(models_dir: Path, trusted: TrustedKeys | None = None) -> Mapping[str, ModelPackage]:
    """All packages of a model repository by name; folders without ``model.yaml`` are ignored. See `load_package`.

    Raises:
        ModelPackageError: for the first invalid package, or when the folder does not exist.
    """
    if not models_dir.is_dir():
        raise ModelPackageError(
            "The models folder does not exist: set --models or SLIDECASCADE_MODELS_DIR to one."
        )
    folders = sorted(path.parent for path in models_dir.glob("*/model.yaml"))
    packages = [load_package(folder, trusted) for folder in folders]
    return {package.spec.name: package for package in packages}


def model_yaml(spec: AnySpec) -> str:
    """The text of the ``model.yaml`` of `spec`; unset defaults are omitted."""
    fields = spec.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _read_spec(folder: Path, trusted: TrustedKeys | None) -> tuple[AnySpec, str | None]:
    """The specification, and the key that signed it: of the same bytes."""
    try:
        document = (folder / "model.yaml").read_bytes()
        signed_by = None if trusted is None else require_signed(document, folder, trusted)
        fields = yaml.safe_load(document.decode("utf-8"))
        spec = _MODEL_SPEC.validate_python(with_tensors(fields))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelPackageError(
            f"Model {folder.name!r} has no readable model.yaml: restore it or convert the model again."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelPackageError(
            f"Model {folder.name!r}: model.yaml is invalid at {where}: {first['msg']}."
        ) from error
    if spec.name != folder.name:
        raise ModelPackageError(
            f"Model {folder.name!r}: its name in model.yaml is {spec.name!r}: use the same name for the folder."
        )
    return spec, signed_by
