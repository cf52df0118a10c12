"""Evaluation of patches: truth from masks, and figures against scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import toy_kinds
from slidecascade.analysis.analyser import Analyser
from slidecascade.errors import InvalidRequestError, UnusableDataError
from slidecascade.geometry import Box, Size
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from slidecascade_evaluation import patches
from slidecascade_evaluation.curves import Curve, Froc
from slidecascade_evaluation.lattice import find_masked, positive_squares
from slidecascade_render.slides import write_pyramid


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 300), digits=st.integers(1, 6))
def test_areas_and_precisions_are_those_of_scikit_learn(seed: int, count: int, digits: int) -> None:
    """With and without ties."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.3
    truth[:2] = (True, False)
    values = np.round(np.clip(rng.random(count) + 0.3 * truth, 0, 1), digits)
    curve = Curve.of(truth, values)
    assert curve.roc_auc == pytest.approx(metrics.roc_auc_score(truth, values))
    assert curve.average_precision == pytest.approx(metrics.average_precision_score(truth, values))


def test_points_of_one_kind_have_no_area() -> None:
    """NaN, and not a number that looks like one."""
    assert np.isnan(Curve.of(np.zeros(5, np.bool_), np.linspace(0, 1, 5)).roc_auc)
    assert np.isnan(Curve.of(np.zeros(0, np.bool_), np.zeros(0)).average_precision)


def test_lesions_are_found_once_and_other_detections_are_false() -> None:
    """Two lesions, one of them found, and two detections elsewhere, on one of two slides."""
    truth = np.zeros((9, 9), np.bool_)
    truth[1:3, 1:3] = truth[6:8, 6:8] = True
    found = np.full((9, 9), 0.1)
    found[2, 2], found[1, 1], found[0, 7], found[8, 0] = 0.9, 0.9, 0.8, 0.6
    found[4, 4] = np.nan
    froc = Froc.of([truth, np.zeros_like(truth)], [found, np.full((9, 9), 0.2)])
    assert froc.lesions == 2
    assert froc.at(0.25) == 0.5
    at = dict(zip(np.round(np.arange(0.99, 0.0, -0.01), 2).tolist(), froc.false_positives.tolist(), strict=True))
    assert (at[0.85], at[0.7], at[0.5]) == (0.0, 0.5, 1.0)
    assert 0.5 <= froc.score <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), side=st.sampled_from([7.0, 16.0, 21.3]), width=st.integers(20, 90))
def test_a_square_is_positive_when_any_pixel_of_it_is(
    tmp_path_factory: pytest.TempPathFactory, seed: int, side: float, width: int
) -> None:
    """As pixel by pixel; the last squares may reach beyond the mask."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((50, width)) < 0.01).astype(np.uint8)
    path = tmp_path_factory.mktemp("mask") / "a_mask.png"
    cv2.imwrite(str(path), mask)
    columns, rows = (int(np.ceil(length / side)) for length in (width, 50))
    edges = [[step * side for step in range(count + 1)] for count in (columns, rows)]
    found = positive_squares(path, Size(width, 50), edges[0], edges[1])
    expected = np.zeros((rows, columns), np.bool_)
    for y, x in np.argwhere(mask).tolist():
        row = next(index for index in range(rows) if y < np.rint(edges[1][index + 1]))
        column = next(index for index in range(columns) if x < np.rint(edges[0][index + 1]))
        expected[row, column] = True
    np.testing.assert_array_equal(found, expected)


def test_a_mask_may_be_a_pyramid(tmp_path: Path) -> None:
    """Read in strips; grey levels of compressed masks are compared with a number."""
    mask = np.zeros((300, 420), np.uint8)
    mask[90:200, 100:260] = 255

    def draw(*, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        part = mask[y_px : y_px + height_px, x_px : x_px + width_px]
        return np.repeat(part[:, :, None], 3, axis=2)

    write_pyramid(tmp_path / "a_mask.tif", draw, 420, 300, mpp=0.5)
    edges = [[32.0 * step for step in range(count + 1)] for count in (14, 10)]
    found = positive_squares(tmp_path / "a_mask.tif", Size(420, 300), edges[0], edges[1], above=127)
    expected = np.zeros((10, 14), np.bool_)
    expected[2:7, 3:9] = True
    np.testing.assert_array_equal(found, expected)


def feature(name: str, *rings: Sequence[Sequence[float]]) -> dict[str, object]:
    closed = [[*ring, ring[0]] for ring in rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": closed},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def write_polygons(path: Path, *features: dict[str, object]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), side=st.sampled_from([7.0, 16.0, 21.3]))
def test_polygons_are_positive_where_their_pixels_are(
    tmp_path_factory: pytest.TempPathFactory, seed: int, side: float
) -> None:
    """As pixel by pixel with shapely's test of points, holes left out, one class alone where it is named."""
    shapely = pytest.importorskip("shapely", reason="the [dev] extra is not installed")
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    star = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(12, 45, (12, 1)) + (60, 40)
    hole = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 9 + (60, 40)
    other = [[100.2, 5.1], [118.4, 5.1], [118.4, 30.9]]
    path = write_polygons(
        tmp_path_factory.mktemp("polygons") / "a.geojson",
        feature("Tumour", star.tolist(), hole.tolist()),
        feature("Necrosis", other),
    )
    columns, rows = int(np.ceil(120 / side)), int(np.ceil(80 / side))
    x, y = ([step * side for step in range(count + 1)] for count in (columns, rows))
    middles = np.stack(np.meshgrid(np.arange(120) + 0.5, np.arange(80) + 0.5), axis=-1).reshape(-1, 2)
    for name, shapes in (("Tumour", [star]), (None, [star, np.array(other)])):
        mask = np.zeros(80 * 120, np.bool_)
        for shape in shapes:
            mask |= shapely.contains_xy(shapely.Polygon(shape, [hole] if shape is star else None), middles)
        png = path.with_name("a_mask.png")
        cv2.imwrite(str(png), mask.reshape(80, 120).astype(np.uint8))
        found = positive_squares(path, Size(120, 80), x, y, class_name=name)
        np.testing.assert_array_equal(found, positive_squares(png, Size(120, 80), x, y))


