"""Pipelines of areas that cannot be, and slides that hold nothing for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import toy_kinds
from slidecascade.areas.result import AreasResult
from slidecascade.errors import PipelineSpecError
from slidecascade.heads.table import outputs_of
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.models.spec import ModelClass
from slidecascade.outputs.areas.encoders import encode_geojson, heatmaps_of, summarise
from slidecascade.outputs.areas.rle import rle_csv
from slidecascade.pipelines.areas import AreasSpec, assemble


def package_of(folder: Path, head: str, classes: int) -> ModelPackage:
    """The toy's package as if its network found so many classes."""
    package = load_repository(toy_kinds.write_models(folder))["toy-mask"]
    named = tuple(ModelClass(name=f"Class {number}", color=(1, 2, 3)) for number in range(classes))
    change = {"head": head, "classes": named, "outputs": outputs_of(head, [item.name for item in named])}
    return replace(package, spec=package.spec.model_copy(update=change))


@pytest.mark.parametrize(
    ("head", "classes", "most"), [("classes", 300, "at most 255 classes"), ("overlapping", 9, "at most 8 classes")]
)
def test_too_many_classes_are_one_sentence(tmp_path: Path, head: str, classes: int, most: str) -> None:
    """It names the pipeline, the network, both numbers and what to do."""
    heatmap = {"name": "part", "title": "Part", "class": "Class 0"}
    spec = AreasSpec.model_validate(toy_kinds.AREAS | {"heatmaps": [heatmap]})
    package = package_of(tmp_path / "many", head, classes)
    with pytest.raises(PipelineSpecError, match=most) as caught:
        assemble(spec, {"toy-mask": package})
    text = str(caught.value)
    assert "toy-areas" in text
    assert "toy-mask" in text
    assert f" {classes}: divide" in text
    fine = package_of(tmp_path / "few", head, 8)
    assert len(assemble(spec, {"toy-mask": fine}).classes.ends) == 8


def test_a_slide_without_tissue_has_no_areas(tmp_path: Path) -> None:
    """No share and no density, an empty encoding, a blank map: and nothing fails."""
    toy = toy_kinds.ToyKinds(tmp_path)
    result = toy.run("toy-areas", np.full((200, 240, 3), 255, np.uint8))
    assert isinstance(result, AreasResult)
    maps = heatmaps_of(result)
    summary = summarise(result, maps)
    assert summary.counts == {"Red": 0, "Green": 0}
    assert summary.areas is not None
    assert {item.tissue_share for item in summary.areas.values()} == {None}
    assert set(summary.densities_per_mm2.values()) == {None}
    assert b"".join(rle_csv(result)) == b"id,encoding\nRed,\nGreen,\n"
    assert np.isnan(maps[0].values).all()
    assert [warning.code for warning in result.warnings] == ["nothing-analysed"]
    assert b'"features":[\n\n]' in b"".join(encode_geojson(result))
