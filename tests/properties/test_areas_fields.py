"""The areas of a slide worked on field by field are those of the slide analysed as one region."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy_kinds
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.areas import npz
from slidecascade.areas.result import AreasResult
from slidecascade.cancellation import Control
from slidecascade.errors import UnreadablePartError
from slidecascade.jobs.areas import AreasResults, AreasSurvey
from slidecascade.outputs.areas.encoders import encode_geojson, files, summarise
from slidecascade.outputs.encoders import Drawing
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from surveyed import png_of

WIDTH, HEIGHT = 700, 560


@pytest.fixture(scope="module", params=["classes", "overlapping"])
def analyser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    folder = tmp_path_factory.mktemp("toy")
    toy_kinds.write_models(folder / "models", mask_head=request.param)
    toy_kinds.write_pipelines(folder / "pipelines", toy_kinds.AREAS | {"min_area_um2": 30.0})
    fields = {"models_dir": folder / "models", "pipelines_dir": folder / "pipelines", "threads": 2}
    analyser = Analyser(Settings.model_validate(fields), observer=Silent())
    yield analyser
    analyser.close()


def survey_of(analyser: Analyser, seed: int, folder: Path, **fields: object) -> AreasSurvey:
    image = toy_kinds.coloured(seed, WIDTH, HEIGHT, 12)
    field_tiles = fields.pop("field_tiles", 2)
    request = wire.parse_request({"pipeline": "toy-areas", "mpp": 0.5, "tile_px": 128, **fields})
    task = analyser.prepare(request, png_of(image), Control(), is_bounded=False)
    return AreasSurvey(analyser, task, folder, field_tiles=int(str(field_tiles)))


def collected(survey: AreasSurvey) -> AreasResults:
    reports = [report or survey.run(field, Control()) for field, report in survey.reports()]
    return survey.collect(reports, seconds=1.0)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    corner=st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)),
    mpp=st.sampled_from([0.5, 0.25, 0.31]),
    field_tiles=st.integers(1, 3),
)
def test_fields_have_the_areas_of_the_region(
    analyser: Analyser, seed: int, corner: tuple[int, int], mpp: float, field_tiles: int
) -> None:
    """Any image, corner, resolution and size of fields: every run, feature and number."""
    x, y = corner
    region = {"x": x, "y": y, "width": WIDTH - x, "height": HEIGHT - y}
    with TemporaryDirectory() as folder:
        survey = survey_of(analyser, seed, Path(folder), field_tiles=field_tiles, region=region, mpp=mpp)
        ours = collected(survey).analysis
        whole = analyser.run(survey.task, Control()).analysis
    assert isinstance(whole, AreasResult)
    for name in ("columns", "tops", "bottoms", "labels"):
        np.testing.assert_array_equal(getattr(ours.runs, name), getattr(whole.runs, name))
    for name in ("class_index", "areas_px", "probabilities"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(whole, name))
    assert features_of(ours) == features_of(whole)
    volatile = {"timings_s", "tiles"}
    assert summarise(ours, ()).model_dump(exclude=volatile) == summarise(whole, ()).model_dump(exclude=volatile)


def features_of(result: AreasResult) -> object:
    return json.loads(b"".join(encode_geojson(result)))["features"]


def test_the_files_are_those_of_the_region(analyser: Analyser, tmp_path: Path) -> None:
    """Byte for byte, but for timings and numbers of tiles; `outputs` leaves some out."""
    survey = survey_of(analyser, 4, tmp_path / "parts", field_tiles=1)
    assert len(survey.fields) > 4
    results = collected(survey)
    report = analyser.run(survey.task, Control())
    results.write(tmp_path / "out", report.overview, gzip=False)
    assert isinstance(report.analysis, AreasResult)
    names = set()
    for name, content in files(report.analysis, report.overview, Drawing()).small:
        names.add(name)
        if name != "summary.json":
            assert (tmp_path / "out" / name).read_bytes() == content, name
    pictures = {"heatmaps/red.png", "figures/red.png", "overlay.png", "figures/overlay.png"}
    assert names == {"summary.json", "mask.tiff", "areas_rle.csv"} | pictures
    results.write(tmp_path / "few", report.overview, outputs={"rle"})
    assert {path.name for path in (tmp_path / "few").iterdir()} == {"areas_rle.csv", "summary.json", "overlay.png"}


def test_a_damaged_part_is_redone(analyser: Analyser, tmp_path: Path) -> None:
    """A part with other bytes than its report says is run again; one that goes later is reported."""
    survey = survey_of(analyser, 4, tmp_path / "parts", field_tiles=1)
    expected = features_of(collected(survey).analysis)
    path = tmp_path / "parts" / "00001.npz"
    path.write_bytes(path.read_bytes()[:-20])
    again = survey_of(analyser, 4, tmp_path / "parts", field_tiles=1)
    assert [field.index for field, report in again.reports() if report is None] == [1]
    with pytest.raises(UnreadablePartError, match="Part 1"):
        again.part(1)
    assert features_of(collected(again).analysis) == expected


def test_parts_of_another_smallest_area_are_not_used(analyser: Analyser, tmp_path: Path) -> None:
    """How far around the region is read depends on it."""
    assert survey_of(analyser, 4, tmp_path / "parts").recipe == repr(30.0)


def test_a_tile_survives_its_archive(analyser: Analyser, tmp_path: Path) -> None:
    """Number for number; other bytes are no tiles."""
    survey = survey_of(analyser, 4, tmp_path / "parts", field_tiles=1)
    collected(survey)
    tile = survey.part(2)
    assert len(tile.runs)
    data = npz.encode(tile)
    again = npz.decode(data)
    for name in ("columns", "tops", "bottoms", "labels"):
        np.testing.assert_array_equal(getattr(again.runs, name), getattr(tile.runs, name))
    for name in ("tissue", "piece_classes", "piece_sums", "is_inside"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tile, name))
    assert (again.index, again.core, again.edges) == (2, tile.core, tile.edges)
    for wrong in (b"", b"nothing", data[:80]):
        with pytest.raises(ValueError, match="damaged"):
            npz.decode(wrong)
