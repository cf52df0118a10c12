"""Parts on disk: whole or absent, readable by others, never made twice, settled where fields meet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from made_analysis import make_instances
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.instances import Instances
from slidecascade.cells.tile_result import TileResult
from slidecascade.errors import ModelFailedError, TilesFailedError, UnreadablePartError
from slidecascade.geometry import Box
from slidecascade.jobs.cells import FieldResult
from slidecascade.jobs.collect import CellsSurvey, Collection
from slidecascade.jobs.fields import Field
from slidecascade.kinds.tile_result import TileFailure
from slidecascade.outputs.cells import geojson, geoparquet
from surveyed import collected, run_all, survey_of, toy_analyser
from toy_pipeline import ToyPipeline, blobs

IMAGE = blobs(7, 400, 300, 80)


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    analyser = toy_analyser(ToyPipeline(tmp_path_factory.mktemp("toy")))
    yield analyser
    analyser.close()


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time of change: what was written again differs."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_other_programs_read_the_files_as_they_are(analyser: Analyser, tmp_path: Path) -> None:
    """geopandas and pyarrow: polygons, boxes, classes, probabilities and ids are those of the GeoJSON."""
    survey = survey_of(analyser, IMAGE, tmp_path / "parts")
    collection = collected(survey)
    collection.write(tmp_path, None)
    features = orjson.loads(b"".join(collection.geojson()))["features"]

    frame = geopandas.read_parquet(tmp_path / "cells.parquet")

    assert frame.crs is None
    assert list(frame["id"]) == [feature["id"] for feature in features]
    assert list(frame["class"]) == [feature["properties"]["classification"]["name"] for feature in features]
    assert frame.geometry.is_valid.mean() > 0.9
    ring = np.array(frame.geometry.iloc[0].exterior.coords)
    np.testing.assert_allclose(ring, features[0]["geometry"]["coordinates"][0], atol=0.005)
    boxes = pq.read_table(tmp_path / "cells.parquet")["bbox"].to_pylist()
    np.testing.assert_allclose(frame.geometry.iloc[5].bounds, list(boxes[5].values()))
    name = "toy-classifier Red probability"
    np.testing.assert_allclose(
        frame[name], [feature["properties"]["measurements"][name] for feature in features], atol=6e-5
    )
    few = geopandas.read_parquet(tmp_path / "cells.parquet", bbox=(0, 0, 60, 60))
    assert 0 < len(few) < len(frame)
    one = geopandas.read_parquet(tmp_path / "parts" / "00000.parquet")
    assert set(one["id"]) <= set(frame["id"])
    metadata = pq.read_schema(tmp_path / "cells.parquet").metadata
    assert orjson.loads(metadata[b"geo"])["primary_column"] == "geometry"
    assert orjson.loads(metadata[b"slidecascade"])["counts"] == collection.counts


def test_a_table_gives_back_its_cells(analyser: Analyser, tmp_path: Path) -> None:
    """Bit for bit, probabilities that are missing included."""
    survey = survey_of(analyser, IMAGE, tmp_path / "parts")
    portion = next(collected(survey).portions())
    cells, classes = geoparquet.cells_of(geoparquet.table(portion), survey.blank)
    np.testing.assert_array_equal(classes, portion.class_index)
    for name in ("centroids", "areas", "scores", "vertices", "offsets"):
        np.testing.assert_array_equal(getattr(cells, name), getattr(portion.instances, name))
    for ours, theirs in zip(cells.probabilities, portion.instances.probabilities, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_field_that_is_done_is_not_run_again(analyser: Analyser, tmp_path: Path) -> None:
    """A second survey of the same folder finds every part and touches none."""
    run_all(survey_of(analyser, IMAGE, tmp_path / "parts"))
    before = files_of(tmp_path / "parts")
    again = survey_of(analyser, IMAGE, tmp_path / "parts")
    assert all(report is not None for _, report in again.reports())
    run_all(again)
    assert files_of(tmp_path / "parts") == before


@pytest.mark.parametrize("suffix", ["parquet", "edge", "json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "absent"])
def test_a_damaged_part_is_redone(analyser: Analyser, tmp_path: Path, suffix: str, damage: str) -> None:
    """Whichever of a field's files it is: that field is run again, the others are not, the cells are the same."""
    survey = survey_of(analyser, IMAGE, tmp_path / "parts")
    expected = b"".join(collected(survey).geojson())
    path = tmp_path / "parts" / f"00001.{suffix}"
    data = path.read_bytes()
    path.unlink()
    if damage != "absent":
        middle = len(data) // 2
        path.write_bytes(
            data[:middle] if damage == "truncated" else data[:middle] + b"\xff\xfe" + data[middle + 2 :]
        )

    again = survey_of(analyser, IMAGE, tmp_path / "parts")
    assert [field.index for field, report in again.reports() if report is None] == [1]
    assert b"".join(collected(again).geojson()) == expected


