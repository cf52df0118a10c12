"""Cells as GeoJSON that QuPath imports."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_analysis import REGION_L0, make_analysis
from qupath import check_feature_collection
from slidecascade import wire
from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.errors import ModelFailedError
from slidecascade.geometry import Box
from slidecascade.kinds.result import FailedTile
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.ids import id_namespace
from slidecascade.outputs.provenance import Provenance
from slidecascade.pipelines.classes import CellClass, ClassTree


def encoded(analysis: Analysis) -> bytes:
    return b"".join(geojson.encode(analysis))


def parsed(analysis: Analysis) -> Any:
    return json.loads(encoded(analysis))


def slow_features(analysis: Analysis) -> list[Any]:
    """The features the obvious way, one cell at a time."""
    cells = analysis.instances
    namespace = id_namespace(analysis)
    features = []
    for i in range(len(cells)):
        outline = cells.vertices[cells.offsets[i] : cells.offsets[i + 1]]
        ring = [[round(x, 2) + 0.0, round(y, 2) + 0.0] for x, y in outline.tolist()]
        ring.append(ring[0])
        measurements = {
            "Detection score": round(float(cells.scores[i]), 4),
            "Area µm^2": round(float(cells.areas[i] * analysis.mpp**2), 2),
        }
        for model, matrix in zip(analysis.models[1:], cells.probabilities, strict=True):
            if np.isfinite(matrix[i]).all():
                for name, value in zip(model.classes, matrix[i].tolist(), strict=True):
                    measurements[f"{model.name} {name} probability"] = round(value, 4)
        cell_class = analysis.classes.ends[analysis.class_index[i]]
        text = json.dumps(ring, separators=(",", ":"))[1:-1]
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(namespace, text)),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": cell_class.name, "color": list(cell_class.color)},
                    "measurements": measurements,
                },
            }
        )
    return features


@st.composite
def analyses(draw: st.DrawFn) -> Analysis:
    """Cells with outlines of different lengths, anywhere, seen by any set of classifiers."""
    lengths = draw(st.lists(st.integers(3, 9), max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = len(lengths)
    spread = draw(st.sampled_from([1.0, 300.0, 250_000.0, 2e6]))
    vertices = rng.normal(0, spread, (sum(lengths), 2))
    kind = draw(st.sampled_from(["any", "not negative", "whole", "tenths", "around zero"]))
    if kind != "any":
        vertices = np.abs(vertices)
    if kind in ("whole", "tenths"):
        vertices = np.round(vertices, 0 if kind == "whole" else 1)
    elif kind == "around zero":
        vertices = rng.choice([0.0, -0.0, -0.001, 0.001, 0.01, 10.0], vertices.shape)
    if kind not in ("any", "not negative"):
        vertices[np.cumsum([0, *lengths[:-1]])[:n], 0] += 20 * np.arange(n)  # no two outlines are the same
    base = make_analysis(n)
    stages = tuple(
        np.where(rng.random((n, 1)) < 0.5, np.nan, rng.random((n, 3))).astype(np.float32) for _ in range(2)
    )
    instances = Instances(
        centroids=rng.normal(0, spread, (n, 2)),
        areas=rng.uniform(0, spread, n),
        scores=rng.random(n).astype(np.float32),
        vertices=vertices,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        probabilities=stages,
    )
    return replace(base, instances=instances)


@given(analyses())
@settings(max_examples=60, deadline=None)
def test_the_fast_encoder_equals_the_obvious_one(analysis: Analysis) -> None:
    """Ragged outlines, any coordinates and any pattern of unseen stages give the features of the plain loop."""
    text = encoded(analysis)

    assert check_feature_collection(text) == len(analysis.instances)
    assert json.loads(text)["features"] == slow_features(analysis)


def test_numbers_outside_of_0_to_1_are_written_as_they_are() -> None:
    """What a classifier of somebody else's calls probabilities may be anything; the file says it."""
    base = make_analysis(5)
    second = base.instances.probabilities[1]
    odd = np.array([[-3.25, 1e-7, 12345.67891]] * 5, np.float32)
    instances = replace(base.instances, scores=np.array([0, 1, 1.5, -0.25, 255], np.float32))
    analysis = replace(base, instances=instances.with_probabilities(odd, second))

    assert check_feature_collection(encoded(analysis)) == 5
    assert parsed(analysis)["features"] == slow_features(analysis)


