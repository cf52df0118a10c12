"""What holds for regions of every kind of pipeline: origins, warnings, and the memory of what is found."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import toy_kinds
from leica_slide import write_leica
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import RegionTooLargeError
from slidecascade.geometry import Box
from slidecascade.kinds.result import RegionResult
from slidecascade.kinds.sink import MemorySink
from slidecascade.kinds.table import KINDS, table
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.provenance import provenance
from slidecascade.settings import Settings
from slidecascade.slides.facts import SlideFacts
from slidecascade.timing import Silent

CORNER, SIZE, SIDE = (2000, 3000), (4096, 5120), 512
PIPELINES = ("toy-areas", "toy-patches")
SCANNED = {"x": CORNER[0], "y": CORNER[1], "width": SIDE, "height": SIDE}
SMALL_SQUARES = {"patches": {"patch": {"context_px": 44, "stride_px": 8, "mpp": 0.5}}}


@pytest.fixture
def analyser(tmp_path: Path) -> Iterator[Analyser]:
    """Areas and patches of two slides: one as usual, one whose pixels are too large for its objective."""
    image = toy_kinds.coloured(3, SIDE, SIDE, 6)
    image[:100, :100] = 0
    for name, nm in (("usual.scn", 500), ("coarse.scn", 1000)):
        write_leica(tmp_path / name, image, corner=CORNER, size=SIZE, nm=nm)
    made = Analyser(
        Settings(
            models_dir=toy_kinds.write_models(tmp_path / "models"),
            pipelines_dir=toy_kinds.write_pipelines(tmp_path / "pipelines", toy_kinds.AREAS, toy_kinds.PATCHES),
            slide_roots=(tmp_path,),
            threads=1,
            memory_mib=64,
        ),
        observer=Silent(),
    )
    yield made
    made.close()


def analysed(analyser: Analyser, pipeline: str, slide: str = "usual.scn", **fields: Any) -> RegionResult:
    request = wire.parse_request({"pipeline": pipeline, "slide": slide, "region": SCANNED} | fields)
    return analyser.analyse(request, None, Control()).analysis


def document(result: RegionResult) -> Any:
    """Its GeoJSON."""
    return json.loads(b"".join(KINDS[result.kind].encoders.answers[wire.GEOJSON](result, Drawing())))


def shape(feature: Mapping[str, Any]) -> NDArray[np.float64]:
    """All positions of a feature, ring after ring."""
    return np.concatenate([np.array(ring) for ring in feature["geometry"]["coordinates"]])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_outlines_of_every_kind_count_from_the_origin_that_is_asked_for(analyser: Analyser, pipeline: str) -> None:
    """Tiles and annotations are moved by whole pixels; ids and measurements stay those of the place."""
    whole = document(analysed(analyser, pipeline))
    moved = document(analysed(analyser, pipeline, origin="bounds"))
    assert (whole["slidecascade"]["origin"], moved["slidecascade"]["origin"]) == ("slide", "bounds")
    assert moved["slidecascade"]["region"] == SCANNED
    kinds = {item["properties"]["objectType"] for item in whole["features"]}
    assert kinds == ({"tile", "annotation"} if pipeline == "toy-patches" else {"annotation"})
    for first, second in zip(whole["features"], moved["features"], strict=True):
        assert first["id"] == second["id"]
        assert first["properties"] == second["properties"]
        difference = shape(first) - shape(second)
        np.testing.assert_allclose(difference, np.broadcast_to(CORNER, difference.shape), atol=1e-6)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_kind_warns_of_what_is_known_beforehand(analyser: Analyser, pipeline: str) -> None:
    """A pixel size that contradicts the objective makes areas and patches as doubtful as cells.

    The ink that is reported beside it is in the image: its colours are random.
    """
    assert {warning.code for warning in analysed(analyser, pipeline).warnings} <= {"ink"}
    warnings = provenance(analysed(analyser, pipeline, "coarse.scn")).warnings
    assert {warning.code for warning in warnings} - {"ink"} == {"mpp-contradicts-objective"}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_tiles_beyond_the_region_do_not_count_as_missing(analyser: Analyser, pipeline: str) -> None:
    """Around the scanned part nothing is stored; a warning counts the pixels of the region alone."""
    half = SCANNED | {"x": CORNER[0] - SIDE, "width": 2 * SIDE}
    (warning,) = (found for found in analysed(analyser, pipeline, region=half).warnings if found.code != "ink")
    assert warning.code == "no-stored-pixels"
    assert warning.message.startswith("50% of the region")


def test_a_region_of_areas_without_memory_for_it_is_refused(analyser: Analyser) -> None:
    """What is expected of a kind is reserved before a pixel is read: 20 million labels do not go into 64 MiB."""
    request = wire.parse_request({"pipeline": "toy-areas", "slide": "usual.scn"})
    with pytest.raises(RegionTooLargeError, match="MiB of memory"):
        analyser.prepare(request, None, Control(), share=analyser.memory.share())


def speckled(side: int, stained: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Tissue with red pixels."""
    image = np.full((side, side, 3), toy_kinds.TISSUE, np.uint8)
    image[stained(np.random.default_rng(0).integers(0, 2, (side, side)))] = (230, 40, 40)
    return image


