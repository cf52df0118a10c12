"""Odd slide files named to a served process: their cells, a warning, or a sentence; never a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest

import odd_slides
from served_process import Server, StartServer
from toy_pipeline import ToyPipeline

Analyse = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def slide_server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("odd")
    toy = ToyPipeline(folder)
    slides = folder / "slides"
    writers = {name: write for name, (write, _) in odd_slides.REFUSED.items()}
    for name, write in {**odd_slides.READ, **writers, **odd_slides.ABSENT, **odd_slides.PARTLY}.items():
        path = slides / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return start_server(slides=slides, models=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=1)


@pytest.fixture(scope="module")
def client(slide_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=slide_server.url, timeout=60, headers={"Accept": "application/json"}) as client:
        yield client


@pytest.fixture(scope="module")
def analyse(client: httpx.Client) -> Analyse:
    """Asks for the summary of a slide."""

    def post(slide: str, **fields: Any) -> httpx.Response:
        return client.post("/v1/regions", json={"pipeline": "toy", "slide": slide, "mpp": 0.5} | fields)

    return post


@pytest.fixture(scope="module")
def cells(analyse: Analyse) -> int:
    """The number of cells in the picture that all of them show."""
    found = int(analyse("BigTIFF.tif").raise_for_status().json()["cells"])
    assert found > 30
    return found


def shown(client: httpx.Client, slide: str) -> httpx.Response:
    return client.get(f"/v1/slides/{quote(slide, safe='/')}")


@pytest.mark.parametrize("name", odd_slides.READ)
def test_the_cells_are_found(client: httpx.Client, analyse: Analyse, cells: int, name: str) -> None:
    """Whatever the slide is called, holds besides and says of itself; and it is listed."""
    answer = analyse(name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["cells"] == cells
    info = shown(client, name).raise_for_status().json()
    assert (info["width"], info["height"]) == (odd_slides.WIDTH, odd_slides.HEIGHT)
    assert info["mpp"] is None or info["mpp"] == 0.5
    assert name in {slide["id"] for slide in client.get("/v1/slides").json()["slides"]}


@pytest.mark.parametrize("name", odd_slides.REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence(client: httpx.Client, analyse: Analyse, name: str) -> None:
    """422 `unreadable-slide`, with what is wrong and what to do; the slide's page is shown or refused alike."""
    answer = analyse(name)
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (422, "unreadable-slide"), answer.text
    assert odd_slides.REFUSED[name][1] in answer.json()["detail"]
    info = shown(client, name)
    assert info.status_code in (200, 422)
    if info.status_code == 200:
        tile = f"/v1/slides/{quote(name, safe='/')}/dzi_files/0/0_0.jpeg"
        assert client.get(tile).status_code in (200, 422)
        # A viewer that takes stand-ins gets a blank tile that says why, and no failed request.
        blank = client.get(f"{tile}?standin=1")
        assert blank.headers["content-type"] == "image/jpeg"
        if client.get(tile).status_code == 422:
            assert unquote(blank.headers["slidecascade-problem"]) == client.get(tile).json()["detail"]
            assert blank.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", odd_slides.ABSENT)
def test_what_is_no_file_of_the_folder_is_unknown(client: httpx.Client, analyse: Analyse, name: str) -> None:
    """Links that lead out, pipes and devices are not opened."""
    assert analyse(name).status_code == shown(client, name).status_code == 404


@pytest.mark.parametrize("name", odd_slides.PARTLY)
def test_missing_pixels_are_reported(analyse: Analyse, cells: int, name: str) -> None:
    """Those that were never stored are a warning, never cells."""
    summary = analyse(name).raise_for_status().json()
    assert "no-stored-pixels" in {warning["code"] for warning in summary["warnings"]}
    assert summary["cells"] <= cells


@pytest.mark.parametrize("mpp", [0.2, 0.125])
def test_a_level_of_other_proportions_is_not_used(client: httpx.Client, analyse: Analyse, mpp: float) -> None:
    """At a pixel size for which it would be read, the cells are those of the slide without it."""
    narrow, plain = "a level that is too narrow.tif", "BigTIFF.tif"
    assert len(shown(client, narrow).json()["levels"]) == 1
    assert analyse(narrow, mpp=mpp).json()["cells"] == analyse(plain, mpp=mpp).json()["cells"]


@pytest.mark.parametrize(
    ("region", "status", "problem"),
    [
        ((0, 0, 1, 1), 200, None),
        ((399, 299, 1, 1), 200, None),
        ((0, 0, 400, 1), 200, None),
        ((399, 299, 2, 1), 422, "region-outside-slide"),
        ((400, 0, 1, 1), 422, "region-outside-slide"),
        ((-1, 0, 10, 10), 422, "region-outside-slide"),
        ((-(2**31) + 1, 0, 10, 10), 422, "region-outside-slide"),
        ((2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1), 422, "region-outside-slide"),
        ((0, 0, 2**31 - 1, 2**31 - 1), 422, "region-outside-slide"),
        ((0, 0, 0, 10), 422, "invalid-request"),
        ((0, 0, 10, -10), 422, "invalid-request"),
        ((2**31, 0, 1, 1), 422, "invalid-request"),
    ],
)
def test_regions_at_and_over_the_edge(
    analyse: Analyse, region: tuple[int, int, int, int], status: int, problem: str | None
) -> None:
    """A pixel in the corner is analysed; what lies outside is refused by name."""
    box = dict(zip(("x", "y", "width", "height"), region, strict=True))
    answer = analyse("BigTIFF.tif", region=box)
    assert answer.status_code == status, answer.text
    assert problem is None or answer.json()["type"].endswith(f":{problem}")


def test_the_server_is_alive_and_nothing_failed(slide_server: Server, client: httpx.Client) -> None:
    """No file above ended the process or was a fault of the server, and nothing but JSON is logged."""
    assert client.get("/readyz").status_code == 200
    assert not [line for line in slide_server.lines() if line["message"] in ("unexpected error", "failed")]
    assert Path(slide_server.log).with_name("stdout.txt").read_bytes() == b""
