"""Pipelines: which segmenter, which cascade of classifiers, which heatmaps. A YAML file each, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slidecascade.errors import PipelineSpecError
from slidecascade.models.repository import ModelPackage
from slidecascade.models.spec import ClassifierSpec, Name, SegmenterSpec
from slidecascade.pipelines.classes import CellClass, ClassTree
from slidecascade.pipelines.heatmaps import HeatmapSpec

BUNDLED_DIR = Path(__file__).parent
UNCLASSIFIED = CellClass(("Unclassified",), (153, 153, 153))
NOWHERE = -1


class _SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSpec(_SpecPart):
    """A classifier and the class of the stage before that it refines; None: it sees every cell.

    `floor` is the least probability a class must reach here; None: the floor of the model's own options.
    """

    model: Name
    select: str | None = None
    floor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class HeatmapFields(_SpecPart):
    """See `slidecascade.pipelines.heatmaps.HeatmapSpec`."""

    name: Name
    title: str
    kind: Literal["fraction", "density"]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    of: tuple[str, ...] = ()
    grid_um: Annotated[float, Field(ge=1, le=1000)] = 16.0
    sigma_um: Annotated[float, Field(ge=1, le=1000)] = 40.0
    maximum: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _a_fraction_has_a_whole(self) -> HeatmapFields:
        if (self.kind == "fraction") != bool(self.of):
            raise ValueError("a fraction needs `of`, a density has none")
        if self.sigma_um > 50 * self.grid_um:
            raise ValueError("sigma_um may be at most 50 times grid_um: take a coarser grid")
        return self


class PipelineSpec(_SpecPart):
    """A pipeline file."""

    name: Name
    title: str
    description: str
    segmenter: Name
    cascade: tuple[StageSpec, ...] = ()
    heatmaps: Annotated[tuple[HeatmapFields, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Stage:
    """A classifier, and the index of the class of the stage before that it refines; None: it sees every cell.

    A cell none of whose classes reaches the probability `floor` is unclassified, unless a request asks otherwise.
    """

    model: ClassifierSpec
    parent: int | None
    floor: float


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose models exist and fit together; made by `load_pipelines`.

    `classes` holds every class a cell can end in. `leaves[k][c]` is the index in `classes.ends` of class ``c`` of
    stage ``k``, `NOWHERE` for a class that stage ``k + 1`` refines; the last entry, ``leaves[k][-1]``, is for
    cells that stage ``k`` saw but for which no class was probable enough.
    """

    name: str
    title: str
    description: str
    segmenter: SegmenterSpec
    stages: tuple[Stage, ...]
    classes: ClassTree
    leaves: tuple[tuple[int, ...], ...]
    heatmaps: tuple[HeatmapSpec, ...]

    @property
    def models(self) -> tuple[SegmenterSpec | ClassifierSpec, ...]:
        """The segmenter, then the classifiers in order."""
        return (self.segmenter, *(stage.model for stage in self.stages))

    @property
    def thresholds(self) -> Mapping[str, float]:
        """What holds unless a request asks otherwise, by model name: foreground probability, then floors."""
        floors = {stage.model.name: stage.floor for stage in self.stages}
        return {self.segmenter.name: self.segmenter.options.foreground} | floors


def load_pipelines(models: Mapping[str, ModelPackage], extra_dir: Path | None) -> Mapping[str, Pipeline]:
    """The bundled pipelines and those in `extra_dir`, by name.

    A bundled pipeline whose models are not all in `models` is left out (a lab may serve its own models only).

    Raises:
        PipelineSpecError: for a file that is not valid, or one of `extra_dir` whose models are missing or do
            not fit together.
    """
    specs = [_read_spec(path) for path in sorted(BUNDLED_DIR.glob("*.yaml"))]
    chosen = {spec.name: spec for spec in specs if _needs(spec) <= models.keys()}
    if extra_dir is not None:
        if not extra_dir.is_dir():
            raise PipelineSpecError(
                "The pipelines folder does not exist: point SLIDECASCADE_PIPELINES_DIR at one."
            )
        extra = [_read_spec(path) for path in sorted(extra_dir.iterdir()) if path.suffix in (".yaml", ".yml")]
        if twice := {spec.name for spec in extra if [other.name for other in extra].count(spec.name) > 1}:
            raise PipelineSpecError(f"Two pipeline files are called {min(twice)!r}: give each a name of its own.")
        for spec in extra:
            if missing := sorted(_needs(spec) - models.keys()):
                raise PipelineSpecError(
                    f"Pipeline {spec.name!r} needs the model {missing[0]!r}, which is not there."
                )
        chosen |= {spec.name: spec for spec in extra}
    return {name: _assemble(spec, models) for name, spec in sorted(chosen.items())}


