"""Tiles and thumbnails of slides over HTTP, and the page without a browser."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from served_process import Server
from slidecascade.web.viewer import viewer_routes

SLIDE = "v1/slides/ward 7/nested.tiff"
NAMESPACE = "{http://schemas.microsoft.com/deepzoom/2008}"


def get(server: Server, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/{path}", headers=headers, timeout=30)


def test_the_description_states_the_size_of_level_0(server: Server) -> None:
    image = ET.fromstring(get(server, f"{SLIDE}/dzi").content)  # noqa: S314 - our own answer
    assert image.attrib == {"Format": "jpeg", "Overlap": "0", "TileSize": "256"}
    size = image.find(f"{NAMESPACE}Size")
    assert size is not None
    assert size.attrib == {"Width": "1024", "Height": "768"}


@pytest.mark.parametrize(("address", "size"), [("10/3_2", (256, 256)), ("9/1_1", (256, 128)), ("0/0_0", (1, 1))])
def test_tiles_have_the_size_of_their_place(server: Server, address: str, size: tuple[int, int]) -> None:
    answer = get(server, f"{SLIDE}/dzi_files/{address}.jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == size


@pytest.mark.parametrize("address", ["10/4_0", "11/0_0", "10/0_-1", "-1/0_0"])
def test_a_tile_outside_the_pyramid_is_not_found(server: Server, address: str) -> None:
    assert get(server, f"{SLIDE}/dzi_files/{address}.jpeg").status_code == 404


@pytest.mark.parametrize("part", ["dzi", "dzi_files/10/0_0.jpeg", "thumbnail?max_px=64"])
def test_a_client_that_has_a_picture_is_not_sent_it_again(server: Server, part: str) -> None:
    first = get(server, f"{SLIDE}/{part}")
    again = get(server, f"{SLIDE}/{part}", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # The same content under another name is the same picture. An address that names the content is kept for good.
    twin = get(server, f"v1/slides/rendered.tiff/{part}")
    assert twin.headers["etag"] == first.headers["etag"]
    assert twin.headers["cache-control"] == "private, no-cache"
    content_id = get(server, SLIDE).json()["content_id"]
    exact = get(server, f"{SLIDE}/{part}{'&' if '?' in part else '?'}content_id={content_id}")
    assert exact.headers["cache-control"] == "private, max-age=31536000, immutable"


def test_who_states_a_former_content_is_informed(server: Server) -> None:
    """Also by a tile that the slide no longer has, as a grey pixel for those who take stand-ins."""
    tile = get(server, f"{SLIDE}/dzi_files/0/0_0.jpeg?content_id=former")
    assert (tile.status_code, tile.headers["slidecascade-replaced"]) == (200, "1")
    outside = f"{SLIDE}/dzi_files/0/7_7.jpeg?content_id=former"
    assert get(server, outside).status_code == 404
    pixel = get(server, f"{outside}&standin=1")
    assert (pixel.status_code, pixel.headers["slidecascade-replaced"]) == (200, "1")
    content_id = get(server, SLIDE).json()["content_id"]
    for query in ("", f"?content_id={content_id}"):
        assert "slidecascade-replaced" not in get(server, f"{SLIDE}/dzi_files/0/0_0.jpeg{query}").headers
    assert get(server, f"{SLIDE}/dzi_files/0/7_7.jpeg?content_id={content_id}&standin=1").status_code == 404


def test_head_has_the_headers_and_no_content(server: Server) -> None:
    answer = httpx.head(f"{server.url}/{SLIDE}/thumbnail", timeout=30)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == get(server, f"{SLIDE}/thumbnail").headers["etag"]


@pytest.mark.parametrize("part", ["dzi", "dzi_files/10/0_0.jpeg", "thumbnail"])
def test_an_unknown_slide_has_no_pictures(server: Server, part: str) -> None:
    answer = get(server, f"v1/slides/gone.svs/{part}")
    assert answer.json()["type"] == "urn:slidecascade:problem:unknown-slide"


def test_the_list_says_of_a_slide_that_is_named_what_it_is_or_why_it_cannot_be_shown(server: Server) -> None:
    answer = get(server, "v1/slides?only=gone.svs")
    (gone,) = answer.raise_for_status().json()["slides"]
    (nested,) = get(server, "v1/slides?only=ward 7/nested.tiff").raise_for_status().json()["slides"]
    assert "info" not in gone
    assert gone["problem"]["type"] == "urn:slidecascade:problem:unknown-slide"
    assert gone["problem"]["request_id"] == answer.headers["x-request-id"]
    assert nested["id"] == "ward 7/nested.tiff"
    assert "problem" not in nested
    assert nested["info"] == get(server, SLIDE).json()
    assert None in nested["info"].values()
    assert all(set(slide) == {"id"} for slide in get(server, "v1/slides").json()["slides"])


@pytest.mark.parametrize(
    "part", ["dzi_files/10/a_0.jpeg", "thumbnail?max_px=8", "thumbnail?standin=2", "thumbnail?max_px=5000"]
)
def test_impossible_addresses_are_invalid(server: Server, part: str) -> None:
    answer = get(server, f"{SLIDE}/{part}")
    assert answer.json()["type"] == "urn:slidecascade:problem:invalid-request"


async def test_a_page_that_was_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(viewer_routes(tmp_path / "missing"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        answer = await client.get("/viewer/")
    assert answer.status_code == 404
    assert "make viewer" in answer.json()["detail"]


def test_a_slide_in_colour_has_no_channels_to_choose(server: Server) -> None:
    answer = get(server, f"{SLIDE}/thumbnail?channels=0:ff0000:0:1")
    assert answer.json()["type"] == "urn:slidecascade:problem:invalid-request"


def test_a_crop_shows_what_a_network_is_given_around_a_point(server: Server) -> None:
    """Of a classifier the crop of its own size, resized to its input; of a segmenter a part of its tile."""
    where = "pipeline=nash&x=500.25&y=300.75&mpp=0.25"
    found = {
        model: np.asarray(Image.open(io.BytesIO(get(server, f"{SLIDE}/crops/{model}.png?{where}").content)))
        for model in ("nuclei-unet", "nash-cell", "nash-hepatocyte")
    }
    shapes = {model: picture.shape for model, picture in found.items()}
    assert shapes == {"nuclei-unet": (128, 128, 3), "nash-cell": (72, 72, 3), "nash-hepatocyte": (96, 96, 3)}
    moved = get(server, f"{SLIDE}/crops/nash-hepatocyte.png?{where.replace('500.25', '540.25')}")
    assert not np.array_equal(np.asarray(Image.open(io.BytesIO(moved.content))), found["nash-hepatocyte"])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("crops/gone.png?pipeline=nash&x=5&y=5&mpp=0.25", "unknown-model"),
        ("crops/nash-cell.png?pipeline=gone&x=5&y=5", "unknown-pipeline"),
        ("crops/nash-cell.png?pipeline=nash&x=5000&y=5&mpp=0.25", "region-outside-slide"),
        ("crops/nash-cell.png?pipeline=nash&x=5", "invalid-request"),
        ("crops/nash-cell.png?pipeline=nash&x=5&y=5&stain=blue", "invalid-request"),
    ],
)
def test_an_impossible_crop_is_a_problem(server: Server, path: str, name: str) -> None:
    assert get(server, f"{SLIDE}/{path}").json()["type"] == f"urn:slidecascade:problem:{name}"
