"""A cell whose classes are all improbable is `Unclassified`, and counted as such wherever cells are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

import toy_models
import toy_pipeline
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.outputs.cells import geojson, heatmap, summary
from slidecascade.settings import Settings
from slidecascade.timing import Silent

GREY, RED, FAINT_RED = (20, 20, 20), (110, 0, 0), (60, 20, 20)
CELLS = ((40, GREY), (100, RED), (160, RED), (220, FAINT_RED))


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    """Two classifiers by colour: the first asks for 0.5 in its model.yaml, the second for 0.8 in the pipeline."""
    folder = tmp_path_factory.mktemp("floors")
    toy_models.write_package(folder / "models", toy_models.segmenter_fields(), toy_models.darkness_segmenter())
    for name, options in (("toy-classifier", {"floor": 0.5}), ("toy-second", {})):
        fields = toy_models.classifier_fields(name, 72, options=options)
        toy_models.write_package(folder / "models", fields, toy_models.redness_classifier(72))
    cascade = [{"model": "toy-classifier"}, {"model": "toy-second", "select": "Red", "floor": 0.8}]
    red = {"name": "red", "title": "Red", "kind": "fraction", "classes": ["Red: Red"], "of": ["Red"]}
    fields = toy_pipeline.FIELDS | {"cascade": cascade, "heatmaps": [red | {"sigma_um": 800, "grid_um": 128}]}
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "toy.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    settings = Settings(models_dir=folder / "models", pipelines_dir=folder / "pipelines")
    analyser = Analyser(settings, observer=Silent())
    yield analyser
    analyser.close()


def _analysis(analyser: Analyser, **asked: Any) -> Analysis:
    """The cells of `CELLS` in a row on grey."""
    image = np.full((128, 256, 3), 190, np.uint8)
    for x, colour in CELLS:
        cv2.circle(image, (x, 64), 11, colour, -1)
    request = wire.parse_request({"pipeline": "toy", "mpp": 0.5, **asked})
    coded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    return analyser.analyse(request, coded, Control()).cells


def test_an_improbable_cell_is_counted_as_unclassified(analyser: Analyser) -> None:
    """Grey cells end in the first stage without a class, faintly red ones in the second."""
    analysis = _analysis(analyser)
    reported = summary.summarise(analysis)
    assert {name: count for name, count in reported.counts.items() if count} == {
        "Unclassified": 1,
        "Red: Red": 2,
        "Red: Unclassified": 1,
    }
    assert reported.cells == 4
    assert reported.thresholds == {"toy-segmenter": 0.5, "toy-classifier": 0.5, "toy-second": 0.8}
    # An unclassified red cell is a red cell still: it stays in the denominator.
    assert reported.fractions["Red"].of == "all cells"
    assert reported.fractions["Red: Red"].value == pytest.approx(2 / 3)
    assert reported.fractions["Red: Unclassified"].value == pytest.approx(1 / 3)


def test_the_classes_in_geojson_say_so(analyser: Analyser) -> None:
    """Every feature has a class; QuPath shows `Unclassified` and `Red: Unclassified` as any other."""
    document = json.loads(b"".join(geojson.encode(_analysis(analyser))))
    names = sorted(feature["properties"]["classification"]["name"] for feature in document["features"])
    assert names == ["Red: Red", "Red: Red", "Red: Unclassified", "Unclassified"]
    assert document["slidecascade"]["counts"]["Unclassified"] == 1


def test_a_heatmap_divides_by_all_cells_of_the_refined_class(analyser: Analyser) -> None:
    """Two of the three red cells are surely red, one is unclassified, and the grey one is not in question."""
    analysis = _analysis(analyser)
    reported = heatmap.compute(analysis, analysis.heatmaps[0])
    assert reported.values.ravel()[0] == pytest.approx(2 / 3, abs=0.02)


def test_a_request_may_set_the_minimum_probability(analyser: Analyser) -> None:
    """`thresholds` takes the place of the floors."""
    every = summary.summarise(_analysis(analyser, thresholds={"toy-classifier": 0.0, "toy-second": 0.0}))
    assert not {name for name, count in every.counts.items() if count and "Unclassified" in name}
    none = summary.summarise(_analysis(analyser, thresholds={"toy-classifier": 1.0}))
    assert none.counts["Unclassified"] == 4


def test_a_pipeline_reports_its_minimum_probabilities(analyser: Analyser) -> None:
    """The description of a pipeline states the defaults of requests."""
    assert analyser.pipeline("toy").thresholds == {"toy-segmenter": 0.5, "toy-classifier": 0.5, "toy-second": 0.8}
