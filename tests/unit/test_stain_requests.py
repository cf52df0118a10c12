"""Requests that ask for stain normalisation."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.commands import analyze
from slidecascade.errors import PipelineSpecError, UnusableStainError
from slidecascade.geometry import Box
from slidecascade.outputs.cells import geojson
from slidecascade.outputs.cells.summary import summarise
from slidecascade.slides.stain import LIGHT
from slidecascade_client import Client, InvalidRequestError, ServiceFailedError
from surveyed import collected, png_of, survey_of, toy_analyser
from toy_pipeline import ToyPipeline, blobs

SIDE_PX = 384
Image = NDArray[np.uint8]


def stained() -> Image:
    """Blobs of haematoxylin on eosin, paler than the reference."""
    dark = 1 - blobs(5, SIDE_PX, SIDE_PX, 60).mean(axis=2, keepdims=True) / 255
    spots = dark > dark.mean() + 0.15
    rng = np.random.default_rng(5)
    amounts = rng.gamma(12, 1 / 12, (SIDE_PX, SIDE_PX, 1))
    density = np.where(spots, (0.56, 0.72, 0.41), (0.2, 0.8, 0.56)) * amounts * np.where(spots, 0.9, 1.0)
    return np.clip(np.rint(LIGHT * np.exp(-density)), 0, 255).astype(np.uint8)


@pytest.fixture
def analyser(tmp_path: Path) -> Iterator[Analyser]:
    analyser = toy_analyser(ToyPipeline(tmp_path))
    yield analyser
    analyser.close()


def analysed(analyser: Analyser, image: Image, **fields: object) -> Analysis:
    request = wire.parse_request({"pipeline": "toy", "mpp": 0.5, "tile_px": 128, **fields})
    return analyser.analyse(request, png_of(image), Control()).cells


SENT: list[bytes] = []


def scripted_client() -> Client:
    """A client whose requests end in `SENT` and an error."""

    def answer(request: httpx.Request) -> httpx.Response:
        SENT.append(request.read())
        return httpx.Response(500)

    return Client("http://service.test", http_client=httpx.Client(transport=httpx.MockTransport(answer)))


def features(analysis: Analysis) -> dict[str, object]:
    """The features by id."""
    document = orjson.loads(b"".join(geojson.encode(analysis)))
    return {feature["id"]: feature for feature in document["features"]}


def test_networks_are_given_normalised_colours(analyser: Analyser) -> None:
    """A pale slide, whose blobs the toy segmenter does not find dark enough, gets the colours of the reference."""
    image = stained()
    plain, normalised = analysed(analyser, image), analysed(analyser, image, stain={"method": "macenko"})

    assert len(normalised.instances) > len(plain.instances)
    facts = summarise(normalised).facts
    assert facts is not None
    assert facts.stain is not None
    assert facts.stain.method == "macenko"
    assert facts.stain.vectors is not None
    assert summarise(plain).facts.stain is None  # type: ignore[union-attr]
    assert "stain" in normalised.timings_s


@pytest.mark.parametrize("method", ["macenko", "reinhard", "vahadane"])
def test_a_region_has_the_cells_of_the_whole_slide(analyser: Analyser, method: str) -> None:
    """The fit is that of the slide, whatever part of it is asked for: same outlines, probabilities and ids."""
    image, box = stained(), Box(96, 130, 200, 170)
    whole = analysed(analyser, image, stain={"method": method})
    part = analysed(
        analyser,
        image,
        stain={"method": method},
        region={"x": box.x, "y": box.y, "width": box.width, "height": box.height},
        tile_px=64,
    )
    inside = whole.instances.take(box.contains(whole.instances.centroids))

    assert len(part.instances) > 3
    assert part.facts == whole.facts
    assert (part.instances.vertices == inside.vertices).all()
    assert (part.instances.probabilities[0] == inside.probabilities[0]).all()
    assert features(part).keys() <= features(whole).keys()


def test_ids_depend_on_the_method(analyser: Analyser) -> None:
    image = stained()
    one = features(analysed(analyser, image, stain={"method": "macenko"}))
    other = features(analysed(analyser, image, stain={"method": "vahadane"}))
    assert one
    assert other
    assert not one.keys() & other.keys()


def test_jobs_give_the_cells_of_the_region(analyser: Analyser, tmp_path: Path) -> None:
    image = stained()
    survey = survey_of(analyser, image, tmp_path / "parts", stain={"method": "macenko"})
    region = analysed(analyser, image, stain={"method": "macenko"})
    assert collected(survey).cells == len(region.instances)
    assert survey.subject.facts == region.facts


def test_another_method_is_another_job(analyser: Analyser, tmp_path: Path) -> None:
    """Parts of one method are never taken for those of another."""
    editions = {
        survey_of(analyser, stained(), tmp_path / "parts", stain={"method": method}).parts.plan.edition
        for method in ("none", "macenko", "vahadane")
    }
    assert len(editions) == 3


@pytest.mark.parametrize("brightness", [10, 250])
def test_glass_and_dark_slides_are_refused(analyser: Analyser, brightness: int) -> None:
    """None asks for no fit, and works."""
    image = np.full((SIDE_PX, SIDE_PX, 3), brightness, np.uint8)
    with pytest.raises(UnusableStainError, match="with the method none"):
        analysed(analyser, image, stain={"method": "macenko"})
    assert analysed(analyser, image, stain={"method": "none"}).facts.stain is None


def test_clients_and_the_command_line_send_the_method() -> None:
    """Regions and jobs; a method that does not exist is rejected before anything is sent."""
    with scripted_client() as client:
        for ask in (partial(client.analyze_region, slide="a.svs"), partial(client.submit, "a.svs")):
            with pytest.raises(ServiceFailedError):
                ask(pipeline="nash", stain="vahadane")
            with pytest.raises(InvalidRequestError, match="stain"):
                ask(pipeline="nash", stain="bleach")  # type: ignore[arg-type]
    bodies = [orjson.loads(body)["stain"] for body in SENT]
    assert bodies == [{"method": "vahadane"}] * 2

    parser = argparse.ArgumentParser()
    analyze.add_arguments(parser)
    options = parser.parse_args(["a.png", "--pipeline", "nash", "--out", "o", "--stain", "macenko"])
    assert options.stain == "macenko"


def test_a_pipeline_may_ask_for_it_and_a_request_override(tmp_path: Path) -> None:
    toy = ToyPipeline(tmp_path)
    file = toy.pipelines_dir / "toy.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "stain: reinhard\n", encoding="utf-8")
    analyser = toy_analyser(toy)
    try:
        assert analyser.pipeline("toy").stain == "reinhard"
        fits = [
            analysed(analyser, stained(), **asked).facts.stain for asked in ({}, {"stain": {"method": "none"}})
        ]
        assert [fit and fit.method for fit in fits] == ["reinhard", None]
    finally:
        analyser.close()
    file.write_text(text + "stain: bleach\n", encoding="utf-8")
    with pytest.raises(PipelineSpecError, match="stain"):
        toy_analyser(toy)
