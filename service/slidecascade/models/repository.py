"""The model repository: what a model package promises, and the check that it keeps it.

A package is ``<name>/model.yaml``, ``<name>/config.pbtxt`` and ``<name>/<version>/model.onnx``: the layout of
a Triton model repository with one more file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from slidecascade.errors import ModelPackageError
from slidecascade.models.graph import has_external_data

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ClassName = Annotated[str, Field(pattern=r"^[^:\n\r]{1,60}$")]
Channel = Annotated[int, Field(ge=0, le=255)]
SegmenterHead = Literal["unet", "semantic"]

MAPS: Final[Mapping[SegmenterHead, int]] = {"unet": 2, "semantic": 1}
"""Maps that a network of each head returns; the first is the foreground."""


class _SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelClass(_SpecPart):
    """A class and its RGB colour. A name holds no colon: that joins the levels of a cascade."""

    name: ClassName
    color: tuple[Channel, Channel, Channel]


class AnySize(_SpecPart):
    """A fully convolutional network's input: any height and width that are multiples of its stride."""

    height_px: None = None
    width_px: None = None
    multiple_of: Annotated[int, Field(ge=1, le=256)]


class FixedSize(_SpecPart):
    """A network's input of one height and width in pixels."""

    height_px: Annotated[int, Field(ge=1, le=4096)]
    width_px: Annotated[int, Field(ge=1, le=4096)]
    multiple_of: Literal[1] = 1


class CropSpec(_SpecPart):
    """The square cut around a cell, in pixels at the model's mpp, before it is resized to the input size."""

    size_px: Annotated[int, Field(ge=4, le=2048)]


class TrainingData(_SpecPart):
    name: str
    licence: str
    split: str = ""


class _AnyModelSpec(_SpecPart):
    name: Name
    version: Annotated[int, Field(ge=1)]
    mpp: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    classes: Annotated[tuple[ModelClass, ...], Field(min_length=1)]
    licence: str
    training_data: tuple[TrainingData, ...]
    accuracy: dict[str, float] = Field(default_factory=dict)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[ModelClass, ...]) -> tuple[ModelClass, ...]:
        if len({item.name for item in classes}) != len(classes):
            raise ValueError("class names must differ")
        return classes


class SegmenterOptions(_SpecPart):
    """Defaults of the heads of segmenters; `seed` and `prominence` are of the `unet` head only."""

    foreground: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_area_um2: Annotated[float, Field(ge=0)] = 8.0
    prominence: Annotated[float, Field(gt=0, le=1)] = 1.0


class SegmenterSpec(_AnyModelSpec):
    """A network whose maps a head turns into cells. `halo_px` is read around each tile."""

    task: Literal["segment"]
    head: SegmenterHead
    input: AnySize
    halo_px: Annotated[int, Field(ge=0, le=1024)]
    options: SegmenterOptions = SegmenterOptions()

    @model_validator(mode="after")
    def _options_are_the_heads(self) -> Self:
        if self.head != "unet" and self.options.model_fields_set & {"seed", "prominence"}:
            raise ValueError(f"the {self.head} head has no seeds: leave options.seed and options.prominence out")
        return self


class SoftmaxOptions(_SpecPart):
    """Defaults of the `softmax` head: the least probability a class must reach to be a cell's class."""

    floor: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0


class ClassifierSpec(_AnyModelSpec):
    """A network that looks at one crop per cell and returns a probability per class.

    The probabilities of a `softmax` head sum to one, those of a `sigmoid` head are each their own; the most
    probable class wins either way.
    """

    task: Literal["classify"]
    head: Literal["softmax", "sigmoid"]
    input: FixedSize
    crop: CropSpec
    options: SoftmaxOptions = SoftmaxOptions()


ModelSpec = Annotated[SegmenterSpec | ClassifierSpec, Field(discriminator="task")]
"""``model.yaml``. Every served graph takes ``image``, uint8 RGB ``(N, H, W, 3)``."""

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


def _read_spec(folder: Path) -> SegmenterSpec | ClassifierSpec:
    try:
        fields = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        spec = _MODEL_SPEC.validate_python(fields)
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
