"""What a lattice of patches is answered as."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import toy_models
from qupath import check_importable
from slidecascade.geometry import Box
from slidecascade.outputs import heatmap
from slidecascade.outputs.patches import geojson
from slidecascade.outputs.patches.csv import grid_csv
from slidecascade.outputs.patches.encoders import heatmaps_of
from slidecascade.outputs.patches.gridfiles import grid_npy, grid_tiff
from slidecascade.outputs.patches.summary import longest_l0, summarise
from slidecascade.patches.result import PatchesResult
from slidecascade.pipelines.classes import CellClass, ClassTree
from toy_kinds import FACTS, TISSUE, ToyKinds, rings_of
from toy_pipeline import blobs

WIDTH, HEIGHT = 300, 260


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyKinds:
    return ToyKinds(tmp_path_factory.mktemp("toy"))


def found(toy: ToyKinds, region_l0: Box | None = None) -> PatchesResult:
    image = blobs(4, WIDTH, HEIGHT, 60)
    image[100:, 150:] = 0
    image[:40, :60] = 255
    result = toy.run("toy-patches", image, region_l0=region_l0)
    assert isinstance(result, PatchesResult)
    return result


def test_features_are_tiles_and_annotations(toy: ToyKinds) -> None:
    """Squares on the lattice with their probabilities; the id is the same whatever coordinates count from."""
    result = found(toy)
    document = json.loads(b"".join(geojson.encode(result)))
    features = document["features"]
    tiles = [item for item in features if item["properties"]["objectType"] == "tile"]
    outlines = [item for item in features if item["properties"]["objectType"] == "annotation"]
    assert check_importable(json.dumps(outlines)) == len(result.outlines) == len(features) - len(tiles)
    assert len(tiles) == result.is_seen.sum()
    for item in tiles:
        corner = item["geometry"]["coordinates"][0][0]
        probability = result.probabilities[int(corner[1]) // 16, int(corner[0]) // 16, 0]
        assert item["properties"]["measurements"] == {
            "toy-dark Dark probability": pytest.approx(probability, abs=6e-5)
        }
        assert ("classification" in item["properties"]) == (probability >= 0.5)
    squares = [item["properties"]["measurements"] for item in outlines]
    assert sum(item["Tiles"] for item in squares) == result.counts["Dark"]
    assert all(item["Area µm^2"] <= item["Tiles"] * 64 for item in squares)

    facts = replace(FACTS, bounds_l0=Box(10, 20, 100, 100))
    moved = json.loads(b"".join(geojson.encode(replace(result, facts=facts, origin="bounds"))))["features"]
    assert [item["id"] for item in moved] == [item["id"] for item in features]
    for one, other in zip(features, moved, strict=True):
        rings = (np.array(item["geometry"]["coordinates"][0]) for item in (one, other))
        np.testing.assert_allclose(next(rings) - (10, 20), next(rings))


def test_the_grid_is_a_table(toy: ToyKinds) -> None:
    """Places in the slide's lattice, whatever region; with several classes a row and a name for each."""
    result = found(toy, Box(70, 50, 100, 90))
    rows = list(csv.DictReader(io.StringIO(b"".join(grid_csv(result)).decode())))
    assert len(rows) == result.is_seen.sum()
    for row in rows:
        x, y = int(row["x"]) - result.first[0], int(row["y"]) - result.first[1]
        assert float(row["probability"]) == pytest.approx(result.probabilities[y, x, 0], abs=6e-5)
    ends = (CellClass(("Dark",), (0, 0, 0)), CellClass(("Light, pale",), (9, 9, 9)))
    twice = replace(
        result,
        shown=(0, 1),
        probabilities=np.concatenate([result.probabilities, 1 - result.probabilities], axis=2),
        classes=ClassTree(ends),
    )
    both = list(csv.DictReader(io.StringIO(b"".join(grid_csv(twice)).decode())))
    assert len(both) == 2 * len(rows)
    assert {row["class"] for row in both} == {"Dark", "Light, pale"}