def _needs(spec: PipelineSpec) -> set[str]:
    return {spec.segmenter, *(stage.model for stage in spec.cascade)}


def _read_spec(path: Path) -> PipelineSpec:
    try:
        return PipelineSpec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PipelineSpecError(
            f"The pipeline file {path.name} cannot be read as YAML: write it again."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PipelineSpecError(f"The pipeline file {path.name} is wrong at {where}: {first['msg']}.") from error


def _assemble(spec: PipelineSpec, models: Mapping[str, ModelPackage]) -> Pipeline:
    for name in sorted(_needs(spec)):
        _require_rgb(spec.name, models[name].spec)
    segmenter = models[spec.segmenter].spec
    if not isinstance(segmenter, SegmenterSpec):
        raise PipelineSpecError(f"Pipeline {spec.name!r}: {segmenter.name!r} is no segmenter.")
    stages = _stages(spec, models)
    classes, leaves = _class_tree(segmenter, stages)
    for heatmap in spec.heatmaps:
        for wanted in (*heatmap.classes, *heatmap.of):
            if wanted not in classes.groups:
                raise PipelineSpecError(
                    f"Pipeline {spec.name!r}: heatmap {heatmap.name!r} names the class {wanted!r}; "
                    f"there are {', '.join(end.name for end in classes.ends)}."
                )
    return Pipeline(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        segmenter=segmenter,
        stages=stages,
        classes=classes,
        leaves=leaves,
        heatmaps=tuple(HeatmapSpec(**dict(heatmap)) for heatmap in spec.heatmaps),
    )


def _require_rgb(pipeline: str, model: SegmenterSpec | ClassifierSpec) -> None:
    """Raises PipelineSpecError for a model that takes anything but one uint8 RGB image, as tiles and crops are."""
    image = model.input
    is_rgb = (image.dtype, image.layout, image.channels) == ("uint8", "NHWC", ("red", "green", "blue"))
    if len(model.inputs) > 1 or not is_rgb:
        taken = ", ".join(
            f"{tensor.name} ({tensor.dtype} {tensor.layout} {' '.join(tensor.channels)})"
            for tensor in model.inputs
        )
        raise PipelineSpecError(
            f"Pipeline {pipeline!r}: model {model.name!r} takes {taken}, but pipelines give uint8 NHWC red green "
            "blue: convert it with such an input, or run it by /v2."
        )


def _stages(spec: PipelineSpec, models: Mapping[str, ModelPackage]) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for position, fields in enumerate(spec.cascade):
        model = models[fields.model].spec
        if not isinstance(model, ClassifierSpec):
            raise PipelineSpecError(f"Pipeline {spec.name!r}: {model.name!r} is no classifier.")
        before = [item.name for item in stages[-1].model.classes] if stages else []
        if (fields.select is None) != (position == 0) or (fields.select and fields.select not in before):
            raise PipelineSpecError(
                f"Pipeline {spec.name!r}: stage {position + 1} must "
                + ("select one of " + ", ".join(before) if before else "see every cell, without `select`")
                + "."
            )
        parent = None if fields.select is None else before.index(fields.select)
        floor = model.options.floor if fields.floor is None else fields.floor
        stages.append(Stage(model, parent, floor))
    return tuple(stages)


def _class_tree(
    segmenter: SegmenterSpec, stages: tuple[Stage, ...]
) -> tuple[ClassTree, tuple[tuple[int, ...], ...]]:
    """All final classes, and for each stage where its classes are among them."""
    if not stages:
        first = segmenter.classes[0]
        return ClassTree((CellClass((first.name,), first.color),)), ()
    classes: list[CellClass] = []
    leaves: list[tuple[int, ...]] = []
    prefix: tuple[str, ...] = ()
    for position, stage in enumerate(stages):
        refined = stages[position + 1].parent if position + 1 < len(stages) else None
        places: list[int] = []
        ends = [CellClass((item.name,), item.color) for item in stage.model.classes]
        for index, end in enumerate([*ends, UNCLASSIFIED]):
            if index == refined:
                # No cell ends here: the next stage decides, and overwrites this place.
                places.append(NOWHERE)
                continue
            places.append(len(classes))
            classes.append(CellClass(prefix + end.path, end.color))
        leaves.append(tuple(places))
        if refined is not None:
            prefix += (stage.model.classes[refined].name,)
    return ClassTree(tuple(classes)), tuple(leaves)
