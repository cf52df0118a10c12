"""The model repository: packages, and the check that each is what its ``model.yaml`` says.

A package is ``<name>/model.yaml``, ``<name>/config.pbtxt`` and ``<name>/<version>/model.onnx``: the layout of
a Triton model repository with one more file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from slidecascade.errors import ModelPackageError
from slidecascade.models.edition1 import with_tensors
from slidecascade.models.graph import has_external_data
from slidecascade.models.spec import ClassifierSpec, ModelSpec, SegmenterSpec

_MODEL_SPEC: TypeAdapter[SegmenterSpec | ClassifierSpec] = TypeAdapter(ModelSpec)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A spec and the graph it vouches for."""

    spec: SegmenterSpec | ClassifierSpec
    onnx_path: Path

    def read(self) -> bytes:
        """The graph.

        Raises:
            ModelPackageError: when it is not the file whose sha256 ``model.yaml`` states.
        """
        graph = self.onnx_path.read_bytes()
        found = hashlib.sha256(graph).hexdigest()
        if found != self.spec.sha256:
            raise ModelPackageError(
                f"Model {self.spec.name!r} is not the file its model.yaml vouches for: sha256 is {found[:12]}…, "
                f"expected {self.spec.sha256[:12]}…; restore the file or convert the model again."
            )
        return graph


def load_package(folder: Path) -> ModelPackage:
    """Read and verify the package in `folder`.

    Raises:
        ModelPackageError: when a file is missing, ``model.yaml`` is not valid, the graph has external data or
            its sha256 is another one.
    """
    spec = _read_spec(folder)
    onnx_path = folder / str(spec.version) / "model.onnx"
    if not onnx_path.is_file():
        raise ModelPackageError(
            f"Model {spec.name!r} has no {spec.version}/model.onnx: convert it again or remove its folder."
        )
    package = ModelPackage(spec, onnx_path)
    _require_whole(package)
    return package


def _require_whole(package: ModelPackage) -> None:
    """Refuse a graph whose weights are elsewhere: its sha256 would not vouch for them."""
    name = package.spec.name
    try:
        external = has_external_data(package.read())
    except ValueError as error:
        raise ModelPackageError(
            f"Model {name!r} is not an ONNX graph: its model.onnx cannot be read; convert it again."
        ) from error
    if external:
        raise ModelPackageError(
            f"Model {name!r} keeps weights outside its model.onnx, where no sha256 vouches for them: "
            "convert it again without external data."
        )


def load_repository(models_dir: Path) -> Mapping[str, ModelPackage]:
    """All packages of a model repository by name; folders without ``model.yaml`` are not ours and left alone.

    Raises:
        ModelPackageError: for the first package that must not be served, or when there is no such folder.
    """
    if not models_dir.is_dir():
        raise ModelPackageError(
            "The models folder does not exist: point --models or SLIDECASCADE_MODELS_DIR at one."
        )
    folders = sorted(path.parent for path in models_dir.glob("*/model.yaml"))
    return {package.spec.name: package for package in map(load_package, folders)}


def model_yaml(spec: SegmenterSpec | ClassifierSpec) -> str:
    """The text of ``model.yaml`` that reads as `spec`; defaults that were not stated are left out."""
    fields = spec.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _read_spec(folder: Path) -> SegmenterSpec | ClassifierSpec:
    try:
        fields = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        spec = _MODEL_SPEC.validate_python(with_tensors(fields))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelPackageError(f"Model {folder.name!r} has no readable model.yaml: write it again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelPackageError(
            f"Model {folder.name!r}: model.yaml is wrong at {where}: {first['msg']}."
        ) from error
    if spec.name != folder.name:
        raise ModelPackageError(
            f"Model {folder.name!r}: model.yaml calls it {spec.name!r}; give folder and model one name."
        )
    return spec
