"""Slides, pipelines and models in the format of the API."""

from __future__ import annotations

from slidecascade import wire
from slidecascade.models.spec import AnySpec
from slidecascade.pipelines.spec import Pipeline
from slidecascade.slides.slideinfo import SlideInfo


def slide_info(slide_id: str, info: SlideInfo, content_id: str) -> wire.SlideInfo:
    """The properties of a slide; `content_id` identifies its content."""
    return wire.SlideInfo(
        id=slide_id,
        width=info.size_l0.width,
        height=info.size_l0.height,
        mpp=info.mpp,
        objective_power=info.objective_power,
        vendor=info.vendor,
        content_id=content_id,
        channels=info.channels,
        bounds=None if info.bounds_l0 is None else wire.RegionBox.of(*info.bounds_l0.as_tuple()),
        levels=tuple(
            wire.LevelInfo(width=size.width, height=size.height, downsample=downsample)
            for size, downsample in zip(info.level_sizes, info.level_downsamples, strict=True)
        ),
    )


def _class_info(name: str, color: tuple[int, int, int]) -> wire.ClassInfo:
    return wire.ClassInfo(name=name, color=color)


def pipeline_info(pipeline: Pipeline) -> wire.PipelineInfo:
    """A pipeline's models in order, its classes and its heatmaps."""
    by_task = {
        task: tuple(model.name for model in pipeline.models if model.task == task)
        for task in ("segment", "classify")
    }
    return wire.PipelineInfo(
        name=pipeline.name,
        kind=pipeline.kind,
        title=pipeline.title,
        description=pipeline.description,
        segmenter=next(iter(by_task["segment"]), None),
        classifiers=by_task["classify"],
        companions=by_task["segment"][1:],
        thresholds=dict(pipeline.thresholds),
        stain=pipeline.stain,
        classes=tuple(_class_info(item.name, item.color) for item in pipeline.classes.ends),
        heatmaps=tuple(
            wire.HeatmapInfo(name=item.name, title=item.title, kind=item.kind) for item in pipeline.heatmap_titles
        ),
    )


def model_info(spec: AnySpec) -> wire.ModelInfo:
    """A model's specification."""
    return wire.ModelInfo(
        name=spec.name,
        version=spec.version,
        task=spec.task,
        head=spec.head,
        mpp=spec.mpp,
        inputs=tuple(wire.InputInfo.model_validate(tensor.model_dump()) for tensor in spec.inputs),
        outputs=tuple(wire.OutputInfo.model_validate(tensor.model_dump()) for tensor in spec.outputs),
        classes=tuple(_class_info(item.name, item.color) for item in spec.classes),
        licence=spec.licence,
        training_data=tuple(item.model_dump() for item in spec.training_data),
        accuracy=spec.accuracy,
        sha256=spec.sha256,
    )
