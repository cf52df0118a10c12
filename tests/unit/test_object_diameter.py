"""Images without a physical pixel size, read by the usual diameter of their objects."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.cli import main
from slidecascade.commands import analyze, jobs
from slidecascade.errors import InvalidRequestError, MissingResolutionError
from slidecascade.exports.annotationxml import aperio
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.shapes import shapes
from slidecascade.outputs.cells import geojson, heatmap
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.summary import text
from slidecascade.pipelines.heatmaps import HeatmapSpec
from slidecascade_client import Client
from slidecascade_client import InvalidRequestError as NotSentError
from slidecascade_client.cells import Cells
from surveyed import collected, png_of, survey_of, toy_analyser
from toy_pipeline import ToyPipeline, blobs

SIDE_PX = 256
USUAL_PX, MPP = 16.0, 0.5
"""Of the toy segmenter's objects, at its own pixel size."""


@pytest.fixture
def analyser(tmp_path: Path) -> Iterator[Analyser]:
    analyser = toy_analyser(ToyPipeline(tmp_path / "toy", object_diameter_px=USUAL_PX))
    yield analyser
    analyser.close()


def image() -> NDArray[np.uint8]:
    return blobs(3, SIDE_PX, SIDE_PX, 20)


def analysed(analyser: Analyser, pixels: NDArray[np.uint8], **fields: object) -> Analysis:
    request = wire.parse_request({"pipeline": "toy", **fields})
    return analyser.analyse(request, png_of(pixels), Control()).cells


def test_objects_reach_the_network_at_the_size_it_knows(analyser: Analyser) -> None:
    """Doubled, and with the diameter doubled, an image gives the same cells, those of the `mpp` that follows."""
    plain = analysed(analyser, image(), mpp=MPP)
    same = analysed(analyser, image(), object_diameter_px=USUAL_PX)
    doubled = analysed(analyser, cv2.resize(image(), None, fx=2, fy=2), object_diameter_px=2 * USUAL_PX)

    assert len(plain.instances) > 5
    np.testing.assert_array_equal(same.instances.vertices, plain.instances.vertices)
    np.testing.assert_allclose(doubled.instances.centroids, 2 * plain.instances.centroids, atol=2.0)


def test_nothing_is_stated_in_micrometres(analyser: Analyser) -> None:
    """The summary's areas and densities are null and it repeats the diameter; cells have areas in pixels."""
    found = analysed(analyser, image(), object_diameter_px=20.0)
    summary = json.loads(text(summarise(found)))

    assert (summary["mpp"], summary["object_diameter_px"]) == (None, 20.0)
    assert {summary[name] for name in ("area_mm2", "tissue_area_mm2", "ink_mm2", "out_of_focus_mm2")} == {None}
    assert set(summary["densities_per_mm2"].values()) == {None}
    assert summary["cells"] == len(found.instances) > 5
    assert [legend["pixel_um"] for legend in summary["heatmaps"]] == [None]
    document = orjson.loads(b"".join(geojson.encode(found)))
    assert (document["slidecascade"]["mpp"], document["slidecascade"]["object_diameter_px"]) == (None, 20.0)
    for cell, area_px in zip(Cells(document["features"]), found.instances.areas, strict=True):
        assert math.isnan(cell.area_um2)
        assert cell.area_px == pytest.approx(area_px, abs=0.01)


def test_with_a_pixel_size_answers_are_as_before(analyser: Analyser) -> None:
    """The new fields do not show."""
    found = analysed(analyser, image(), mpp=MPP)

    assert "object_diameter_px" not in json.loads(text(summarise(found)))
    (first, *_) = Cells(orjson.loads(b"".join(geojson.encode(found)))["features"])
    assert first.area_um2 == pytest.approx(found.instances.areas[0] * MPP**2, abs=0.01)
    assert math.isnan(first.area_px)


def test_densities_count_pixels(analyser: Analyser) -> None:
    """A map of densities is in cells per million pixels of the image: that of an image of half the size has four
    times as many."""
    spec = HeatmapSpec(
        name="density",
        title="Cells",
        kind="density",
        classes=("Red", "Green", "Blue"),
        of=(),
        grid_um=16,
        sigma_um=40,
        maximum=9.0,
    )
    tops = []
    for scale in (1, 2):
        pixels = cv2.resize(image(), None, fx=scale, fy=scale)
        found = heatmap.compute(analysed(analyser, pixels, object_diameter_px=scale * USUAL_PX), spec)
        assert (found.unit, found.is_physical) == ("cells/Mpx", False)
        assert found.maximum != 9.0  # that of the pipeline is per mm2
        tops.append(float(np.nanmean(found.values)))

    cells = len(analysed(analyser, image(), object_diameter_px=USUAL_PX).instances)
    assert tops[0] == pytest.approx(cells / (SIDE_PX**2 / 1e6), rel=0.5)
    assert tops[0] / tops[1] == pytest.approx(4, rel=0.1)