def test_a_heatmap_is_the_lattice_itself(toy: ToyKinds) -> None:
    """A region off the lattice shows the squares it cuts where they are; unknown is transparent."""
    result = found(toy, Box(10, 6, 100, 90))
    (computed,) = heatmaps_of(result)
    assert (computed.before_x_um, computed.before_y_um) == (5.0, 3.0)
    image = np.asarray(
        cv2.imdecode(np.frombuffer(heatmap.encode_png(computed), np.uint8), cv2.IMREAD_UNCHANGED), np.uint8
    )
    assert image.shape[:2] == (round(45 / computed.pixel_um), round(50 / computed.pixel_um))
    rows, columns = (
        (((np.arange(length) + 0.5) * computed.pixel_um + before) // 8).astype(int)
        for length, before in zip(image.shape[:2], (3, 5), strict=True)
    )
    known = ~np.isnan(computed.values)
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(image[:, :, 3] > 0, known[np.ix_(rows, columns)])


def test_the_summary_states_the_lattice(toy: ToyKinds) -> None:
    """How many squares were looked at, and which part of them is of a class."""
    result = found(toy, Box(70, 50, 100, 90))
    summary = summarise(result, heatmaps_of(result))
    assert summary.patches is not None
    assert (summary.patches.first_column, summary.patches.first_row) == result.first
    assert summary.patches.patch_um == 8
    assert summary.fractions["Dark"].denominator == summary.patches.patches == result.is_seen.sum()
    assert summary.fractions["Dark"].numerator == result.counts["Dark"]


def test_a_region_without_a_square_of_its_own_is_answered(toy: ToyKinds) -> None:
    """Smaller than a square, it may hold the middle of none."""
    result = found(toy, Box(0, 0, 3, 3))
    assert result.probabilities.shape[:2] == (0, 0)
    assert b"".join(grid_csv(result)) == b"x,y,probability\n"
    assert json.loads(b"".join(geojson.encode(result)))["features"] == []
    assert summarise(result, heatmaps_of(result)).patches is not None


def test_a_classifier_of_several_classes_may_outline_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every class is measured; counted and outlined are those that the pipeline names."""
    folder = tmp_path_factory.mktemp("several")
    fields = toy_models.classifier_fields("toy-color", 44, mpp=0.5, crop={"size_px": 44})
    toy_models.write_package(folder / "models", fields, toy_models.redness_classifier(44))
    toy = ToyKinds(
        folder,
        patches={
            "classifier": "toy-color",
            "outlines": ["Blue"],
            "heatmaps": [{"name": "red", "title": "Red", "class": "Red"}],
        },
    )
    result = found(toy)
    assert list(result.counts) == ["Blue"]
    first = json.loads(b"".join(geojson.encode(result)))["features"][0]
    assert list(first["properties"]["measurements"]) == [
        f"toy-color {name} probability" for name in ("Red", "Green", "Blue")
    ]
    assert heatmaps_of(result)[0].values[5, 5] == pytest.approx(result.probabilities[5, 5, 0])


def test_the_grid_is_an_array_and_a_picture_with_a_scale(toy: ToyKinds) -> None:
    """npy and TIFF hold the same float32 values, NaN off tissue; readers find the side of a square in the TIFF."""
    result = found(toy, Box(70, 50, 100, 90))
    values = np.load(io.BytesIO(grid_npy(result)))
    np.testing.assert_array_equal(values, result.probabilities[:, :, 0])
    data = grid_tiff(result)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), values)
        numerator, denominator = page.tags["XResolution"].value
        assert page.tags["ResolutionUnit"].value == 3
        assert 10_000 * denominator / numerator == pytest.approx(8.0)
        text = json.loads(page.tags["ImageDescription"].value)
    assert (text["first_column"], text["first_row"], text["class"], text["patch_um"]) == (
        *result.first,
        "Dark",
        8.0,
    )
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, values)
    pillow = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(pillow), values)


def test_several_classes_are_pages(toy: ToyKinds) -> None:
    """One for each class that is shown, with its name; the array has a last axis."""
    result = found(toy, Box(70, 50, 100, 90))
    ends = (CellClass(("Dark",), (0, 0, 0)), CellClass(("Light",), (9, 9, 9)))
    both = np.concatenate([result.probabilities, 1 - result.probabilities], axis=2)
    twice = replace(result, shown=(1, 0), probabilities=both, classes=ClassTree(ends))
    with tifffile.TiffFile(io.BytesIO(grid_tiff(twice))) as file:
        pages = [page.asarray() for page in file.pages]
        names = [json.loads(page.tags["ImageDescription"].value)["class"] for page in file.pages]
    assert names == ["Dark", "Light"]
    np.testing.assert_array_equal(np.stack(pages, axis=2), both[:, :, ::-1])
    np.testing.assert_array_equal(np.load(io.BytesIO(grid_npy(twice))), both[:, :, ::-1])


def test_the_summary_measures_what_is_above_the_threshold(toy: ToyKinds) -> None:
    """Area, share, maximum, percentile, outlines and the longest of them, against the grid itself."""
    image = np.full((HEIGHT, WIDTH, 3), TISSUE, np.uint8)
    image[30:70, 20:220] = 0
    image[150:230, 100:160] = 0
    result = toy.run("toy-patches", image)
    assert isinstance(result, PatchesResult)
    summary = summarise(result, ())
    assert summary.patches is not None
    dark = summary.patches.classes["Dark"]
    seen = result.probabilities[result.is_seen, 0]
    reached = seen >= result.threshold
    assert dark.area_mm2 == pytest.approx(reached.sum() * 64e-6)
    assert dark.share == pytest.approx(reached.mean(), abs=1e-6)
    assert (dark.maximum, dark.percentile_95) == pytest.approx((seen.max(), np.percentile(seen, 95)), abs=1e-4)
    assert dark.outlines == len(result.outlines) > 1
    longest = 0.0
    for piece in range(len(result.outlines)):
        points = np.concatenate(list(rings_of(result.outlines.rings, piece)))
        longest = max(longest, np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)).max())
    assert longest_l0(result.outlines, 0) == pytest.approx(longest)
    assert dark.largest_um == pytest.approx(longest * 0.5, abs=0.05)


def test_a_lattice_without_tissue_has_no_figures(toy: ToyKinds) -> None:
    """Null where there is nothing to measure."""
    glass = toy.run("toy-patches", np.full((200, 200, 3), 255, np.uint8))
    assert isinstance(glass, PatchesResult)
    summary = summarise(glass, ())
    assert summary.patches is not None
    dark = summary.patches.classes["Dark"]
    assert (dark.area_mm2, dark.share, dark.maximum, dark.percentile_95, dark.largest_um) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert np.isnan(np.load(io.BytesIO(grid_npy(glass)))).all()