def test_polygons_count_from_the_scanned_part_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    """As QuPath shows slides with bounds; a file without polygons is a slide without positives."""
    square = feature("Tumour", [[0, 0], [10, 0], [10, 10], [0, 10]])
    edges = [0.0, 20.0, 40.0]
    path = write_polygons(tmp_path / "a.geojson", square)
    bounds = Box(20, 20, 15, 15)
    assert np.argwhere(positive_squares(path, Size(40, 40), edges, edges)).tolist() == [[0, 0]]
    assert np.argwhere(positive_squares(path, Size(40, 40), edges, edges, bounds_l0=bounds)).tolist() == [[1, 1]]
    path.write_text(path.read_text().replace("{", '{"slidecascade": {"origin": "slide"}, ', 1), encoding="utf-8")
    assert np.argwhere(positive_squares(path, Size(40, 40), edges, edges, bounds_l0=bounds)).tolist() == [[0, 0]]
    assert not positive_squares(write_polygons(tmp_path / "b.geojson"), Size(40, 40), edges, edges).any()


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    folder = tmp_path_factory.mktemp("toy")
    toy_kinds.write_models(folder / "models")
    toy_kinds.write_pipelines(folder / "pipelines", toy_kinds.PATCHES, toy_kinds.AREAS)
    fields = {"models_dir": folder / "models", "pipelines_dir": folder / "pipelines", "threads": 2}
    made = Analyser(Settings.model_validate(fields), observer=Silent())
    yield made
    made.close()


def write_pair(folder: Path, name: str, *, mask_px: tuple[int, int] = (200, 260)) -> None:
    image = np.full((200, 260, 3), toy_kinds.TISSUE, np.uint8)
    image[100:, 160:] = 0
    image[:, :40] = 255
    mask = np.zeros(mask_px, np.uint8)
    mask[100:, 160:] = 255
    cv2.imwrite(str(folder / f"{name}.png"), image[:, :, ::-1])
    cv2.imwrite(str(folder / f"{name}_mask.png"), mask)


def test_a_perfect_map_scores_one(analyser: Analyser, tmp_path: Path) -> None:
    """Dark tissue is what the toy network finds and the mask says; plots and JSON are written."""
    write_pair(tmp_path, "first")
    write_pair(tmp_path, "second")
    trial = patches.run_patches(analyser, "toy-patches", tmp_path, mpp=0.5)
    document = patches.document(trial)
    assert document["tissue_points"]["roc_auc"] > 0.95
    assert document["all_points"]["points"] > document["tissue_points"]["points"]
    assert document["lesions"] == 2
    assert document["sensitivity_at_false_positives_per_slide"]["0.25"] == 1.0
    assert json.loads(json.dumps(document)) == document
    assert "first.png" in patches.table(trial)
    plots = patches.plots(trial)
    assert set(plots) == {
        *("roc.png", "precision_recall.png", "froc.png"),
        *("slide-first.png.png", "slide-second.png.png"),
    }


def test_polygons_stand_in_for_a_mask(analyser: Analyser, tmp_path: Path) -> None:
    """The same figures from a mask and from its outline in GeoJSON, where their class is named."""
    write_pair(tmp_path, "first")
    from_mask = patches.document(patches.run_patches(analyser, "toy-patches", tmp_path, mpp=0.5))
    (tmp_path / "first_mask.png").unlink()
    outline = [[160, 100], [260, 100], [260, 200], [160, 200]]
    glass = [[0, 0], [40, 0], [40, 200], [0, 200]]
    write_polygons(tmp_path / "first.geojson", feature("Tumour", outline), feature("Glass", glass))
    found = patches.run_patches(analyser, "toy-patches", tmp_path, mpp=0.5, polygons="Tumour")
    assert patches.document(found) == from_mask
    every = patches.document(patches.run_patches(analyser, "toy-patches", tmp_path, mpp=0.5))
    assert every["all_points"]["positives"] > from_mask["all_points"]["positives"]


def test_wrong_masks_and_pipelines_are_rejected(analyser: Analyser, tmp_path: Path) -> None:
    """A sentence that names the file and the remedy."""
    with pytest.raises(UnusableDataError, match="no slides with masks"):
        find_masked(tmp_path)
    write_pair(tmp_path, "first", mask_px=(201, 260))
    with pytest.raises(UnusableDataError, match="260 x 201 px and its slide 260 x 200"):
        patches.run_patches(analyser, "toy-patches", tmp_path, mpp=0.5)
    (tmp_path / "first_mask.png").unlink()
    with pytest.raises(UnusableDataError, match=r"first\.png has no mask: put first_mask\.tif"):
        find_masked(tmp_path)
    write_pair(tmp_path, "first")
    with pytest.raises(InvalidRequestError, match="of the kind areas"):
        patches.run_patches(analyser, "toy-areas", tmp_path, mpp=0.5)
    cv2.imwrite(str(tmp_path / "first.png"), np.full((200, 260, 3), 255, np.uint8))
    with pytest.raises(InvalidRequestError, match="holds tissue"):
        patches.run_patches(analyser, "toy-patches", tmp_path, mpp=0.5)
