"""What areas are answered as."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from qupath import check_importable
from slidecascade.areas.result import AreasResult
from slidecascade.geometry import Box
from slidecascade.outputs.areas.encoders import encode_geojson, files, heatmaps_of, summarise
from slidecascade.outputs.areas.rle import rle_csv, runs
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, Part
from toy_kinds import FACTS, ToyKinds, coloured

WIDTH, HEIGHT = 240, 200


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyKinds:
    return ToyKinds(tmp_path_factory.mktemp("toy"))


def found(toy: ToyKinds, *, mpp: float = 0.5, region_l0: Box | None = None, seed: int = 2) -> AreasResult:
    result = toy.run("toy-areas", coloured(seed, WIDTH, HEIGHT, 6), mpp=mpp, region_l0=region_l0)
    assert isinstance(result, AreasResult)
    return result


def slow_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Pixel by pixel down the columns."""
    numbers: list[int] = []
    before = False
    for place, value in enumerate(mask.T.ravel().tolist(), start=1):
        if value and not before:
            numbers += [place, 0]
        if value:
            numbers[-1] += 1
        before = value
    return numbers


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_those_of_the_enlarged_mask(seed: int) -> None:
    """Pixels of any width and height; runs go on from the end of a column to the next."""
    rng = np.random.default_rng(seed)
    mask = rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 9)))) < rng.choice([0.3, 0.8, 1.0])
    y, x = (np.append(0, np.cumsum(rng.integers(0, 4, length))) for length in mask.shape)
    large = mask.repeat(np.diff(y), axis=0).repeat(np.diff(x), axis=1)

    starts, lengths = runs(mask, x, y, large.shape[0])

    assert np.stack([starts, lengths], axis=1).ravel().tolist() == slow_runs(large)


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.31])
@pytest.mark.parametrize("region", [None, Box(13, 7, 100, 90)])
def test_run_lengths_count_level0_pixels_of_the_region(toy: ToyKinds, mpp: float, region: Box | None) -> None:
    """A level-0 pixel is that of the mask's pixel that holds its middle."""
    result = found(toy, mpp=mpp, region_l0=region)
    region = result.region_l0
    rows = list(csv.DictReader(io.StringIO(b"".join(rle_csv(result)).decode())))
    assert [row["id"] for row in rows] == ["Red", "Green"]
    x, y = (
        np.floor((np.arange(start, start + count) + 0.5) / result.grid.downsample).astype(int)
        for start, count in ((region.x, region.width), (region.y, region.height))
    )
    columns = np.clip(x - result.box.x, 0, result.box.width - 1)
    lines = np.clip(y - result.box.y, 0, result.box.height - 1)
    for number, row in enumerate(rows, start=1):
        expected = (result.mask == number)[np.ix_(lines, columns)]
        assert list(map(int, row["encoding"].split())) == slow_runs(expected)


def test_features_are_annotations_that_qupath_imports(toy: ToyKinds) -> None:
    """As many as areas, with holes, ids and areas; the id is the same whatever coordinates count from."""
    result = found(toy)
    text = b"".join(encode_geojson(result))
    assert check_importable(text) == len(result.rings) > 3
    document = json.loads(text)
    assert document["slidecascade"]["kind"] == "areas"
    for index, feature in enumerate(document["features"]):
        rings = feature["geometry"]["coordinates"]
        assert len(rings) == result.rings.piece_offsets[index + 1] - result.rings.piece_offsets[index]
        area = feature["properties"]["measurements"]["Area µm^2"]
        assert area == pytest.approx(result.areas_px[index] * 0.25)
        assert feature["properties"]["objectType"] == "annotation"
    facts = replace(FACTS, bounds_l0=Box(10, 20, 100, 100))
    moved = json.loads(b"".join(encode_geojson(replace(result, facts=facts, origin="bounds"))))
    for one, other in zip(document["features"], moved["features"], strict=True):
        assert one["id"] == other["id"]
        ring, shifted = (np.array(item["geometry"]["coordinates"][0]) for item in (one, other))
        np.testing.assert_allclose(ring - (10, 20), shifted)