def test_more_cells_than_a_chunk_keep_their_order() -> None:
    """Several chunks join to one valid collection with every cell in its place."""
    analysis = make_analysis(2 * geojson.CHUNK_CELLS + 7)
    pieces = list(geojson.encode(analysis))

    assert check_feature_collection(b"".join(pieces)) == len(analysis.instances)
    assert json.loads(b"".join(pieces))["features"] == slow_features(analysis)
    assert len(pieces) == 5
    assert max(map(len, pieces)) < 2e6


@pytest.mark.parametrize("cells", [0, 1, geojson.CHUNK_CELLS, geojson.CHUNK_CELLS + 1])
def test_any_number_of_cells_is_a_valid_collection(cells: int) -> None:
    """No cell, one cell, exactly a chunk and one more are all imported."""
    assert check_feature_collection(encoded(make_analysis(cells))) == cells


def test_an_analysis_without_classifiers_has_no_probabilities() -> None:
    """A pipeline that only segments gives score and area."""
    base = make_analysis(4)
    analysis = replace(
        base,
        models=base.models[:1],
        classes=ClassTree((CellClass(("Nucleus",), (0, 114, 178)),)),
        class_index=np.zeros(4, np.int64),
        instances=base.instances.with_probabilities(),
    )

    assert check_feature_collection(encoded(analysis)) == 4
    first = parsed(analysis)["features"][0]["properties"]
    assert first["classification"] == {"name": "Nucleus", "color": [0, 114, 178]}
    assert set(first["measurements"]) == {"Detection score", "Area µm^2"}


def test_a_cell_unseen_by_a_stage_has_no_probabilities_of_it() -> None:
    """Hepatocytes carry both stages, immune cells the first only; names say model and class."""
    features = parsed(make_analysis(5))["features"]
    both, first_only = features[0]["properties"], features[3]["properties"]

    assert both["classification"]["name"] == "Hepatocyte: Normal"
    assert list(both["measurements"]) == [
        "Detection score",
        "Area µm^2",
        "nash-cell Hepatocyte probability",
        "nash-cell Immune probability",
        "nash-cell Other probability",
        "nash-hepatocyte Ballooning probability",
        "nash-hepatocyte Normal probability",
        "nash-hepatocyte Steatosis probability",
    ]
    assert first_only["classification"]["name"] == "Immune"
    assert list(first_only["measurements"]) == list(both["measurements"])[:5]


def test_names_with_special_characters_survive() -> None:
    """Quotes, percent signs, colons, backslashes and non-ASCII letters in names are written as JSON."""
    base = make_analysis(5)
    odd = 'A "b" 100 %d %b: ü\\'
    analysis = replace(
        base,
        classes=ClassTree((CellClass((odd,), (1, 2, 3)), *base.classes.ends[1:])),
        models=(base.models[0], replace(base.models[1], name=odd), base.models[2]),
    )

    assert check_feature_collection(encoded(analysis)) == 5
    properties = parsed(analysis)["features"][0]["properties"]
    assert properties["classification"]["name"] == odd
    assert f"{odd} Immune probability" in properties["measurements"]


