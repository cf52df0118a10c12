"""A model package is served as promised or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy_models
from slidecascade.errors import ModelFailedError, ModelPackageError
from slidecascade.registry import load_package, load_repository
from slidecascade.runners.local import LocalRunner


def _package(models_dir: Path, **changes: Any) -> Path:
    return toy_models.write_package(
        models_dir, toy_models.segmenter_fields(**changes), toy_models.darkness_segmenter()
    )


def test_a_good_package_is_loaded_and_run(tmp_path: Path) -> None:
    """Maps come back as the graph computes them."""
    _package(tmp_path)
    packages = load_repository(tmp_path)
    runner = LocalRunner(packages.values())

    maps = runner.run("toy-segmenter", np.full((2, 16, 24, 3), 55, np.uint8))

    assert maps.shape == (2, 16, 24, 2)
    assert (maps == 200).all()


def test_folders_without_a_model_yaml_are_left_alone(tmp_path: Path) -> None:
    """Other tools' folders in a model repository do not stop the service."""
    _package(tmp_path)
    (tmp_path / "notes").mkdir()
    assert list(load_repository(tmp_path)) == ["toy-segmenter"]


def test_a_changed_graph_is_refused_by_name(tmp_path: Path) -> None:
    """A sha256 that differs from model.yaml names the model."""
    folder = _package(tmp_path)
    graph = folder / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    with pytest.raises(ModelPackageError, match=r"'toy-segmenter'.*sha256"):
        load_package(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mpp": 0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"task": "detect"}, "task|tag"),
        ({"head": "stardist"}, "head"),
        ({"halo_px": None}, "halo_px"),
        ({"classes": []}, "classes"),
        ({"classes": [{"name": "A: B", "color": [0, 0, 0]}]}, "classes"),
        ({"classes": [{"name": "A", "color": [0, 0, 256]}]}, "classes"),
        ({"sha256": "abc"}, "sha256"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_model_yaml_names_its_field(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """The message names the model and the field."""
    folder = _package(tmp_path, **changes)
    with pytest.raises(ModelPackageError, match=f"'toy-segmenter'.*({told})"):
        load_package(folder)


def test_a_missing_graph_and_broken_yaml_are_refused(tmp_path: Path) -> None:
    """Half a package is told in one sentence."""
    folder = _package(tmp_path)
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(ModelPackageError, match=r"no 1/model\.onnx"):
        load_package(folder)
    (folder / "model.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(ModelPackageError, match="no readable"):
        load_package(folder)


def test_a_name_that_differs_from_the_folder_is_refused(tmp_path: Path) -> None:
    """One model, one name."""
    folder = _package(tmp_path)
    with pytest.raises(ModelPackageError, match="one name"):
        load_package(folder.rename(tmp_path / "other"))


def test_shapes_that_contradict_model_yaml_are_refused(tmp_path: Path) -> None:
    """Three outputs for two classes would misname every cell."""
    fields = toy_models.classifier_fields(classes=toy_models.classifier_fields()["classes"][:2])
    toy_models.write_package(tmp_path, fields, toy_models.redness_classifier(72))
    with pytest.raises(ModelPackageError, match=r"'toy-classifier' returns float32 \(1, 3\)"):
        LocalRunner(load_repository(tmp_path).values())


def test_an_input_size_that_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    """A graph for 96 px does not run at 72 px."""
    toy_models.write_package(tmp_path, toy_models.classifier_fields(), toy_models.redness_classifier(96))
    with pytest.raises(ModelPackageError, match="does not run on an image of 72 x 72 px"):
        LocalRunner(load_repository(tmp_path).values())


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    """A file of another kind is told as such."""
    toy_models.write_package(tmp_path, toy_models.segmenter_fields(), b"not a model")
    with pytest.raises(ModelPackageError, match="refused by ONNX Runtime"):
        LocalRunner(load_repository(tmp_path).values())


def test_a_failing_run_is_an_error_with_a_name(tmp_path: Path) -> None:
    """Images the graph cannot take end in ModelFailedError, not in a library's exception."""
    toy_models.write_package(tmp_path, toy_models.classifier_fields(), toy_models.redness_classifier(72))
    runner = LocalRunner(load_repository(tmp_path).values())
    with pytest.raises(ModelFailedError, match="'toy-classifier' failed on 1 images of 10 x 10 px"):
        runner.run("toy-classifier", np.zeros((1, 10, 10, 3), np.uint8))


def test_no_models_folder_is_one_sentence(tmp_path: Path) -> None:
    """A wrong path says what to set."""
    with pytest.raises(ModelPackageError, match="--models"):
        load_repository(tmp_path / "absent")