def test_mpp_and_a_diameter_are_rejected_together() -> None:
    """Both would say at which size the image is read; the client notices before it sends anything."""
    with pytest.raises(InvalidRequestError, match=r"`mpp` and `object_diameter_px`.*send one of them"):
        wire.parse_request({"pipeline": "toy", "mpp": 0.5, "object_diameter_px": 20})
    with Client("http://127.0.0.1:1") as client, pytest.raises(NotSentError, match="send one of them"):
        client.analyze_region(b"", pipeline="toy", mpp=0.5, object_diameter_px=20)


@pytest.mark.parametrize("value", [0, -3, math.nan, math.inf, "20", 1e6])
def test_a_diameter_is_a_number_of_pixels(value: object) -> None:
    """Anything else is an error of the request."""
    with pytest.raises(InvalidRequestError, match="object_diameter_px"):
        wire.parse_request({"pipeline": "toy", "object_diameter_px": value})


def test_pipelines_without_a_usual_diameter_ask_for_mpp(tmp_path: Path) -> None:
    """The network says nothing of its objects' size, so that a diameter gives no scale."""
    analyser = toy_analyser(ToyPipeline(tmp_path / "toy"))
    try:
        with pytest.raises(InvalidRequestError, match="states no usual diameter of objects: send `mpp`"):
            analysed(analyser, image(), object_diameter_px=20.0)
    finally:
        analyser.close()


def test_the_error_of_a_missing_size_names_the_way_out(analyser: Analyser) -> None:
    """Who does not know the pixel size learns of the field."""
    with pytest.raises(MissingResolutionError, match="object_diameter_px"):
        analysed(analyser, image())


def test_the_client_sends_the_diameter() -> None:
    """As the request has it, NumPy's numbers too."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return httpx.Response(400)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    diameter_px: Any = np.float32(20)
    with Client("http://service.test", http_client=http) as client, pytest.raises(Exception, match="400"):
        client.analyze_region(png_of(image()), pipeline="toy", object_diameter_px=diameter_px)
    assert b'"object_diameter_px":20.0' in sent[0]


def test_jobs_take_it_from_client_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document that is sent has it in place of `mpp`, and becomes the request of a region with it."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.read()))
        return httpx.Response(400)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    with Client("http://service.test", http_client=http) as client:
        with pytest.raises(Exception, match="400"):
            client.submit("a.svs", pipeline="toy", object_diameter_px=20)
        with pytest.raises(Exception, match="400"):
            client.submit_many([{"slide": "a.svs", "pipeline": "toy", "object_diameter_px": 20, "tta": "d4"}])
        monkeypatch.setattr(jobs, "Client", lambda *_, **__: nullcontext(client))
        jobs_of_command = ["submit", "a.svs", "--pipeline", "toy", "--object-diameter-px", "20", "--tta", "d4"]
        assert main(["jobs", "--url", "http://service.test", *jobs_of_command]) != 0
    batch = sent.pop(1)
    sent[1:1] = batch["jobs"]
    assert [(each["object_diameter_px"], each.get("mpp")) for each in sent] == [(20.0, None)] * 3
    assert [each.get("options") for each in sent] == [None, {"tta": "d4"}, {"tta": "d4"}]
    request = wire.JobRequest.model_validate(sent[0]).region_request()
    assert (request.object_diameter_px, request.mpp) == (20.0, None)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"mpp": 0.5}, "send one of them"), ({"outputs": ["geojson", "dicom"]}, "DICOM objects need a pixel size")],
)
def test_jobs_reject_what_contradicts_it(fields: dict[str, Any], says: str) -> None:
    """A second size of pixels, and files that cannot do without one."""
    document = {"pipeline": "toy", "slide": "a.svs", "object_diameter_px": 20.0, **fields}
    with pytest.raises(ValidationError, match=says):
        wire.JobRequest.model_validate_json(json.dumps(document))


def test_the_command_takes_it() -> None:
    """And its folder of results can be exported: areas in pixels, no pixel size."""
    parser = argparse.ArgumentParser()
    analyze.add_arguments(parser)
    given = parser.parse_args(["a.png", "--pipeline", "toy", "--out", "o", "--object-diameter-px", "20"])
    assert analyze._request(given, None).object_diameter_px == 20


def test_a_folder_of_results_has_no_micrometres_either(analyser: Analyser, tmp_path: Path) -> None:
    """GeoParquet, GeoJSON, pictures and exports of an analysis by fields."""
    survey = survey_of(analyser, image(), tmp_path / "parts", mpp=None, object_diameter_px=20.0)
    collected(survey).write(tmp_path / "out", partial(survey.task.overview, damaged=False))

    rows = pq.read_table(tmp_path / "out" / "cells.parquet")
    assert rows["area_um2"].null_count == rows.num_rows > 5
    assert rows["area_px"].null_count == 0
    folder = ResultFolder(tmp_path / "out")
    for batch in shapes(folder):
        assert "Area µm^2" not in batch.measurements
        assert np.isfinite(batch.measurements["Area px^2"]).all()
    assert b"MicronsPerPixel" not in b"".join(aperio(folder))
