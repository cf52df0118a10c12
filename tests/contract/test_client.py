"""The client against a real served process."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from served_process import Server
from slidecascade.wire import RESEARCH_USE_ONLY
from slidecascade_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    MissingResolutionError,
    RegionOutsideSlideError,
    RegionResult,
    RequestRefusedError,
    SlideCascadeClientError,
    UndecodableImageError,
    UnknownModelError,
    UnknownPipelineError,
    UnknownSlideError,
    UnreadableSlideError,
    UploadTooLargeError,
)
from slidecascade_client.png import png_chunks


class Ask(Protocol):
    """One call on a fresh client of either kind."""

    def __call__(self, url: str, method: str, *args: Any, **kwargs: Any) -> Any: ...


def _ask_sync(url: str, method: str, *args: Any, **kwargs: Any) -> Any:
    with Client(url) as client:
        return getattr(client, method)(*args, **kwargs)


def _ask_async(url: str, method: str, *args: Any, **kwargs: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(ask())


both_clients = pytest.mark.parametrize("ask", [_ask_sync, _ask_async], ids=["sync", "async"])


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """A pale field, 384 x 320 px, with dark discs in a grid."""
    y, x = np.mgrid[:320, :384]
    inside = ((x % 64 - 32) ** 2 + (y % 64 - 32) ** 2) < 10**2
    field = np.where(inside[..., None], (90, 50, 130), (235, 200, 220))
    return field.astype(np.uint8)


@pytest.fixture(scope="module")
def pipeline(server: Server) -> str:
    """The name of a pipeline of the served process: `nuclei` where there is one."""
    with Client(server.url) as client:
        names = [info.name for info in client.pipelines()]
    return "nuclei" if "nuclei" in names else names[0]


@both_clients
def test_a_region_is_analysed(
    ask: Ask, server: Server, pipeline: str, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    """One call gives cells, numbers and pictures that agree with each other, and saves them."""
    path = tmp_path / "tile.png"
    path.write_bytes(b"".join(png_chunks(pixels)))
    result = ask(server.url, "analyze_region", path, pipeline=pipeline, mpp=0.5)
    assert isinstance(result, RegionResult)
    summary = result.summary
    assert summary.research_use_only == RESEARCH_USE_ONLY
    assert (summary.coordinate_space, summary.mpp) == ("image-pixels", 0.5)
    assert (summary.region.width, summary.region.height) == (384, 320)
    assert sum(result.counts.values()) == summary.cells == len(result.cells) > 0
    for cell in result.cells:
        assert uuid.UUID(cell.id).version == 5
        assert cell.class_name in result.counts
        assert cell.polygon.shape[0] >= 3
        assert (cell.polygon >= -1).all()
        assert (cell.polygon <= (385, 321)).all()
        assert 0 <= cell.score <= 1
        assert cell.area_um2 > 0
        assert all(sum(stage.values()) == pytest.approx(1, abs=0.01) for stage in cell.probabilities.values())
    assert set(result.heatmaps) == {legend.name for legend in summary.heatmaps}
    assert all(picture.startswith(b"\x89PNG") for picture in (result.overlay, *result.heatmaps.values()))
    folder = result.save(tmp_path / "out")
    assert (folder / "summary.json").stat().st_size > 0
    assert (folder / "cells.geojson").stat().st_size > 0


def test_every_way_to_give_an_image_gives_the_same_cells(
    server: Server, pipeline: str, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Path, bytes, file and array are one image; both clients, one answer."""
    content = b"".join(png_chunks(pixels))
    path = tmp_path / "tile.png"
    path.write_bytes(content)
    with path.open("rb") as file:
        results = [
            ask(server.url, "analyze_region", image, pipeline=pipeline, mpp=0.5)
            for ask, image in ((_ask_sync, path), (_ask_async, content), (_ask_sync, file), (_ask_async, pixels))
        ]
    ids = [{cell.id for cell in result.cells} for result in results]
    assert ids[0] == ids[1] == ids[2] == ids[3]


@both_clients
def test_a_part_of_an_image_is_analysed(
    ask: Ask, server: Server, pipeline: str, pixels: NDArray[np.uint8]
) -> None:
    """`region` is in pixels of the image, and so are the cells."""
    result = ask(server.url, "analyze_region", pixels, pipeline=pipeline, mpp=0.5, region=(64, 128, 192, 128))
    assert result.summary.region.model_dump() == {"x": 64, "y": 128, "width": 192, "height": 128}
    for cell in result.cells:
        assert (cell.polygon >= (63, 127)).all()
        assert (cell.polygon <= (257, 257)).all()


