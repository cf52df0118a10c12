"""The lattice of a slide worked on field by field is that of the slide analysed as one region."""

from __future__ import annotations

import io
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
from slidecascade.cancellation import Control
from slidecascade.errors import UnreadablePartError
from slidecascade.geometry import Box
from slidecascade.jobs.patches import PatchesResults, PatchesSurvey
from slidecascade.jobs.table import open_survey
from slidecascade.kinds.table import KINDS
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.patches import geojson
from slidecascade.outputs.patches.encoders import files
from slidecascade.outputs.patches.summary import summarise
from slidecascade.patches import npz
from slidecascade.patches.result import PatchesResult
from slidecascade.patches.tile_result import PatchesTileResult
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from surveyed import png_of
from toy_pipeline import blobs

WIDTH, HEIGHT = 460, 380


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    folder = tmp_path_factory.mktemp("toy")
    toy_kinds.write_models(folder / "models")
    toy_kinds.write_pipelines(folder / "pipelines", toy_kinds.PATCHES)
    fields = {"models_dir": folder / "models", "pipelines_dir": folder / "pipelines", "threads": 2}
    analyser = Analyser(Settings.model_validate(fields), observer=Silent())
    yield analyser
    analyser.close()


def survey_of(analyser: Analyser, seed: int, folder: Path, **fields: object) -> PatchesSurvey:
    image = blobs(seed, WIDTH, HEIGHT, count=120)
    image[:, 330:400] = 255
    field_tiles = fields.pop("field_tiles", 2)
    request = wire.parse_request({"pipeline": "toy-patches", "mpp": 0.5, "tile_px": 64, **fields})
    task = analyser.prepare(request, png_of(image), Control(), is_bounded=False)
    return PatchesSurvey(analyser, task, folder, field_tiles=int(str(field_tiles)))


def collected(survey: PatchesSurvey) -> PatchesResults:
    reports = [report or survey.run(field, Control()) for field, report in survey.reports()]
    return survey.collect(reports, seconds=1.0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    corner=st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)),
    mpp=st.sampled_from([0.5, 0.25, 0.31, 0.8]),
    tile_px=st.integers(64, 200),
    field_tiles=st.integers(1, 3),
)
def test_fields_have_the_lattice_of_the_region(
    analyser: Analyser,
    seed: int,
    corner: tuple[int, int],
    mpp: float,
    tile_px: int,
    field_tiles: int,
) -> None:
    """Any image, corner, resolution, size of tiles and fields: every bit, feature and number."""
    x, y = corner
    region = {"x": x, "y": y, "width": WIDTH - x, "height": HEIGHT - y}
    with TemporaryDirectory() as folder:
        survey = survey_of(
            analyser, seed, Path(folder), field_tiles=field_tiles, region=region, mpp=mpp, tile_px=tile_px
        )
        ours = collected(survey).analysis
        whole = analyser.run(survey.task, Control()).analysis
    assert isinstance(whole, PatchesResult)
    np.testing.assert_array_equal(ours.probabilities, whole.probabilities)
    assert (ours.first, ours.counts) == (whole.first, whole.counts)
    assert b"".join(geojson.encode(ours)) == b"".join(geojson.encode(whole)).replace(
        tiles_of(whole), tiles_of(ours)
    )
    volatile = {"timings_s", "tiles"}
    assert summarise(ours, ()).model_dump(exclude=volatile) == summarise(whole, ()).model_dump(exclude=volatile)


def tiles_of(result: PatchesResult) -> bytes:
    """How the collection reports its tiles, whose number depends on the threads at hand."""
    head = next(geojson.encode(result))
    member = json.loads(head.decode() + "]}")["slidecascade"]["tiles"]
    return json.dumps(member, separators=(",", ":")).encode()


def test_the_files_are_those_of_the_region(analyser: Analyser, tmp_path: Path) -> None:
    """Byte for byte, but for timings and numbers of tiles; `outputs` leaves some out."""
    survey = survey_of(analyser, 4, tmp_path / "parts")
    results = collected(survey)
    report = analyser.run(survey.task, Control())
    results.write(tmp_path / "out", report.overview, gzip=False)
    assert isinstance(report.analysis, PatchesResult)
    made = files(report.analysis, report.overview, Drawing())
    for name, content in made.small:
        if name != "summary.json":
            assert (tmp_path / "out" / name).read_bytes() == content, name
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tiles"]["total"] == survey.tiles_total
    results.write(tmp_path / "few", report.overview, outputs={"grid"})
    assert {path.name for path in (tmp_path / "few").iterdir()} >= {"grid.csv", "summary.json"}
    assert not list((tmp_path / "few").glob("*geojson*"))
    assert not (tmp_path / "few" / "heatmaps").exists()


def test_a_damaged_part_is_redone(analyser: Analyser, tmp_path: Path) -> None:
    """A part with other bytes than its report says is run again; one that goes later is reported."""
    survey = survey_of(analyser, 4, tmp_path / "parts")
    expected = collected(survey).analysis.probabilities
    path = tmp_path / "parts" / "00001.npz"
    path.write_bytes(path.read_bytes()[:-20])
    again = survey_of(analyser, 4, tmp_path / "parts")
    known = list(again.reports())
    assert [field.index for field, report in known if report is None] == [1]
    with pytest.raises(UnreadablePartError, match="Part 1"):
        again.part(1)
    np.testing.assert_array_equal(collected(again).analysis.probabilities, expected)


def test_parts_of_another_threshold_are_not_used(analyser: Analyser, tmp_path: Path) -> None:
    """Another plan begins the folder anew."""
    collected(survey_of(analyser, 4, tmp_path / "parts"))
    other = survey_of(analyser, 4, tmp_path / "parts", thresholds={"toy-dark": 0.9})
    assert all(report is None for _, report in other.reports())


def test_a_tile_survives_its_archive() -> None:
    """Bit for bit, NaN included; other archives are no tiles."""
    tile = PatchesTileResult(
        3,
        Box(32, 0, 48, 16),
        np.array([[True, False]]),
        (2, 0),
        np.array([[[0.25], [np.nan], [1.0]]], np.float32),
        unstored_px=1.5,
    )
    again = npz.decode(npz.encode(tile))
    np.testing.assert_array_equal(again.probabilities, tile.probabilities)
    np.testing.assert_array_equal(again.tissue, tile.tissue)
    assert (again.index, again.core, again.first, again.unstored_px) == (3, tile.core, (2, 0), 1.5)
    other = io.BytesIO()
    np.savez(other, place=np.zeros(7))
    for data in (b"", npz.encode(tile)[:50], other.getvalue()):
        with pytest.raises(ValueError, match="damaged"):
            npz.decode(data)


def test_every_kind_of_survey_is_a_kind_of_pipeline(analyser: Analyser, tmp_path: Path) -> None:
    """The table opens the survey of the pipeline's kind."""
    request = wire.parse_request({"pipeline": "toy-patches", "mpp": 0.5})
    task = analyser.prepare(request, png_of(blobs(1, 64, 64, 9)), Control(), is_bounded=False)
    assert type(open_survey(analyser, task, tmp_path)).__name__.lower().startswith(task.pipeline.kind)
    assert task.pipeline.kind in KINDS
