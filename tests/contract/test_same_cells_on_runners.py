"""One slide, one answer, whether networks run in the service, in separate processes or on a Triton server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from benchmarks.peers import triton_server

from served_process import Server, StartServer
from slidecascade.settings import bundled_models_dir

WIDTH, HEIGHT = 1024, 768
"""The rendered slide of `slide_root`, in level-0 pixels."""

Feature = dict[str, Any]


def drawn(seed: int) -> dict[str, Any]:
    """A region at any place, of a side of 150 to 500 px, and a tile size or none."""
    rng = np.random.default_rng(seed)
    width, height = (int(rng.integers(150, 500)) for _ in range(2))
    x, y = int(rng.integers(0, WIDTH - width)), int(rng.integers(0, HEIGHT - height))
    tile_px = int(rng.integers(64, 400)) if seed % 3 else None
    return {"region": {"x": x, "y": y, "width": width, "height": height}, "tile_px": tile_px}


@pytest.fixture(scope="module")
def bento(start_server: StartServer, slide_root: Path) -> Iterator[Server]:
    server = start_server(slides=slide_root, runner="bento")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def triton(
    start_server: StartServer, slide_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    try:
        triton_server.runtime()
    except triton_server.NoTritonError as missing:
        pytest.skip(str(missing))
    with triton_server.serving(bundled_models_dir(), tmp_path_factory.mktemp("triton")) as networks:
        server = start_server(slides=slide_root, runner="triton", triton_url=networks.url)
        yield server
        server.stop()


def analysed(server: Server, **fields: Any) -> list[Feature]:
    request = {"pipeline": "nash", "slide": "rendered.tiff", **fields}
    answer = httpx.post(f"{server.url}/v1/regions", json=request, timeout=300)
    assert answer.status_code == 200, answer.text
    features: list[Feature] = answer.json()["features"]
    return features


@pytest.fixture(scope="module")
def whole(server: Server) -> dict[str, Feature]:
    """The cells of the whole slide, by id, with the networks in the process."""
    return {feature["id"]: feature for feature in analysed(server)}


def box_of(feature: Feature) -> tuple[float, float, float, float]:
    ring = np.array(feature["geometry"]["coordinates"][0])
    return (*ring.min(axis=0), *ring.max(axis=0))


def require_restriction(found: list[Feature], whole: dict[str, Feature], region: dict[str, int]) -> None:
    """`found` has every cell of `whole` inside `region`, none outside, and of those on its edge any."""
    left, top = region["x"], region["y"]
    right, bottom = left + region["width"], top + region["height"]
    ids = {feature["id"] for feature in found}
    assert len(ids) == len(found) > 5
    assert ids <= whole.keys()
    for cell in whole.values():
        x0, y0, x1, y1 = box_of(cell)
        if left <= x0 and top <= y0 and x1 < right and y1 < bottom:
            assert cell["id"] in ids
        elif x1 < left or y1 < top or x0 >= right or y0 >= bottom:
            assert cell["id"] not in ids


def exactly(found: Feature, expected: Feature) -> None:
    assert found == expected


def to_the_last_digit(found: Feature, expected: Feature) -> None:
    """Ids, outlines and classes exactly; a server that joins calls may round the last digit of a probability."""
    mine, theirs = dict(found["properties"]), dict(expected["properties"])
    assert mine.pop("measurements") == pytest.approx(theirs.pop("measurements"), abs=1.1e-4)
    assert (found["id"], found["geometry"], mine) == (expected["id"], expected["geometry"], theirs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("runner", "same"), [("server", exactly), ("bento", exactly), ("triton", to_the_last_digit)]
)
def test_the_cells_of_any_region_are_those_of_the_whole_slide_on_every_runner(
    request: pytest.FixtureRequest,
    whole: dict[str, Feature],
    runner: str,
    same: Callable[[Feature, Feature], None],
    seed: int,
) -> None:
    """At any origin, size and tile size: the same ids, outlines, classes and probabilities."""
    fields = drawn(seed)
    found = analysed(request.getfixturevalue(runner), **fields)
    require_restriction(found, whole, fields["region"])
    for feature in found:
        same(feature, whole[feature["id"]])