@pytest.mark.parametrize(
    "other", [{"thresholds": {"toy-classifier": 0.7}}, {"mpp": 0.4}, {"tile_px": 80}, {"field_tiles": 3}]
)
def test_parts_of_another_plan_are_not_used(analyser: Analyser, tmp_path: Path, other: dict[str, object]) -> None:
    """Whatever changes the cells or the fields begins the folder anew; so does another image."""
    run_all(survey_of(analyser, IMAGE, tmp_path / "parts"))
    assert all(
        report is None
        for _, report in survey_of(analyser, IMAGE, tmp_path / "parts", **other).reports()  # type: ignore[arg-type]
    )
    run_all(survey_of(analyser, IMAGE, tmp_path / "parts"))
    other_image = survey_of(analyser, blobs(8, 400, 300, 80), tmp_path / "parts")
    assert all(report is None for _, report in other_image.reports())


def test_a_part_that_goes_while_it_is_collected_is_reported(analyser: Analyser, tmp_path: Path) -> None:
    """No file without its cells is written."""
    survey = survey_of(analyser, IMAGE, tmp_path / "parts")
    collection = collected(survey)
    (tmp_path / "parts" / "00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnreadablePartError, match="Part 1"):
        collection.write(tmp_path / "out", None)
    assert not list((tmp_path / "out").iterdir())


def discs(survey: CellsSurvey, places: NDArray[np.float64]) -> Instances:
    """Round cells that the first classifier has seen and the second has not."""
    first, second = (len(model.classes) for model in survey.blank.models[1:])
    seen = np.eye(first, dtype=np.float32)[np.ones(len(places), np.int64)]
    return make_instances(places, np.full(len(places), 8.0), vertices=24).with_probabilities(
        seen, np.full((len(places), second), np.nan, np.float32)
    )


def planted(
    survey: CellsSurvey, cells: dict[int, list[tuple[float, float]]], handed: dict[int, list[int]]
) -> CellsSurvey:
    """`survey` with round cells at given places of fields; those that `handed` counts are not owned."""
    for field in survey.fields:
        places = np.array(cells.get(field.index, []), np.float64).reshape(-1, 2)
        found = discs(survey, places)
        others = np.isin(np.arange(len(places)), handed.get(field.index, []))
        plant(survey, field, found.take(~others), found.take(others))
    return survey


def plant(survey: CellsSurvey, field: Field, kept: Instances, others: Instances, *, at_edge: bool = True) -> None:
    rows, columns = -(-field.core.height // 8), -(-field.core.width // 8)
    edge = TileResult(
        field.index,
        field.core,
        np.ones((rows, columns), np.bool_),
        others,
        np.zeros(len(others), np.bool_),
        np.ones(len(others), np.bool_),
        unstored_px=0.0,
    )
    ends = np.ones(len(kept), np.int64)
    result = FieldResult(field, kept, ends, np.full(len(kept), at_edge), edge, field.core.area, 0, ())
    survey.parts.write(result, replace(survey.blank, instances=kept, class_index=ends), {"read": 1.0})


def test_cells_at_the_edge_of_fields_are_there_once(analyser: Analyser, tmp_path: Path) -> None:
    """Owned by both neighbours: one stays. Handed over by both: one is adopted, and none where one owns it."""
    survey = survey_of(analyser, np.full((128, 256, 3), 255, np.uint8), tmp_path / "parts", field_tiles=1)
    first, second = survey.fields[0], survey.fields[1]
    x = float(first.core.right)
    planted(
        survey,
        {
            first.index: [(x - 1, 10), (x, 30), (x - 1, 50), (20, 20)],
            second.index: [(x + 1, 10), (x - 1, 30), (x, 50), (x + 30, 20)],
        },
        handed={first.index: [1], second.index: [1, 2]},
    )
    collection = collected(survey)
    found = np.concatenate([portion.instances.centroids for portion in collection.portions()])
    assert sorted(map(tuple, found)) == sorted([(x - 1, 10), (x, 30), (x - 1, 50), (20, 20), (x + 30, 20)])
    assert collection.cells == sum(collection.counts.values()) == 5
    assert len(orjson.loads(b"".join(collection.geojson()))["features"]) == 5
    collection.write(tmp_path / "out", None)
    assert pq.read_table(tmp_path / "out" / "cells.parquet").num_rows == 5


def test_failed_tiles_are_reported_by_place(analyser: Analyser, tmp_path: Path) -> None:
    """A partial answer lists each; when all failed there is no answer; a strict job runs such fields again."""
    image = np.full((256, 256, 3), 255, np.uint8)
    partial = survey_of(analyser, image, tmp_path / "parts", allow_partial=True, field_tiles=1)
    nothing = partial.blank.instances
    for field in partial.fields:
        plant(partial, field, nothing, nothing)
    field = partial.fields[1]
    edge = partial.parts.edge(1)
    failure = TileFailure(1, field.core, "model-failed: it did")
    result = FieldResult(field, nothing, np.zeros(0, np.int64), np.zeros(0, np.bool_), edge, 0, 0, (failure,))
    partial.parts.write(result, partial.blank, {})

    failed = collected(partial).analysis.tiles.failed
    assert [(tile.core_l0, tile.reason) for tile in failed] == [(field.core, "model-failed: it did")]
    strict = survey_of(analyser, image, tmp_path / "parts", field_tiles=1)
    assert [item.index for item, report in strict.reports() if report is None] == [1]
    reports = [report for _, report in partial.reports() if report is not None]
    with pytest.raises(TilesFailedError, match=r"All .* tiles failed"):
        Collection(partial, [reports[1]] * len(reports), seconds=0.0)


def test_tiles_that_fail_leave_no_part(
    analyser: Analyser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field whose tiles all fail raises their error, and is run when the network is back."""
    survey = survey_of(analyser, IMAGE, tmp_path / "parts")

    def broken(*_: object) -> None:
        raise ModelFailedError("The network failed.")

    runner = analyser._runner
    with monkeypatch.context() as patched:
        patched.setattr(type(runner), "run", broken)
        with pytest.raises(ModelFailedError):
            survey.run(survey.fields[0], Control())
    assert survey.parts.report(0) is None
    assert survey.run(survey.fields[0], Control()).cells > 0


_MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np
from surveyed import collected, survey_of, toy_analyser
from test_jobs_parts import discs, plant
from toy_pipeline import ToyPipeline

folder, populated = Path(sys.argv[1]), int(sys.argv[2])
analyser = toy_analyser(ToyPipeline(folder))
image = np.full((640, 640, 3), 255, np.uint8)
survey = survey_of(analyser, image, folder / "parts", field_tiles=1)
assert len(survey.fields) >= 64
rng = np.random.default_rng(1)
for field in survey.fields:
    count = 3000 if field.index < populated else 0
    core = field.core
    places = np.array([core.x, core.y]) + rng.uniform(0.2, 0.8, (count, 2)) * [core.width, core.height]
    found = discs(survey, places)
    plant(survey, field, found, found.take(np.arange(count) < 0), at_edge=False)
collection = collected(survey)
collection.write(folder / "out", None)
b"".join(b"" for _ in collection.zip(None, with_overlay=False))
analyser.close()
print(collection.cells, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


_ONE_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""So that the peak is of what is held, not of what several heaps happen to keep of it."""


def test_memory_does_not_grow_with_the_cells(tmp_path: Path) -> None:
    """Eight times the cells, in eight times the parts, are collected within the same memory."""
    peaks_mib = {}
    for populated in (8, 64):
        folder = tmp_path / str(populated)
        folder.mkdir()
        line = subprocess.run(
            [sys.executable, "-c", _MEASURED, str(folder), str(populated)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])} | _ONE_HEAP,
        ).stdout.split()
        peaks_mib[int(line[0])] = int(line[1])
    few, many = sorted(peaks_mib)
    assert many == 8 * few
    assert peaks_mib[many] - peaks_mib[few] < 20, peaks_mib


def test_ids_are_those_of_geojson(analyser: Analyser, tmp_path: Path) -> None:
    """One id function for both formats."""
    portion = next(collected(survey_of(analyser, IMAGE, tmp_path / "parts")).portions())
    written = [feature["id"] for feature in orjson.loads(b"".join(geojson.encode(portion)))["features"]]
    assert [item.decode() for item in geojson.cell_ids(portion)] == written
    assert Box(0, 0, 400, 300) == portion.region_l0
