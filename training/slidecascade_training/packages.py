"""From a trained network to a served package: export, comparison, one typed specification, one writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from slidecascade.errors import ModelPackageError
from slidecascade.models.spec import (
    AnySize,
    ClassifierSpec,
    CropSpec,
    FixedSize,
    ModelClass,
    SegmenterOptions,
    SegmenterSpec,
    SoftmaxOptions,
    TrainingData,
)
from slidecascade_convert.modelcard import Card
from slidecascade_training.fit import Pixels

_NOT_YET: Final = "0" * 64
"""Stands for the graph's sha256, which the writer puts in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What every package states, whatever its network does; figures that are not finite are left out."""

    name: str
    version: int
    mpp: float
    classes: tuple[ModelClass, ...]
    licence: str
    training_data: tuple[TrainingData, ...]
    accuracy: Mapping[str, float]

    @property
    def fields(self) -> dict[str, Any]:
        """As a specification takes them."""
        finite = {name: round(value, 4) for name, value in self.accuracy.items() if np.isfinite(value)}
        return {
            "name": self.name,
            "version": self.version,
            "mpp": self.mpp,
            "classes": self.classes,
            "licence": self.licence,
            "training_data": self.training_data,
            "accuracy": finite,
            "sha256": _NOT_YET,
        }


def segmenter_spec(
    stated: Statement, *, multiple_of: int, halo_px: int, options: SegmenterOptions
) -> SegmenterSpec:
    """Of a network that returns the maps of the `unet` head for images of any size."""
    return SegmenterSpec(
        **stated.fields,
        task="segment",
        head="unet",
        input=AnySize(height_px=None, width_px=None, multiple_of=multiple_of),
        halo_px=halo_px,
        options=options,
    )


def classifier_spec(
    stated: Statement, *, input_px: int, crop_px: int, options: SoftmaxOptions | None = None
) -> ClassifierSpec:
    """Of a network that returns softmax probabilities for crops of one size."""
    more = {} if options is None else {"options": options}
    return ClassifierSpec(
        **stated.fields,
        task="classify",
        head="softmax",
        input=FixedSize(height_px=input_px, width_px=input_px, multiple_of=1),
        crop=CropSpec(size_px=crop_px),
        **more,
    )


@dataclass(frozen=True, slots=True)
class Exported:
    """A served graph (an ``onnx.ModelProto``), and by how much it differs from its network at most."""

    graph: Any
    max_difference: float


def export_segmenter(
    network: Any, pixels: Pixels, *, sizes_px: Sequence[tuple[int, int]] | None = None
) -> Exported:
    """Maps as bytes, for images of any size; compared at `sizes_px`, heights and widths.

    Raises:
        ModelPackageError: the graph differs from the network.
    """
    return _exported(network, pixels, sizes_px, output_name="maps", as_bytes=True)


def export_classifier(network: Any, pixels: Pixels, *, input_px: int) -> Exported:
    """Probabilities for crops of one size.

    Raises:
        ModelPackageError: the graph differs from the network.
    """
    return _exported(
        network,
        pixels,
        [(input_px, input_px)],
        output_name="probabilities",
        height_px=input_px,
        width_px=input_px,
    )


def _exported(network: Any, pixels: Pixels, sizes_px: Sequence[tuple[int, int]] | None, **how: Any) -> Exported:
    from slidecascade_convert.keras import onnx_from_keras
    from slidecascade_convert.parity import DYNAMIC_SIZES_PX, ParityError, check_parity

    graph = onnx_from_keras(network, scale=pixels.scale, offset=pixels.offset, **how)
    try:
        parity = check_parity(
            network, graph, scale=pixels.scale, offset=pixels.offset, sizes_px=sizes_px or DYNAMIC_SIZES_PX
        )
    except ParityError as error:
        raise ModelPackageError(str(error)) from error
    return Exported(graph, parity.max_abs)


def write(
    models_dir: Path, spec: SegmenterSpec | ClassifierSpec, exported: Exported, card: Card, *, max_batch: int = 32
) -> Path:
    """Write ``models_dir/<name>``, whole or not at all, after the service has loaded it once; its folder.

    Raises:
        ModelPackageError: the service would refuse the package.
        UnwritableOutputError: a full disk.
    """
    from slidecascade_convert.package import write_package

    fields = spec.model_dump(mode="json", exclude_unset=True, exclude={"sha256"})
    return write_package(models_dir, fields, exported.graph, card.markdown, verify=_load_once, max_batch=max_batch)


def _load_once(graph_path: Path) -> None:
    """Load the package as the service will, before it is put in place."""
    from slidecascade.models.repository import load_package
    from slidecascade.runners.local import LocalRunner

    LocalRunner([load_package(graph_path.parents[1])]).close()


def next_version(folder: Path) -> int:
    """One more than the version of the package that is replaced."""
    try:
        return int(yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))["version"]) + 1
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 1