@pytest.mark.parametrize(
    ("pipeline", "answers"), [("toy-areas", (wire.GEOJSON, wire.JSON, wire.CSV)), ("toy-patches", (wire.CSV,))]
)
@pytest.mark.parametrize("stained", [lambda noise: noise > 0, lambda noise: noise < 0], ids=["speckled", "plain"])
def test_no_kind_takes_more_memory_than_is_held_for_it(
    tmp_path: Path,
    pipeline: str,
    answers: tuple[str, ...],
    stained: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> None:
    """From the results of tiles to the answer, even where an outline runs around every other pixel."""
    toy = toy_kinds.ToyKinds(tmp_path, **SMALL_SQUARES)
    kind = KINDS[toy.pipelines[pipeline].kind]
    image = speckled(768, stained)
    toy.run(pipeline, image[:128, :128])  # what libraries allocate once
    held: list[int] = []
    peaks: list[int] = []

    class Watched:
        """A sink that notes the high-water mark of the last step."""

        def __init__(self, *arguments: Any) -> None:
            self._sink: MemorySink[Any, Any] = kind.sink(*arguments)
            self.take, self.fail, self.account = self._sink.take, self._sink.fail, self._sink.account

        def finish(self, subject: Any, account: Any) -> RegionResult:
            tracemalloc.reset_peak()
            found = self._sink.finish(subject, account)
            peaks.append(tracemalloc.get_traced_memory()[1])
            return found

    watched: Any = Watched
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kinds = table(replace(kind, sink=watched))
        result = toy.run(pipeline, image, tile_px=256, kinds=kinds, hold=held.append)
        for media_type in answers:
            tracemalloc.reset_peak()
            for _ in kind.encoders.answers[media_type](result, Drawing()):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert held == sorted(held)
    assert max(peaks) - before <= held[-1]


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("region_l0", [Box(0, 0, 700, 500), Box(301, 207, 90, 55), Box(130, 140, 1, 1)])
def test_what_is_expected_of_a_region_covers_its_tiles(tmp_path: Path, pipeline: str, region_l0: Box) -> None:
    """On plain tissue nothing more has to be reserved while it is analysed, whatever its edge divides."""
    toy = toy_kinds.ToyKinds(tmp_path, areas={"min_area_um2": 200.0})
    kind = KINDS[toy.pipelines[pipeline].kind]
    held: list[int] = []
    image = speckled(900, lambda noise: noise < 0)
    result = toy.run(pipeline, image, region_l0=region_l0, tile_px=256, hold=held.append)
    grids = {model.name: model.grid for model in result.models}
    assert held[-1] <= kind.footprint.expected(toy.pipelines[pipeline], region_l0, grids)


def test_results_count_from_the_corner_of_level_0_without_bounds(tmp_path: Path) -> None:
    """An upload has none: both origins are one."""
    toy = toy_kinds.ToyKinds(tmp_path)
    found = toy.run("toy-areas", toy_kinds.coloured(3, 200, 200, 4))
    assert found.facts == SlideFacts(content_id="e" * 64, bounds_l0=None, dark_field=False)
    moved = document(replace(found, origin="bounds"))
    assert moved["features"] == document(found)["features"]
