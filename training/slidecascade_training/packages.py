"""From a trained network to a served package: export, comparison, one typed specification, one writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from slidecascade.errors import ModelPackageError
from slidecascade.heads.head import ClassifierOptions, SegmenterOptions
from slidecascade.heads.table import outputs_of
from slidecascade.models.spec import (
    AnySpec,
    ClassifierSpec,
    CropSpec,
    ModelClass,
    SegmenterSpec,
    TrainingData,
)
from slidecascade.models.tensors import rgb_image
from slidecascade_convert.modelcard import Card
from slidecascade_convert.package import ServedGraph, write_package
from slidecascade_training.fit import Pixels


@dataclass(frozen=True, slots=True)
class Exported:
    """A served graph (an ``onnx.ModelProto``), as it is written, and its largest difference from its network."""

    graph: Any
    served: ServedGraph
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Fields of every package, for any task; NaN and infinite figures are omitted."""

    name: str
    version: int
    mpp: float
    classes: tuple[ModelClass, ...]
    licence: str
    training_data: tuple[TrainingData, ...]
    accuracy: Mapping[str, float]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.classes)

    @property
    def fields(self) -> dict[str, Any]:
        """As fields of a specification."""
        finite = {name: round(value, 4) for name, value in self.accuracy.items() if np.isfinite(value)}
        return {
            "name": self.name,
            "version": self.version,
            "mpp": self.mpp,
            "classes": self.classes,
            "licence": self.licence,
            "training_data": self.training_data,
            "accuracy": finite,
        }


def segmenter_spec(
    stated: Statement,
    exported: Exported,
    *,
    multiple_of: int,
    halo_px: int,
    options: SegmenterOptions,
    head: str = "unet",
    object_diameter_px: float | None = None,
) -> SegmenterSpec:
    """The specification of a network that returns the maps of `head` for images of any size; with
    `object_diameter_px`, the usual diameter of objects it was trained to find."""
    return SegmenterSpec(
        **stated.fields,
        task="segment",
        head=head,
        inputs=(rgb_image(multiple_of=multiple_of),),
        outputs=outputs_of(head, stated.class_names),
        sha256=exported.served.sha256,
        halo_px=halo_px,
        **({} if object_diameter_px is None else {"object_diameter_px": object_diameter_px}),
        options=options,
    )


def classifier_spec(
    stated: Statement, exported: Exported, *, input_px: int, crop_px: int, options: ClassifierOptions | None = None
) -> ClassifierSpec:
    """The specification of a network that returns softmax probabilities for crops of one size."""
    more = {} if options is None else {"options": options}
    return ClassifierSpec(
        **stated.fields,
        task="classify",
        head="softmax",
        inputs=(rgb_image(height_px=input_px, width_px=input_px),),
        outputs=outputs_of("softmax", stated.class_names),
        sha256=exported.served.sha256,
        crop=CropSpec(size_px=crop_px),
        **more,
    )


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
    return Exported(graph, ServedGraph.of(graph), parity.max_abs)


def write(models_dir: Path, spec: AnySpec, exported: Exported, card: Card, *, max_batch: int = 32) -> Path:
    """Write ``models_dir/<name>`` atomically, after the service has loaded it once; the folder.

    Raises:
        ModelPackageError: when the service rejects the package.
        UnwritableOutputError: a full disk.
    """
    return write_package(models_dir, spec, exported.served, card.markdown, verify=_load_once, max_batch=max_batch)


def _load_once(graph_path: Path) -> None:
    """Load the package as the service does, before it is renamed into place."""
    from slidecascade.models.repository import load_package
    from slidecascade.runners.local import LocalRunner

    LocalRunner([load_package(graph_path.parents[1])]).close()


def next_version(folder: Path) -> int:
    """One more than the version of the package that is replaced."""
    try:
        return int(yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))["version"]) + 1
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 1
