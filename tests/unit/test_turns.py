"""Test-time averaging over turns and mirror images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.errors import InvalidRequestError
from slidecascade.kinds.turns import averaged, require_turnable
from slidecascade.models.tensors import OutputSpec, Tensors
from slidecascade.outputs.cells.summary import summarise
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_client import Client
from slidecascade_render.liver.tissue import TissueOptions, render
from surveyed import collected, png_of, survey_of, toy_analyser
from toy_pipeline import ToyPipeline, blobs

MAPS = (
    OutputSpec(
        name="maps",
        dtype="uint8",
        layout="NHWC",
        shape=("batch", "h", "w", 1),
        range=(0, 255),
        meaning="probability",
    ),
)
CLASSES = (
    OutputSpec(name="p", dtype="float32", layout="NC", shape=("batch", 1), range=(0, 1), meaning="probability"),
)


def leaning(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Each pixel less a part of its left neighbour: another answer for every turn."""
    grey = images[..., :1].astype(np.float64)
    left = np.concatenate([grey[:, :, :1], grey[:, :, :-1]], axis=2)
    return grey - 0.5 * left + 60


def test_maps_are_the_mean_of_all_eight_views() -> None:
    """Turned back: those of a turned image are the turned maps, which the network itself does not give."""
    image = np.random.default_rng(1).integers(0, 256, (1, 16, 24, 3), np.uint8)

    def run(images: NDArray[np.uint8]) -> Tensors:
        return {"maps": np.clip(leaning(images), 0, 255).astype(np.uint8)}

    found = averaged(run, image, MAPS)["maps"]
    assert (found.dtype, found.shape) == (np.dtype(np.uint8), (1, 16, 24, 1))
    for turns in range(1, 4):
        turned = averaged(run, np.ascontiguousarray(np.rot90(image, turns, axes=(1, 2))), MAPS)["maps"]
        np.testing.assert_array_equal(np.rot90(turned, -turns, axes=(1, 2)), found)
    mirrored = averaged(run, np.ascontiguousarray(image[:, :, ::-1]), MAPS)["maps"]
    np.testing.assert_array_equal(mirrored[:, :, ::-1], found)
    assert not np.array_equal(run(image)["maps"], found)


def test_probabilities_are_the_mean_of_all_eight_views() -> None:
    """Of each crop its own; a network that sees the top row alone sees all four sides."""
    crops = np.zeros((3, 8, 8, 3), np.uint8)
    for number in range(3):
        crops[number, 0] = 80 * (number + 1)

    def run(images: NDArray[np.uint8]) -> Tensors:
        return {"p": images[:, 0, 1:-1, 0].mean(axis=1, dtype=np.float32)[:, None] / 255}

    np.testing.assert_allclose(averaged(run, crops, CLASSES)["p"][:, 0], np.array([80, 160, 240]) / 255 / 4)


@pytest.fixture(scope="module")
def analyser() -> Iterator[Analyser]:
    analyser = Analyser(read_settings(), observer=Silent())
    yield analyser
    analyser.close()


def nash(analyser: Analyser, image: NDArray[np.uint8], **fields: object) -> Analysis:
    request = {"pipeline": "nash", "mpp": 0.5, "options": {"tta": "d4"}, **fields}
    return analyser.analyse(wire.parse_request(request), png_of(image), Control()).cells


