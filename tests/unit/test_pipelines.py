"""Pipelines are put together from files, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import toy_models
from slidecascade.cells.cascade import chosen_class, final_classes
from slidecascade.errors import PipelineSpecError
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.pipelines.cells import FILE, CellsPipeline
from slidecascade.pipelines.load import load_pipelines

TOY = {
    "name": "toy",
    "title": "Toy",
    "description": "Dark blobs by colour.",
    "segmenter": "toy-segmenter",
    "cascade": [{"model": "toy-classifier"}, {"model": "toy-second", "select": "Red"}],
    "heatmaps": [{"name": "red", "title": "Red", "kind": "fraction", "classes": ["Red: Green"], "of": ["Red"]}],
}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, ModelPackage]:
    folder = tmp_path / "models"
    toy_models.write_package(folder, toy_models.segmenter_fields(), toy_models.darkness_segmenter())
    toy_models.write_package(folder, toy_models.classifier_fields(), toy_models.redness_classifier(72))
    second = toy_models.classifier_fields("toy-second", 96)
    toy_models.write_package(folder, second, toy_models.redness_classifier(96))
    return dict(load_repository(folder))


def _load(tmp_path: Path, models: dict[str, ModelPackage], **changes: Any) -> CellsPipeline:
    folder = tmp_path / "pipelines"
    folder.mkdir(exist_ok=True)
    (folder / "toy.yaml").write_text(yaml.safe_dump(TOY | changes), encoding="utf-8")
    return load_pipelines(models, folder, (FILE,))["toy"]


def test_classes_are_the_leaves_of_the_cascade(tmp_path: Path, models: dict[str, ModelPackage]) -> None:
    """A refined class gives way to its derived classes; each stage can leave a cell unclassified."""
    pipeline = _load(tmp_path, models)
    assert [item.name for item in pipeline.classes.ends] == [
        "Green", "Blue", "Unclassified", "Red: Red", "Red: Green", "Red: Blue", "Red: Unclassified",
    ]  # fmt: skip


def test_final_classes_follow_the_stages(tmp_path: Path, models: dict[str, ModelPackage]) -> None:
    """The last stage that saw a cell decides; a floor that is not reached leaves it unclassified."""
    pipeline = _load(tmp_path, models)
    nan = np.nan
    first = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]], np.float32)
    second = np.array([[0.1, 0.7, 0.2], [nan] * 3, [nan] * 3, [0.4, 0.3, 0.3]], np.float32)
    floors = {"toy-classifier": 0.5, "toy-second": 0.5}

    ends = final_classes((first, second), pipeline, floors, 4)

    names = [pipeline.classes.ends[index].name for index in ends]
    assert names == ["Red: Green", "Green", "Unclassified", "Red: Unclassified"]


def test_a_floor_of_zero_classifies_every_seen_cell() -> None:
    """Only rows a stage did not see have no class."""
    rows = np.array([[0.34, 0.33, 0.33], [np.nan] * 3], np.float32)
    assert chosen_class(rows, 0.0).tolist() == [0, -1]


def test_the_floor_of_a_stage_is_its_own_or_else_its_models(tmp_path: Path) -> None:
    """A pipeline file may ask for another floor than the one the model was measured with."""
    folder = tmp_path / "models"
    toy_models.write_package(folder, toy_models.segmenter_fields(), toy_models.darkness_segmenter())
    for name in ("toy-classifier", "toy-second"):
        fields = toy_models.classifier_fields(name, 72, options={"floor": 0.65})
        toy_models.write_package(folder, fields, toy_models.redness_classifier(72))
    models = dict(load_repository(folder))
    cascade = [{"model": "toy-classifier"}, {"model": "toy-second", "select": "Red", "floor": 0.0}]

    pipeline = _load(tmp_path, models, cascade=cascade)

    assert pipeline.thresholds == {"toy-segmenter": 0.5, "toy-classifier": 0.65, "toy-second": 0.0}


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"cascade": [{"model": "toy-classifier", "floor": 1.5}]}, "cascade.0.floor"),
        ({"cascade": [{"model": "toy-classifier", "floor": float("nan")}]}, "cascade.0.floor"),
        ({"segmenter": "absent"}, "needs the model 'absent'"),
        ({"segmenter": "toy-classifier"}, "is not a segmenter"),
        ({"cascade": [{"model": "toy-segmenter"}]}, "is not a classifier"),
        ({"cascade": [{"model": "toy-classifier", "select": "Red"}]}, "without `select`"),
        ({"cascade": [{"model": "toy-classifier"}, {"model": "toy-second"}]}, "must select one of Red"),
        ({"cascade": [{"model": "toy-classifier"}, {"model": "toy-second", "select": "Pink"}]}, "must select"),
        ({"cascade": []}, "names the class 'Red: Green'"),
        ({"heatmaps": []}, "heatmaps"),
        ({"name": "Not A Name"}, "name"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_pipeline_is_refused(
    tmp_path: Path, models: dict[str, ModelPackage], changes: dict[str, Any], reported: str
) -> None:
    """The message says which pipeline or file, and what is wrong."""
    with pytest.raises(PipelineSpecError, match=reported):
        _load(tmp_path, models, **changes)


def test_bundled_pipelines_without_their_models_are_left_out(models: dict[str, ModelPackage]) -> None:
    """A lab that serves its own models only is not forced to keep the bundled ones."""
    assert load_pipelines(models, None, (FILE,)) == {}


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, models: dict[str, ModelPackage]) -> None:
    """The file's name is in the message."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "broken.yaml").write_text("name: [", encoding="utf-8")
    with pytest.raises(PipelineSpecError, match=r"broken\.yaml"):
        load_pipelines(models, folder, (FILE,))