@both_clients
def test_a_region_of_a_slide_is_analysed(ask: Ask, server: Server, pipeline: str) -> None:
    """A slide is named by an id of the listing, folders and spaces included, and states its own mpp."""
    nested = [slide.id for slide in ask(server.url, "slides").slides if "/" in slide.id]
    info = ask(server.url, "slide", nested[0])
    region = (256, 128, 256, 192)
    result = ask(server.url, "analyze_region", pipeline=pipeline, slide=info.id, region=region)
    assert (result.summary.coordinate_space, result.summary.mpp) == ("level0-pixels", info.mpp)
    assert result.summary.region.model_dump() == {"x": 256, "y": 128, "width": 256, "height": 192}
    assert len(result.cells) == result.summary.cells > 0
    for cell in result.cells:
        assert (cell.polygon >= (255, 127)).all()
        assert (cell.polygon <= (513, 321)).all()


@both_clients
def test_what_is_served_is_listed(ask: Ask, server: Server) -> None:
    """Every pipeline names models that are served; each can be asked for by name."""
    models = {model.name: model for model in ask(server.url, "models")}
    for info in ask(server.url, "pipelines"):
        assert {info.segmenter, *info.classifiers} - {None} <= models.keys()
        assert ask(server.url, "pipeline", info.name) == info
    for name, model in models.items():
        assert ask(server.url, "model", name) == model
    for slide in ask(server.url, "slides").slides[:3]:
        try:
            assert ask(server.url, "slide", slide.id).id == slide.id
        except UnreadableSlideError:
            continue  # a broken file is listed, and reported as such


@both_clients
def test_health_is_yes(ask: Ask, server: Server) -> None:
    """A running service is alive and ready."""
    assert ask(server.url, "alive") is True
    assert ask(server.url, "ready") is True


@both_clients
@pytest.mark.parametrize(
    ("arguments", "expected", "status"),
    [
        ({"mpp": None}, MissingResolutionError, 422),
        ({"pipeline": "none-such"}, UnknownPipelineError, 404),
        ({"image": b"plain text"}, UndecodableImageError, 422),
        ({"image": b""}, UndecodableImageError, 422),
        ({"image": bytes(2**24)}, UploadTooLargeError, 413),  # the fixture's limit is half of it
        ({"region": (10_000, 0, 64, 64)}, RegionOutsideSlideError, 422),
        ({"thresholds": {"none-such": 0.5}}, (InvalidRequestError, UnknownModelError), None),
        ({"image": None, "slide": "../../etc/passwd"}, UnknownSlideError, 404),
        ({"image": None, "slide": "none.svs"}, UnknownSlideError, 404),
        ({"deadline_s": 0.001}, DeadlineExceededError, 504),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_the_service_refuses_is_a_typed_error(
    ask: Ask,
    server: Server,
    pipeline: str,
    pixels: NDArray[np.uint8],
    arguments: dict[str, Any],
    expected: type[SlideCascadeClientError],
    status: int | None,
) -> None:
    """The error has its own class, a sentence and the request id; the next request works."""
    fields = {"image": pixels, "pipeline": pipeline, "mpp": 0.5, **arguments}
    with pytest.raises(expected) as caught:
        ask(server.url, "analyze_region", fields.pop("image"), **fields)
    assert status is None or caught.value.status == status
    assert caught.value.problem is not None
    assert caught.value.problem.request_id == caught.value.request_id
    assert caught.value.message.endswith(".")
    assert ask(server.url, "alive") is True


@both_clients
@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("pipeline", "none-such", UnknownPipelineError),
        ("model", "none/such", RequestRefusedError),
        ("model", "none-such", UnknownModelError),
        ("slide", "../models", UnknownSlideError),
        ("slide", "..", UnknownSlideError),
        ("slide", "a b#?%ä.svs", UnknownSlideError),
    ],
)
def test_unknown_names_are_typed_errors(
    ask: Ask, server: Server, method: str, name: str, expected: type[SlideCascadeClientError]
) -> None:
    """Whatever the name, the answer is about that name."""
    with pytest.raises(expected) as caught:
        ask(server.url, method, name)
    assert caught.value.status == 404


def test_the_request_id_is_the_clients(server: Server) -> None:
    """The id that was sent is the one of the answer, so both logs can be joined."""
    sent: list[str] = []

    with (
        httpx.Client(event_hooks={"request": [lambda r: sent.append(r.headers["X-Request-Id"])]}) as http,
        Client(server.url, http_client=http) as client,
        pytest.raises(UnknownModelError) as caught,
    ):
        client.model("none-such")
    assert sent == [caught.value.request_id]
