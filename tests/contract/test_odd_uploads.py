"""Odd image files posted to a served process: their cells, or a sentence; never a fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import odd_images
from served_process import Server, StartServer
from toy_pipeline import ToyPipeline

REQUEST = json.dumps({"pipeline": "toy", "mpp": 0.5}).encode()
Post = Callable[[bytes], httpx.Response]


@pytest.fixture(scope="module")
def toy_server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    toy = ToyPipeline(tmp_path_factory.mktemp("toy"))
    return start_server(models=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=1)


@pytest.fixture(scope="module")
def post(toy_server: Server) -> Iterator[Post]:
    """Posts an upload and asks for the summary."""
    with httpx.Client(base_url=toy_server.url, timeout=60, headers={"Accept": "application/json"}) as client:

        def send(image: bytes) -> httpx.Response:
            parts = {"image": ("image", image), "request": ("request", REQUEST)}
            return client.post("/v1/regions", files=parts)

        yield send


@pytest.fixture(scope="module")
def cells(post: Post) -> int:
    """The number of cells in the picture that all of them show."""
    found = int(post(odd_images.saved("PNG")).raise_for_status().json()["cells"])
    assert found > 10
    return found


@pytest.mark.parametrize("name", odd_images.READ)
def test_the_cells_are_found(post: Post, cells: int, name: str) -> None:
    """However the picture is stored, and whatever else the file holds."""
    answer = post(odd_images.READ[name])
    assert answer.status_code == 200, answer.text
    region = answer.json()["region"]
    assert (answer.json()["cells"], region["width"], region["height"]) == (
        cells,
        odd_images.WIDTH,
        odd_images.HEIGHT,
    )


@pytest.mark.parametrize("name", odd_images.TURNED)
def test_a_turned_picture_is_turned_back(post: Post, cells: int, name: str) -> None:
    """An orientation that exchanges width and height is applied."""
    summary = post(odd_images.TURNED[name]).raise_for_status().json()
    region = summary["region"]
    assert (summary["cells"], region["width"], region["height"]) == (cells, odd_images.HEIGHT, odd_images.WIDTH)


@pytest.mark.parametrize("name", odd_images.REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence(post: Post, name: str) -> None:
    """422 `undecodable-image`, with what is wrong and what to do."""
    data, words = odd_images.REFUSED[name]
    answer = post(data)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"].endswith(":undecodable-image")
    assert words in answer.json()["detail"]
    assert answer.elapsed.total_seconds() < 5


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (65_500, 1)])
def test_the_thinnest_pictures_are_analysed(post: Post, size: tuple[int, int]) -> None:
    """A pixel, a column and a row: no cells, and no fault."""
    summary = post(odd_images.saved("JPEG", odd_images.PICTURE.resize(size))).raise_for_status().json()
    assert (summary["region"]["width"], summary["region"]["height"]) == size


def test_nothing_but_json_is_logged_and_nothing_failed(toy_server: Server, post: Post) -> None:
    """No decoder prints between the lines, and none of the files above was a fault of the server."""
    assert post(b"").status_code == 422
    assert not [line for line in toy_server.lines() if line["message"] in ("unexpected error", "failed")]
    assert Path(toy_server.log).with_name("stdout.txt").read_bytes() == b""
