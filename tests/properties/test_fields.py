"""The cells of a slide worked on field by field are those of the slide analysed as one region."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box
from slidecascade.jobs.collect import CellsSurvey, Collection
from slidecascade.outputs.cells import geojson, heatmap, overlay, summary
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.figure import Overviewed
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.settings import Settings
from slidecascade.slides.source import Rgb
from slidecascade.timing import Silent
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions
from surveyed import collected, run_all, survey_of, toy_analyser
from toy_pipeline import ToyPipeline, blobs

WIDTH, HEIGHT = 460, 380


@pytest.fixture(scope="module")
def analyser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyser]:
    analyser = toy_analyser(ToyPipeline(tmp_path_factory.mktemp("toy")))
    yield analyser
    analyser.close()


def features(pieces: Iterator[bytes]) -> list[bytes]:
    """The lines of the cells as they are written, in any order."""
    return sorted(line.rstrip(b",") for line in b"".join(pieces).splitlines()[1:-1])


def assert_same_answer(collection: Collection, whole: Analysis) -> None:
    """Every feature, byte for byte, and every number of the summary and of the heatmaps."""
    assert features(collection.geojson()) == features(geojson.encode(whole))
    assert collection.counts == whole.counts
    maps = collection.heatmaps()
    for ours, spec in zip(maps, whole.heatmaps, strict=True):
        np.testing.assert_array_equal(ours.values, heatmap.compute(whole, spec).values)
    ours_summary = summary.of_counts(collection.analysis, collection.counts, maps, colormap=Colormap.VIRIDIS)
    theirs = summary.summarise(whole)
    volatile = {"timings_s", "tiles"}
    assert ours_summary.model_dump(exclude=volatile) == theirs.model_dump(exclude=volatile)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([300, 900, 3000]),
    corner=st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)),
    mpp=st.sampled_from([0.5, 0.25, 0.31, 0.8]),
    tile_px=st.integers(64, 200),
    field_tiles=st.integers(1, 3),
)
def test_fields_have_the_cells_of_the_region(
    analyser: Analyser,
    seed: int,
    density: int,
    corner: tuple[int, int],
    mpp: float,
    tile_px: int,
    field_tiles: int,
) -> None:
    """Any image, corner, resolution, size of tiles and fields: ids, outlines, classes, digits, maps, counts."""
    image = blobs(seed, WIDTH, HEIGHT, count=WIDTH * HEIGHT // density)
    x, y = corner
    region = {"x": x, "y": y, "width": WIDTH - x, "height": HEIGHT - y}
    with TemporaryDirectory() as folder:
        survey = survey_of(
            analyser,
            image,
            Path(folder) / "parts",
            field_tiles=field_tiles,
            region=region,
            mpp=mpp,
            tile_px=tile_px,
        )
        assert_same_answer(collected(survey), analyser.run(survey.task, Control()).cells)


def test_the_bundled_networks_find_the_same_cells_in_fields(tmp_path: Path) -> None:
    """A rendered slide through `nash`; the overlay too is that of the region."""
    write_slide(tmp_path / "liver.tiff", TissueOptions(seed=21, mpp=0.5), 900, 700, levels=1)
    settings = Settings.model_validate({"slide_roots": (tmp_path,), "threads": 2})
    analyser = Analyser(settings, observer=Silent())
    try:
        request = wire.parse_request({"pipeline": "nash", "slide": "liver.tiff"})
        report = analyser.analyse(request, None, Control())
        small = wire.parse_request({"pipeline": "nash", "slide": "liver.tiff", "tile_px": 256})
        task = analyser.prepare(small, None, Control(), is_bounded=False)
        survey = CellsSurvey(analyser, task, tmp_path / "parts", field_tiles=2)
        assert len(survey.fields) > 2
        collection = Collection(survey, run_all(survey), seconds=1.0)
        assert_same_answer(collection, report.cells)
        assert len(report.cells.instances) > 200
        image, downsample = report.overview(MAX_SIDE_PX)
        expected = overlay.draw(report.cells, image, downsample=downsample)
        different = (collection.overlay(Overviewed(*report.overview(MAX_SIDE_PX))) != expected).mean()
        asked = []

        def overview(side_px: int) -> tuple[Rgb, float]:
            asked.append(side_px)
            return report.overview(side_px)

        collection.write(tmp_path / "files", overview)
        assert asked == [MAX_SIDE_PX]  # all pictures are of one reading of the slide
        assert different < 0.001  # classes are drawn field by field: where outlines cross, another may be on top
    finally:
        analyser.close()


def test_a_slide_larger_than_a_region_may_be_is_cut_into_fields(analyser: Analyser, tmp_path: Path) -> None:
    """The fields' cores partition the region's pixels, whatever the sizes."""
    survey = survey_of(analyser, blobs(3, WIDTH, HEIGHT, 50), tmp_path / "parts", field_tiles=3, tile_px=64)
    seen = np.zeros((HEIGHT, WIDTH), np.int64)
    for field in survey.fields:
        core = field.core
        seen[core.y : core.bottom, core.x : core.right] += 1
        assert sum(tile.core.area for tile in field.tiles) == core.area
    assert (seen == 1).all()
    assert survey.tiles_total == len({tile.index for field in survey.fields for tile in field.tiles})
    assert Box(0, 0, WIDTH, HEIGHT) == survey.task.region_l0


def test_an_empty_slide_gives_files_without_cells(analyser: Analyser, tmp_path: Path) -> None:
    """Glass only: every format is written and can be read."""
    survey = survey_of(analyser, np.full((200, 300, 3), 255, np.uint8), tmp_path / "parts")
    collection = collected(survey)
    collection.write(tmp_path / "out", None)
    assert collection.cells == 0
    assert json.loads(b"".join(collection.geojson()))["features"] == []
    assert collection.analysis.tiles.background == survey.tiles_total