def test_an_area_is_measured(toy: ToyKinds) -> None:
    """Area, the diameter of the circle of that area, roundness, and the mean probability of its class."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[20:60, 20:70] = (230, 40, 40)
    result = toy.run("toy-areas", image)
    assert isinstance(result, AreasResult)
    (feature,) = json.loads(b"".join(encode_geojson(result)))["features"]
    measured = feature["properties"]["measurements"]
    assert measured == {
        "Area µm^2": 500.0, "Equivalent diameter µm": 25.23, "Roundness": 0.764, "Mean probability": 1.0,
    }  # fmt: skip
    unknown = replace(result, probabilities=np.array([np.nan]))
    (feature,) = json.loads(b"".join(encode_geojson(unknown)))["features"]
    assert set(feature["properties"]["measurements"]) == {"Area µm^2", "Equivalent diameter µm", "Roundness"}


def test_the_summary_counts_and_measures(toy: ToyKinds) -> None:
    """Areas and their part of the tissue, by class; the legend of the map in its colours."""
    result = found(toy)
    summary = summarise(result, heatmaps_of(result), Colormap.JET)
    assert summary.areas is not None
    assert summary.tissue_area_mm2 is not None
    assert sum(item.count for item in summary.areas.values()) == len(result.rings)
    red = summary.areas["Red"]
    assert red.area_mm2 == pytest.approx((result.mask == 1).sum() * 0.25e-6, abs=1e-6)
    assert red.tissue_share == pytest.approx(red.area_mm2 / summary.tissue_area_mm2, rel=0.01)
    assert [legend.colormap for legend in summary.heatmaps] == ["jet"]


def test_a_heatmap_shows_the_part_that_a_class_covers(toy: ToyKinds) -> None:
    """Of squares of 32 px counted from the region's corner; nothing where there is glass."""
    image = np.full((HEIGHT, WIDTH, 3), (230, 190, 210), np.uint8)
    image[:, 160:] = 255
    cv2.rectangle(image, (32, 32), (63, 47), (230, 40, 40), -1)
    result = toy.run("toy-areas", image)
    assert isinstance(result, AreasResult)
    (heatmap,) = heatmaps_of(result)
    assert heatmap.values.shape == (7, 8)
    assert heatmap.values[1, 1] == pytest.approx(0.5)
    assert np.nansum(heatmap.values) == pytest.approx(0.5)
    assert np.isnan(heatmap.values[:, 6:]).all()


@pytest.mark.parametrize("region", [Box(5, 5, 1, 1), Box(239, 199, 1, 1)])
def test_a_region_without_a_pixel_of_its_own_is_answered(toy: ToyKinds, region: Box) -> None:
    """Where the network's pixels are larger than the region, there may be none whose middle lies in it."""
    result = found(toy, mpp=0.1, region_l0=region)
    assert b"".join(rle_csv(result)).count(b"\n") == 3
    assert b"".join(encode_geojson(result)).endswith(b"]}\n")
    assert heatmaps_of(result)[0].values.shape == (1, 1)


@pytest.mark.parametrize("without", [{"figures"}, {"overlay"}, {"overlay", "figures", "heatmaps"}])
def test_pictures_can_be_left_out_of_the_files(toy: ToyKinds, without: set[Part]) -> None:
    """Those that are named, and no others."""
    result = found(toy)
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    everything = [name for name, _ in files(result, lambda _: (image, 1.0), Drawing()).small]
    drawing = Drawing(without=frozenset(without))
    kept = [name for name, _ in files(result, lambda _: (image, 1.0), drawing).small]
    assert kept == [name for name in everything if name.split("/")[0].split(".")[0] not in without]
    assert len(kept) < len(everything)
