"""Model cards and the specifications that training packages."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slidecascade.heads.head import ClassifierOptions
from slidecascade.heads.unet import UnetOptions
from slidecascade.models.repository import load_package
from slidecascade.models.spec import ModelClass, TrainingData
from slidecascade_convert.modelcard import Card, figures_table
from slidecascade_convert.package import ServedGraph
from slidecascade_training import packages
from slidecascade_training.fit import Pixels


def _card(**more: object) -> Card:
    fields = {
        "name": "toy", "summary": "Finds discs.", "facts": {"Classes": "Disc"}, "made": "    python -m toy\n",
        "measured": figures_table({"mean_ap": 0.5}), "limits": ("Squares are missed.",),
        "sections": {"Data": "Discs."},
    }  # fmt: skip
    return Card(**(fields | more))  # type: ignore[arg-type]


def test_a_card_has_the_notice_the_facts_and_the_sections_in_one_order() -> None:
    """What was measured and what it cannot do stand at the end, the command is a code block."""
    lines = _card().markdown.splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert headings == ["# toy", "## How it was made", "## Data", "## Measured", "## Limits"]
    assert "For Research Use Only. Not for use in diagnostic procedures." in lines
    assert {"| Classes | Disc |", "    python -m toy", "| mean ap | 0.5000 |", "- Squares are missed."} <= set(
        lines
    )


def test_a_card_without_limits_is_an_error() -> None:
    """Every model has some."""
    with pytest.raises(ValueError, match="states no limits"):
        _card(limits=())


def _stated(**more: object) -> packages.Statement:
    fields = {
        "name": "toy", "version": 3, "mpp": 0.5,
        "classes": (ModelClass(name="A", color=(1, 2, 3)), ModelClass(name="B", color=(4, 5, 6))),
        "licence": "MIT", "training_data": (TrainingData(name="discs", licence="MIT"),),
        "accuracy": {"dice": 0.123456, "roc_auc": float("nan")},
    }  # fmt: skip
    return packages.Statement(**(fields | more))  # type: ignore[arg-type]


def test_figures_that_are_not_finite_are_not_stated() -> None:
    """A class that was never seen has no ROC; YAML has no number for that."""
    exported = packages.Exported(None, ServedGraph(b"", "0" * 64), 0.0)
    spec = packages.classifier_spec(
        _stated(), exported, input_px=48, crop_px=24, options=ClassifierOptions(floor=0.5)
    )
    assert spec.accuracy == {"dice": 0.1235}
    assert (spec.task, spec.options.floor, spec.crop.size_px) == ("classify", 0.5, 24)


def test_a_written_package_states_what_was_stated(tmp_path: Path) -> None:
    """The specification that is read back is the one that was written."""
    pytest.importorskip("tensorflow", reason="the [train] extra is not installed")
    import keras

    image = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(2, 1, activation="sigmoid")(image)
    exported = packages.export_segmenter(keras.Model(image, maps), Pixels(1 / 255))
    options = UnetOptions(foreground=0.4, seed=0.3, min_area_um2=5.0)
    stated = _stated(classes=(ModelClass(name="Disc", color=(1, 2, 3)),))
    spec = packages.segmenter_spec(stated, exported, multiple_of=8, halo_px=16, options=options)
    folder = packages.write(tmp_path, spec, exported, _card())
    read = load_package(folder).spec
    assert read == spec.model_copy(update={"receptive_field_px": 1})  # which writing computes of the graph
    assert (folder / "README.md").read_text(encoding="utf-8") == _card().markdown
    written = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    assert written["version"] == 3
    assert written["options"].keys() == {"foreground", "seed", "min_area_um2"}
    assert packages.next_version(folder) == 4
    assert packages.next_version(tmp_path / "none") == 1
