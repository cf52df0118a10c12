"""The part of the tissue that a companion of a pipeline of cells covers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import toy_models
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.areas.result import AreasResult
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis, cells_of
from slidecascade.errors import PipelineSpecError
from slidecascade.models.repository import ModelPackage, load_repository
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.figure import Overviewed, outline_figure
from slidecascade.outputs.summary import text
from slidecascade.pipelines.cells import FILE, CellsPipeline
from slidecascade.pipelines.load import load_pipelines
from slidecascade.settings import bundled_models_dir
from surveyed import collected, png_of, survey_of, toy_analyser
from toy_pipeline import FIELDS, ToyPipeline, blobs

FRACTION = {"name": "red_share", "title": "Red over tissue", "model": "toy-mask", "class": "Red"}
WIDTH, HEIGHT = 620, 510


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    """`toy` with a companion, `plain` without, and `red`: the companion's network as a pipeline of areas."""
    toy = ToyPipeline(tmp_path_factory.mktemp("toy"))
    fields = toy_models.segmenter_fields(
        "toy-mask",
        head="semantic",
        mpp=1.0,
        halo_px=8,
        classes=[{"name": "Red", "color": [200, 0, 0]}],
        outputs=[toy_models.maps_fields("foreground")],
        options={"foreground": 0.5, "min_area_um2": 20.0},
    )
    toy_models.write_package(toy.models_dir, fields, toy_models.color_mask_segmenter(1))
    red = {"name": "red", "kind": "areas", "title": "R", "description": "R.", "segmenter": "toy-mask"}
    files = {
        "toy": FIELDS | {"area_fractions": [FRACTION]},
        "plain": FIELDS | {"name": "plain"},
        "red": red | {"heatmaps": [{"name": "red", "title": "R", "class": "Red"}]},
    }
    for name, content in files.items():
        (toy.pipelines_dir / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return toy


@pytest.fixture(scope="module")
def analyser(toy: ToyPipeline) -> Iterator[Analyser]:
    analyser = toy_analyser(toy)
    yield analyser
    analyser.close()


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Blobs on tissue with red droplets and specks of every size, some of them on glass."""
    rng = np.random.default_rng(3)
    picture = blobs(3, WIDTH, HEIGHT, count=200)
    picture[:, 380:] = 250
    for radius in (1, 2, 3, 4, 6, 15, 40):
        for x, y in rng.integers(0, (WIDTH, HEIGHT), (12 if radius < 9 else 3, 2)).tolist():
            cv2.circle(picture, (x, y), radius, (250, 150, 150), cv2.FILLED)
    return picture


def run(analyser: Analyser, image: NDArray[np.uint8], pipeline: str = "toy", **fields: Any) -> Any:
    request = wire.parse_request({"pipeline": pipeline, "mpp": 0.5, **fields})
    return analyser.analyse(request, png_of(image), Control()).analysis


def areas_um2(analysis: Analysis) -> tuple[float, float]:
    (share,) = analysis.area_shares
    return share.covered_um2, share.tissue_um2


@pytest.fixture(scope="module")
def whole(analyser: Analyser, image: NDArray[np.uint8]) -> Analysis:
    return cells_of(run(analyser, image))


def test_the_covered_area_is_that_of_a_pipeline_of_areas_with_the_network(
    analyser: Analyser, image: NDArray[np.uint8], whole: Analysis
) -> None:
    """Small areas are left out by the same rule, and what is far from tissue, too."""
    areas = run(analyser, image, "red")
    assert isinstance(areas, AreasResult)
    assert areas_um2(whole)[0] == areas.pixels["Red"] > 1000
    assert areas_um2(whole)[1] == pytest.approx(areas.tissue.mask.sum() * 64, rel=0.03)


@pytest.mark.parametrize("tile_px", [64, 100, 256])
def test_the_size_of_tiles_does_not_matter(
    analyser: Analyser, image: NDArray[np.uint8], whole: Analysis, tile_px: int
) -> None:
    """Droplets that seams cut, specks beside seams and tiles of glass count as in one tile."""
    assert areas_um2(run(analyser, image, tile_px=tile_px)) == areas_um2(whole)


def test_the_areas_of_regions_add_up(analyser: Analyser, image: NDArray[np.uint8], whole: Analysis) -> None:
    """A pixel belongs to the one region that holds its middle, wherever regions meet."""
    boxes = [(0, 0, 217, HEIGHT), (217, 0, WIDTH - 217, 133), (217, 133, WIDTH - 217, HEIGHT - 133)]
    parts = [
        areas_um2(run(analyser, image, region=dict(zip(("x", "y", "width", "height"), box, strict=True))))
        for box in boxes
    ]
    assert tuple(np.sum(parts, axis=0)) == areas_um2(whole)


def test_fields_of_a_job_add_up(
    analyser: Analyser, image: NDArray[np.uint8], whole: Analysis, tmp_path: Path
) -> None:
    """The two areas are kept with each field's part and stated by the job's summary and GeoJSON."""
    found = collected(survey_of(analyser, image, tmp_path))
    assert found.analysis.area_shares == whole.area_shares
    header = json.loads(b"".join(found.geojson()))["slidecascade"]
    assert header["area_fractions"]["red_share"]["numerator_mm2"] == round(areas_um2(whole)[0] / 1e6, 6)


def test_the_answer_states_both_areas_and_what_they_are(whole: Analysis) -> None:
    """Summary and GeoJSON name the class, the model and its role; cells and their classes are as before."""
    share = json.loads(text(summarise(whole)))["area_fractions"]["red_share"]
    covered, tissue = areas_um2(whole)
    assert share == {
        "title": "Red over tissue",
        "value": round(covered / tissue, 6),
        "numerator_mm2": round(covered / 1e6, 6),
        "denominator_mm2": round(tissue / 1e6, 6),
        "class_name": "Red",
        "model": "toy-mask",
    }
    header = json.loads(b"".join(geojson.encode(whole)))["slidecascade"]
    assert header["area_fractions"]["red_share"] == share
    assert [model["role"] for model in header["models"]] == ["segmenter", "classifier", "classifier", "companion"]


def test_figures_show_the_share_in_a_line_of_their_own(whole: Analysis, image: NDArray[np.uint8]) -> None:
    """The page is taller by a line than that of the same cells without a companion."""
    seen = Overviewed(image, 1.0)
    heights = []
    for result in (whole, replace(whole, area_shares=())):
        page = cv2.imdecode(np.frombuffer(outline_figure(result, seen, []), np.uint8), cv2.IMREAD_COLOR)
        assert page is not None
        heights.append(page.shape[0])
    assert 10 < heights[0] - heights[1] < 30


def test_a_companion_does_not_change_cells(analyser: Analyser, image: NDArray[np.uint8], whole: Analysis) -> None:
    """Outlines, classes and probabilities are those of the pipeline without it; so are ids, but for its name."""
    plain = cells_of(run(analyser, image, "plain"))
    np.testing.assert_array_equal(plain.instances.vertices, whole.instances.vertices)
    np.testing.assert_array_equal(plain.class_index, whole.class_index)
    lines = [b"".join(geojson.encode(replace(each, pipeline="same"))).splitlines() for each in (plain, whole)]
    assert lines[0][1:] == lines[1][1:]


def test_without_a_size_of_pixels_only_the_share_is_stated(
    whole: Analysis,
) -> None:
    """Nothing is in micrometres where nobody knows them."""
    share = (summarise(replace(whole, object_diameter_px=12.0)).area_fractions or {})["red_share"]
    assert share.value is not None
    assert (share.numerator_mm2, share.denominator_mm2) == (None, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"class": "Blue"}, "Blue"),
        ({"model": "toy-segmenter"}, "'toy-segmenter' is used twice"),
        ({"model": "toy-classifier"}, "used twice"),
        ({"model": "toy-objects"}, "makes no mask"),
    ],
)
def test_a_file_whose_companion_does_not_fit_is_rejected(
    toy: ToyPipeline, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    """One sentence names the pipeline and what to change."""
    fields = toy_models.segmenter_fields("toy-objects")
    models = tmp_path / "models"
    for folder in toy.models_dir.iterdir():
        (models / folder.name).parent.mkdir(exist_ok=True)
        (models / folder.name).symlink_to(folder)
    toy_models.write_package(models, fields, toy_models.darkness_segmenter())
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    file = FIELDS | {"name": "other", "area_fractions": [FRACTION | changes]}
    (pipelines / "other.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    with pytest.raises(PipelineSpecError, match=says):
        load_pipelines(load_repository(models), pipelines, (FILE,))


def test_bundled_pipelines_are_served_without_companions_that_are_not_there() -> None:
    """Who serves converted networks of `nash` alone has its cells; a file of their own must find its companion."""
    packages = load_repository(bundled_models_dir())
    assert [item.name for item in _nash(packages).area_fractions] == ["steatosis_area_fraction"]
    alone = {name: package for name, package in packages.items() if name != "liver-fat"}
    assert _nash(alone).area_fractions == ()


def _nash(packages: Mapping[str, ModelPackage]) -> CellsPipeline:
    return load_pipelines(packages, None, (FILE,))["nash"]
