"""The pipeline of one model by itself, of the kind that suits its task and head."""

from __future__ import annotations

from typing import Any, Final

from slidecascade.errors import InvalidRequestError
from slidecascade.heads.head import MaskHead, ObjectHead
from slidecascade.heads.table import find
from slidecascade.models.spec import AnySpec, ClassifierSpec, TranslatorSpec
from slidecascade.pipelines.areas import AreasSpec
from slidecascade.pipelines.cells import CellsSpec
from slidecascade.pipelines.patches import PatchesSpec
from slidecascade.pipelines.spec import PipelineSpec

COARSEST_CELLS_MPP: Final = 1.5
"""Micrometres per pixel up to which a network can see cells: a nucleus of 6 um has 4 pixels."""

_LEAST_CROP_PX: Final = 16
_MOST_STRIDE_PX: Final = 2048


def pipeline_alone(model: AnySpec) -> PipelineSpec:
    """The pipeline file of `model` alone, which has the model's name.

    A classifier looks at patches half a crop apart. The head of a segmenter decides between objects and a mask;
    one that makes both finds cells up to `COARSEST_CELLS_MPP`, and areas at coarser pixels.

    Raises:
        InvalidRequestError: a classifier's crops are too small for a lattice, or the model draws images.
    """
    if isinstance(model, TranslatorSpec):
        raise InvalidRequestError(
            f"The model {model.name!r} draws images for masks and finds nothing in one: send it a mask by "
            "POST /v1/translate."
        )
    fields: dict[str, Any] = {
        "name": model.name,
        "title": model.name,
        "description": f"The model {model.name} by itself.",
    }
    if isinstance(model, ClassifierSpec):
        return PatchesSpec(**fields, **_patches(model))
    head = find(model.head)
    if isinstance(head, MaskHead) and not (isinstance(head, ObjectHead) and model.mpp <= COARSEST_CELLS_MPP):
        first = {"name": "first", "title": model.class_names[0], "class": model.class_names[0]}
        grid_um = min(10_000.0, max(1.0, 32 * model.mpp))
        return AreasSpec(**fields, kind="areas", segmenter=model.name, heatmaps=[{**first, "grid_um": grid_um}])
    density = {"name": "density", "title": "Density", "kind": "density", "classes": [model.class_names[0]]}
    return CellsSpec(**fields, segmenter=model.name, heatmaps=[density])


def _patches(model: ClassifierSpec) -> dict[str, Any]:
    context_px = model.crop.size_px
    if context_px < _LEAST_CROP_PX:
        raise InvalidRequestError(
            f"The crops of {model.name!r} are {context_px} px wide, too small to look at an image patch by patch "
            f"(from {_LEAST_CROP_PX} px on): use it in a cascade, behind a segmenter."
        )
    return {
        "kind": "patches",
        "classifier": model.name,
        "patch": {"context_px": context_px, "stride_px": min(_MOST_STRIDE_PX, context_px // 2 // 8 * 8)},
        "heatmaps": [{"name": "first", "title": model.class_names[0], "class": model.class_names[0]}],
        "outlines": model.class_names,
    }
