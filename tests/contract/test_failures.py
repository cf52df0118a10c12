"""Errors of failing networks, through a server process."""

from __future__ import annotations

import json
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import toy_models
from served_process import Server, StartServer
from toy_pipeline import BACKGROUND

SIDE_PX = 768
PIPELINE = {
    "name": "fragile",
    "title": "Fragile",
    "description": "Fails on cells that hold no red at all.",
    "segmenter": "toy-segmenter",
    "cascade": [{"model": "fragile-classifier"}],
    "heatmaps": [{"name": "red", "title": "Red", "kind": "density", "classes": ["Red"]}],
}


@pytest.fixture(scope="module")
def fragile(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A service whose classifier returns NaN for crops without red."""
    folder = tmp_path_factory.mktemp("fragile")
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "fragile.yaml").write_text(yaml.safe_dump(PIPELINE), encoding="utf-8")
    toy_models.write_package(folder / "models", toy_models.segmenter_fields(), toy_models.darkness_segmenter())
    fields = toy_models.classifier_fields("fragile-classifier", crop={"size_px": 4})
    toy_models.write_package(folder / "models", fields, toy_models.fragile_classifier(72))
    return start_server(models=folder / "models", pipelines_dir=folder / "pipelines")


def _cells(*places: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Dark discs at x and y with the red given."""
    image = np.full((SIDE_PX, SIDE_PX, 3), BACKGROUND, np.uint8)
    for x, y, red in places:
        cv2.circle(image, (x, y), 10, (red, 40, 40), -1)
    return image


def _post(server: Server, image: NDArray[np.uint8], **fields: Any) -> httpx.Response:
    request = {"pipeline": "fragile", "mpp": 0.5, "tile_px": 256} | fields
    png = bytes(cv2.imencode(".png", image[:, :, ::-1])[1])
    return httpx.post(
        f"{server.url}/v1/regions",
        files={"image": ("a", png, "image/png"), "request": ("b", json.dumps(request), "application/json")},
        timeout=60,
    )


def test_a_model_that_fails_everywhere_is_model_failed(fragile: Server) -> None:
    """502 with one sentence and no stack trace; the next request works."""
    broken = _post(fragile, _cells((100, 100, 0)), tile_px=1024)
    problem = broken.json()

    assert broken.status_code == 502
    assert problem["type"] == "urn:slidecascade:problem:model-failed"
    assert "'fragile-classifier'" in problem["detail"]
    assert "Traceback" not in broken.text
    assert _post(fragile, _cells((100, 100, 90))).status_code == 200


def test_tiles_that_fail_are_listed(fragile: Server) -> None:
    """500 tiles-failed names the tile's place; allow_partial answers with the others and lists it too."""
    image = _cells((100, 100, 90), (400, 400, 0), (700, 700, 90))
    refused = _post(fragile, image)
    partial = _post(fragile, image, allow_partial=True)
    middle = (280, 280)  # where the core of the second of three tiles starts, along both axes

    assert refused.status_code == 500
    assert refused.json()["type"] == "urn:slidecascade:problem:tiles-failed"
    assert [(tile["x"], tile["y"]) for tile in refused.json()["tiles"]] == [middle]
    reported = partial.json()
    assert partial.status_code == 200
    assert len(reported["features"]) == 2
    assert [(tile["x"], tile["y"]) for tile in reported["slidecascade"]["tiles"]["failed"]] == [middle]
    assert fragile.metric('slidecascade_tiles_total{outcome="failed"}') >= 1