def test_ids_stay_between_runs_and_change_with_what_made_the_cells() -> None:
    """Ids are the same in any region; another slide, pipeline, model, threshold or mpp changes them."""
    base = make_analysis(20)

    def ids(analysis: Analysis) -> set[str]:
        return {feature["id"] for feature in parsed(analysis)["features"]}

    same = (replace(base, timings_s={}), replace(base, region_l0=Box(0, 0, 5000, 5000)))
    others = (
        replace(base, pipeline="other"),
        replace(base, thresholds={"nuclei": 0.4}),
        replace(base, mpp=0.51),
        replace(base, facts=replace(base.facts, content_id="f" * 64)),
        replace(base, models=(replace(base.models[0], sha256="d" * 64), *base.models[1:])),
    )
    assert all(ids(one) == ids(base) for one in same)
    assert all(not ids(other) & ids(base) for other in others)


def test_the_collection_says_where_it_came_from() -> None:
    """The member `slidecascade` holds region, models, thresholds, counts, every failed tile, and the notice."""
    failed = FailedTile(Box(1000, 2000, 256, 256), "the network returned NaN")
    analysis = make_analysis(7, failed=(failed,))
    member = parsed(analysis)["slidecascade"]

    assert set(member) == {
        "coordinate_space", "region", "mpp", "pipeline", "models", "thresholds", "tiles", "counts",
        "research_use_only", "slide", "facts", "kind", "warnings", "origin", "object_diameter_px", "options",
        "area_fractions",
    }  # fmt: skip
    assert (member["object_diameter_px"], member["options"]) == (None, {"tta": "none"})
    assert member["slide"] == {"content_id": "e" * 64, "bounds": None}
    assert member["facts"] == {
        "field": "bright", "glass_minimum": 210, "glass_spread": 20, "channels": {}, "stain": None,
    }  # fmt: skip
    assert member["research_use_only"] == wire.RESEARCH_USE_ONLY
    assert member["region"] == {"x": 1000, "y": 2000, "width": 800, "height": 600}
    assert member["coordinate_space"] == "level0-pixels"
    assert member["mpp"] == 0.5
    assert member["kind"] == "cells"
    assert member["counts"] == analysis.counts
    assert [model["role"] for model in member["models"]] == ["segmenter", "classifier", "classifier"]
    assert member["models"][0] == {
        "name": "nuclei", "version": 1, "sha256": "a" * 64, "role": "segmenter", "mpp": 0.5, "downsample": 1.0,
    }  # fmt: skip
    assert member["tiles"] == {
        "total": 12,
        "background": 3,
        "failed": [{"x": 1000, "y": 2000, "width": 256, "height": 256, "reason": "the network returned NaN"}],
    }
    assert Provenance.model_validate(member).tiles.failed[0].reason == failed.reason


def test_coordinates_are_level_0_with_two_decimals() -> None:
    """Outlines are rounded, not moved, and closed; a tiny negative coordinate is a plain zero."""
    base = make_analysis(1, vertices=3)
    outline = np.array([[-0.001, 10.004], [20.126, 10.0], [1e5 + 0.333, 2e5]])
    analysis = replace(base, instances=replace(base.instances, vertices=outline))

    text = encoded(analysis)

    assert b"[[[0.0,10.0],[20.13,10.0],[100000.33,200000.0],[0.0,10.0]]]" in text
    assert check_feature_collection(text) == 1


@pytest.mark.parametrize("field", ["vertices", "areas", "scores"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cells_that_are_not_finite_are_refused_before_the_first_byte(field: str, bad: float) -> None:
    """An outline, area or score that is NaN is an error, not a broken file."""
    base = make_analysis(3)
    array = getattr(base.instances, field).copy()
    array.flat[-1] = bad

    with pytest.raises(ModelFailedError, match="not a finite number"):
        geojson.encode(replace(base, instances=replace(base.instances, **{field: array})))


def test_the_region_of_the_made_analysis_holds_its_cells() -> None:
    """The coordinates in the file lie where the region is, not at the origin of a tile."""
    rings = [feature["geometry"]["coordinates"][0] for feature in parsed(make_analysis(30))["features"]]
    points = np.concatenate([np.array(ring) for ring in rings])

    assert REGION_L0.inflated(20).contains(points).all()