def test_averages_are_the_same_in_any_tiling(analyser: Analyser) -> None:
    """Bit for bit, with the bundled networks; they are not those of one view, and have other ids."""
    image = render(TissueOptions(seed=9, mpp=0.5), width_px=240, height_px=200).image
    whole, tiled = (nash(analyser, image, tile_px=side) for side in (256, 96))
    plain = nash(analyser, image, options={})

    assert len(whole.instances) > 10
    np.testing.assert_array_equal(whole.instances.vertices, tiled.instances.vertices)
    np.testing.assert_array_equal(whole.instances.scores, tiled.instances.scores)
    for one, other in zip(whole.instances.probabilities, tiled.instances.probabilities, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(np.sort(plain.instances.scores), np.sort(whole.instances.scores))


def test_a_turned_image_gives_the_turned_cells(analyser: Analyser) -> None:
    """The point of it: maps are those of the image turned, so that outlines and classes follow the turn."""
    image = render(TissueOptions(seed=9, mpp=0.5), width_px=200, height_px=200).image
    before, after = nash(analyser, image), nash(analyser, np.ascontiguousarray(np.rot90(image, 2)))
    there = 200 - after.instances.centroids
    gaps = np.hypot(*(before.instances.centroids[:, None] - there[None]).transpose(2, 0, 1))

    # Seeds and ties of the watershed still know up from down: nearly all cells are the same, not all.
    assert (gaps.min(axis=1) < 1).mean() > 0.95


def test_answers_and_files_say_it(tmp_path: Path) -> None:
    """The summary of a region and of an analysis by fields; ids differ from those without."""
    analyser = toy_analyser(ToyPipeline(tmp_path / "toy"))
    image = blobs(3, 256, 256, 20)
    try:
        found = collected(survey_of(analyser, image, tmp_path / "a", options={"tta": "d4"}))
        plain = collected(survey_of(analyser, image, tmp_path / "b"))
    finally:
        analyser.close()
    assert summarise(found.analysis).options.tta == "d4"
    assert summarise(plain.analysis).options.tta == "none"
    ids = [{row["id"] for row in json.loads(b"".join(each.geojson()))["features"]} for each in (found, plain)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_networks_whose_values_have_a_direction_are_rejected(tmp_path: Path) -> None:
    """The sentence names output and model; maps of probabilities are taken."""
    pipeline = ToyPipeline(tmp_path / "toy").pipeline
    require_turnable(pipeline, "d4")
    flows = (pipeline.segmenter.outputs[0].model_copy(update={"meaning": "flow"}),)
    flowing = replace(pipeline, segmenter=pipeline.segmenter.model_copy(update={"outputs": flows}))
    with pytest.raises(InvalidRequestError, match=r"'maps' \(flow\) of 'toy-segmenter' cannot be averaged"):
        require_turnable(flowing, "d4")
    require_turnable(flowing, "d4-classifiers")
    require_turnable(flowing, "none")
    with pytest.raises(InvalidRequestError, match="has no classifiers"):
        require_turnable(replace(flowing, stages=()), "d4-classifiers")


def test_classifiers_alone_can_be_averaged(analyser: Analyser) -> None:
    """The outlines are those without averaging, the probabilities are not; those of a turned crop are the same."""
    image = render(TissueOptions(seed=9, mpp=0.5), width_px=240, height_px=200).image
    plain, found = (nash(analyser, image, options={"tta": tta}) for tta in ("none", "d4-classifiers"))
    assert len(found.instances) > 10
    np.testing.assert_array_equal(plain.instances.vertices, found.instances.vertices)
    assert not np.array_equal(plain.instances.probabilities[0], found.instances.probabilities[0])
    whole = nash(analyser, image)
    assert not np.array_equal(whole.instances.scores, found.instances.scores)


def test_other_options_are_rejected() -> None:
    """A group that there is not, a misspelt option."""
    for options in ({"tta": "d8"}, {"ttta": "d4"}):
        with pytest.raises(InvalidRequestError, match="options"):
            wire.parse_request({"pipeline": "toy", "options": options})


def test_the_client_sends_it() -> None:
    """For regions and for jobs."""
    sent: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.read()))
        return httpx.Response(400)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    with Client("http://service.test", http_client=http) as client:
        with pytest.raises(Exception, match="400"):
            client.analyze_region(pipeline="toy", slide="a.svs", tta="d4")
        with pytest.raises(Exception, match="400"):
            client.submit("a.svs", pipeline="toy", tta="d4")
    assert [request["options"] for request in sent] == [{"tta": "d4"}] * 2
