"""A job of the EMPAIA platform (a fake one), done by the command and a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from empaia_fake import JOB, TOKEN, FakePlatform, fake_platform
from served_process import Server, StartServer
from slidecascade.cli import main
from slidecascade.empaia.app import class_value
from slidecascade_client import Client
from toy_pipeline import ToyPipeline, blobs

MPP = 0.5
PIXELS = blobs(5, 1500, 900, 300)
RECTANGLES = [
    {"id": "17b8a8a3-1e3f-4b0c-9d2b-0a4c1f6b2c11", "upper_left": [600, 300], "width": 400, "height": 350},
    {"id": "2a7f10c2-8a55-4d0e-8f0e-5b8b3f1f6a22", "upper_left": [0, 0], "width": 300, "height": 200},
]
NAMESPACE = "org.empaia.vendor.app.v3.0"


@pytest.fixture(scope="module")
def toy_server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder: Path = tmp_path_factory.mktemp("empaia")
    toy = ToyPipeline(folder / "toy")
    return start_server(models=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=2)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlatform]:
    with fake_platform(PIXELS, MPP, [dict(one) for one in RECTANGLES]) as fake:
        monkeypatch.setenv("EMPAIA_APP_API", fake.url)
        monkeypatch.setenv("EMPAIA_JOB_ID", JOB)
        monkeypatch.setenv("EMPAIA_TOKEN", TOKEN)
        yield fake


def command(server: Server, *options: str) -> int:
    return main(["empaia", "--pipeline", "toy", "--namespace", NAMESPACE, "--url", server.url, *options])


def expected(server: Server, rectangle: dict[str, Any]) -> dict[tuple[int, int], str]:
    """The class of each cell of the whole slide whose centroid a rectangle has, by its rounded first vertex."""
    box = (*rectangle["upper_left"], rectangle["width"], rectangle["height"])
    with (
        Client(server.url) as client,
        client.analyze_region(PIXELS, pipeline="toy", mpp=MPP, region=box) as result,
    ):
        return {
            tuple(np.rint(cell.polygon[0]).astype(int).tolist()): class_value(NAMESPACE, cell.class_name)
            for cell in result.cells
        }


def test_a_job_has_the_cells_of_the_slide(
    toy_server: Server, platform: FakePlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    """For each rectangle: polygons where they lie on the slide, their classes and counts; then it is finalized."""
    assert command(toy_server) == 0
    assert platform.ended == "finalized"
    assert "finalized" in capsys.readouterr().out
    for rectangle, cells, classes, counts in zip(
        RECTANGLES, platform.of("cells"), platform.of("classes"), platform.of("counts"), strict=True
    ):
        by_id = {item["reference_id"]: item["value"] for item in classes}
        found = {tuple(cell["coordinates"][0]): by_id[cell["id"]] for cell in cells}
        assert len(found) > 5
        assert found == expected(toy_server, rectangle)
        assert {item["reference_id"] for item in counts} == {rectangle["id"]}
        assert sum(item["value"] for item in counts) == len(cells)


def test_a_platform_that_is_busy_is_asked_again(toy_server: Server, platform: FakePlatform) -> None:
    platform.refuses = [503, 429]
    assert command(toy_server) == 0
    assert platform.ended == "finalized"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slide-key", "other"), "inputs"),
        (("--regions-key", "slide"), "rectangle"),
        (("--pipeline", "nope"), "nope"),
    ],
)
def test_a_job_that_cannot_be_done_fails_with_a_sentence(
    toy_server: Server, platform: FakePlatform, options: tuple[str, ...], message: str
) -> None:
    """The platform gets it, and the command exits with an error."""
    assert command(toy_server, *options) != 0
    assert platform.ended is not None
    assert message in platform.ended


def test_a_rectangle_outside_of_the_slide_fails(toy_server: Server, platform: FakePlatform) -> None:
    platform.rectangles[0]["upper_left"] = [5000, 10]
    assert command(toy_server) == 1
    assert "outside" in (platform.ended or "")


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("EMPAIA_APP_API", "EMPAIA_JOB_ID", "EMPAIA_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert main(["empaia", "--pipeline", "toy", "--namespace", NAMESPACE]) == 2
    assert "EMPAIA_APP_API" in capsys.readouterr().err
