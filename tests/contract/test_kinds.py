"""Pipelines of patches and of areas, end to end: over HTTP, by the client and on the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

import toy_kinds
from qupath import check_importable
from served_process import Server, StartServer, environment
from slidecascade import wire
from slidecascade_client import Client, UnexpectedAnswerError

WIDTH, HEIGHT, MPP = 400, 300, 0.5
REGION = {"x": 40, "y": 30, "width": 200, "height": 180}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    toy_kinds.write_models(folder / "models")
    toy_kinds.write_pipelines(folder / "pipelines", toy_kinds.AREAS, toy_kinds.PATCHES)
    (folder / "tile.png").write_bytes(bytes(cv2.imencode(".png", picture()[:, :, ::-1])[1]))
    return folder


@pytest.fixture(scope="module")
def served(folder: Path, start_server: StartServer) -> Server:
    return start_server(models=folder / "models", pipelines_dir=folder / "pipelines")


def picture() -> NDArray[np.uint8]:
    """Tissue with a red frame, a green disc and a black corner."""
    image = np.full((HEIGHT, WIDTH, 3), toy_kinds.TISSUE, np.uint8)
    cv2.rectangle(image, (20, 20), (160, 160), (230, 40, 40), 12)
    cv2.circle(image, (250, 100), 30, (40, 210, 40), -1)
    image[200:, 240:] = 0
    return image


def ask(served: Server, folder: Path, pipeline: str, accept: str, **fields: Any) -> httpx.Response:
    request = {"pipeline": pipeline, "mpp": MPP} | fields
    return httpx.post(
        f"{served.url}/v1/regions",
        files={
            "request": (None, json.dumps(request)),
            "image": ("tile.png", (folder / "tile.png").read_bytes()),
        },
        headers={"Accept": accept},
        timeout=120,
    )


def opened(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def decoded(encoding: str, width: int, height: int) -> NDArray[np.bool_]:
    """A mask from its run lengths, run by run."""
    mask = np.zeros(width * height, np.bool_)
    numbers = list(map(int, encoding.split()))
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(width, height).T


def test_pipelines_say_their_kind(served: Server) -> None:
    """In the list, and each by itself."""
    with Client(served.url) as client:
        kinds = {info.name: info.kind for info in client.pipelines()}
        areas = client.pipeline("toy-areas")
    assert kinds == {"toy-areas": "areas", "toy-patches": "patches"}
    assert (areas.segmenter, areas.classifiers) == ("toy-mask", ())
    assert [(item.name, item.kind) for item in areas.heatmaps] == [("red", "coverage")]


def test_areas_are_annotations_with_holes(served: Server, folder: Path) -> None:
    """QuPath reads them; the frame has a hole; counts and areas are in the summary."""
    answer = ask(served, folder, "toy-areas", wire.GEOJSON)
    assert answer.status_code == 200, answer.text
    assert check_importable(answer.content) == 2
    document = answer.json()
    assert document["slidecascade"]["kind"] == "areas"
    by_class = {item["properties"]["classification"]["name"]: item for item in document["features"]}
    assert {item["properties"]["objectType"] for item in document["features"]} == {"annotation"}
    assert [len(by_class[name]["geometry"]["coordinates"]) for name in ("Red", "Green")] == [2, 1]

    summary = wire.Summary.model_validate_json(ask(served, folder, "toy-areas", wire.JSON).content)
    assert summary.kind == "areas"
    assert summary.counts == {"Red": 1, "Green": 1}
    assert summary.areas is not None
    red = by_class["Red"]["properties"]["measurements"]["Area µm^2"]
    assert summary.areas["Red"].area_mm2 == pytest.approx(red / 1e6, abs=1e-6)


def test_run_lengths_are_the_mask_of_the_region(served: Server, folder: Path) -> None:
    """Column by column, from 1; the mask of the zip has the same pixels."""
    answer = ask(served, folder, "toy-areas", wire.CSV, region=REGION)
    assert answer.headers["content-type"].startswith(wire.CSV)
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == ["Red", "Green"]
    part = picture()[30:210, 40:240]
    for row, color in zip(rows, [(230, 40, 40), (40, 210, 40)], strict=True):
        assert (decoded(row["encoding"], 200, 180) == (part == color).all(axis=2)).all()


def test_patches_are_tiles_and_outlines(served: Server, folder: Path) -> None:
    """Every square has its probability; what is above the threshold is outlined; the grid is a table."""
    answer = ask(served, folder, "toy-patches", wire.GEOJSON)
    assert answer.status_code == 200, answer.text
    features = answer.json()["features"]
    check_importable(json.dumps([item for item in features if "classification" in item["properties"]]))
    tiles = [item for item in features if item["properties"]["objectType"] == "tile"]
    outlines = [item for item in features if item["properties"]["objectType"] == "annotation"]
    assert len(outlines) == 1  # the corner; the disc is dark too, but as green as ink, which is not tissue
    dark = [item for item in tiles if item["properties"].get("classification")]
    assert len(dark) == sum(item["properties"]["measurements"]["Tiles"] for item in outlines)
    for item in tiles:
        probability = item["properties"]["measurements"]["toy-dark Dark probability"]
        assert ("classification" in item["properties"]) == (probability >= 0.5)
    assert len({item["id"] for item in features}) == len(features)

    rows = list(csv.DictReader(io.StringIO(ask(served, folder, "toy-patches", wire.CSV).text)))
    assert list(rows[0]) == ["x", "y", "probability"]
    assert len(rows) == len(tiles)
    first = tiles[0]["geometry"]["coordinates"][0][0]
    assert [int(rows[0]["x"]) * 16, int(rows[0]["y"]) * 16] == first
    summary = wire.Summary.model_validate_json(ask(served, folder, "toy-patches", wire.JSON).content)
    assert summary.patches is not None
    assert summary.patches.patches == len(tiles)
    assert summary.fractions["Dark"].numerator == len(dark) == summary.counts["Dark"]


@pytest.mark.parametrize("pipeline", ["toy-areas", "toy-patches"])
def test_a_figure_is_asked_for_by_style(served: Server, folder: Path, pipeline: str) -> None:
    """The map over the tissue with what explains it; an unknown style is rejected before the work."""
    request = {"request": (None, json.dumps({"pipeline": pipeline, "mpp": MPP, "region": REGION}))}
    files = request | {"image": ("tile.png", (folder / "tile.png").read_bytes())}
    answers = {}
    for style in ("map", "figure", "poster"):
        url = f"{served.url}/v1/regions?style={style}"
        answers[style] = httpx.post(url, files=files, headers={"Accept": wire.PNG}, timeout=120)
    assert opened(answers["map"].content).shape[2] == 4
    assert opened(answers["figure"].content).shape[2] == 3
    assert opened(answers["figure"].content).shape[1] > 700
    assert answers["poster"].status_code == 422
    assert "style" in answers["poster"].json()["detail"]


@pytest.mark.parametrize("pipeline", ["toy-areas", "toy-patches"])
def test_heatmaps_cover_the_region(served: Server, folder: Path, pipeline: str) -> None:
    """A PNG whose shape is the region's, of a region off the lattice too."""
    answer = ask(served, folder, pipeline, wire.PNG, region=REGION)
    image = opened(answer.content)
    assert image.shape[2] == 4
    assert image.shape[1] / image.shape[0] == pytest.approx(200 / 180, rel=0.02)
    assert (image[:, :, 3] > 0).any()


def test_what_a_kind_cannot_be_answered_as_is_refused(served: Server, folder: Path) -> None:
    """An unknown heatmap and an unknown media type, before the work."""
    assert ask(served, folder, "toy-areas", "application/xml").status_code == 406
    wrong = httpx.post(
        f"{served.url}/v1/regions?heatmap=green",
        files={
            "request": (None, '{"pipeline": "toy-areas", "mpp": 0.5}'),
            "image": ("tile.png", (folder / "tile.png").read_bytes()),
        },
        timeout=120,
    )
    assert wrong.json()["type"] == "urn:slidecascade:problem:unknown-heatmap"


def test_cells_have_no_table(server: Server, tissue_png: bytes) -> None:
    """A media type that only other kinds have is refused by name."""
    answer = httpx.post(
        f"{server.url}/v1/regions",
        files={"request": (None, '{"pipeline": "nuclei", "mpp": 0.5}'), "image": ("tile.png", tissue_png)},
        headers={"Accept": wire.CSV},
        timeout=120,
    )
    assert (answer.status_code, wire.CSV in answer.json()["detail"]) == (406, False)


def test_the_client_gives_tiles_and_areas(served: Server, folder: Path, tmp_path: Path) -> None:
    """Typed, with their files."""
    with Client(served.url) as client:
        areas = client.analyze_region(folder / "tile.png", pipeline="toy-areas", mpp=MPP)
        patches = client.analyze_region(folder / "tile.png", pipeline="toy-patches", mpp=MPP)
    assert (areas.kind, patches.kind) == ("areas", "patches")
    assert sorted(area.class_name for area in areas.areas) == ["Green", "Red"]
    assert [len(area.rings) for area in areas.areas if area.class_name == "Red"] == [2]
    assert areas.tiles == ()
    mask = opened(areas.file("mask.tiff"))
    red = next(area.area_um2 for area in areas.areas if area.class_name == "Red")
    assert np.count_nonzero(mask == 1) * MPP**2 == red
    assert len(patches.tiles) == patches.summary.patches.patches  # type: ignore[union-attr]
    assert {tile.class_name for tile in patches.tiles} == {None, "Dark"}
    assert [area.class_name for area in patches.areas] == ["Dark"]
    with pytest.raises(UnexpectedAnswerError, match="no cells but patches"):
        _ = patches.cells
    with pytest.raises(KeyError, match=r"grid\.csv"):
        patches.file("areas_rle.csv")
    saved = {path.name for path in areas.save(tmp_path).rglob("*") if path.is_file()}
    assert saved == {"summary.json", "red.png", "overlay.png", "mask.tiff", "areas_rle.csv", "areas.geojson"}


@pytest.mark.parametrize(
    ("pipeline", "files"),
    [
        (
            "toy-areas",
            {
                *("areas.geojson.gz", "areas_rle.csv", "mask.tiff"),
                *("summary.json", "overlay.png", "red.png", "red.tiff"),
            },
        ),
        (
            "toy-patches",
            {
                *("tiles.geojson.gz", "grid.csv", "grid.npy", "grid.tiff"),
                *("summary.json", "overlay.png", "dark.png", "dark.tiff", "dark_jet.png"),
            },
        ),
    ],
)
def test_the_command_line_writes_their_files(folder: Path, tmp_path: Path, pipeline: str, files: set[str]) -> None:
    """Without a server."""
    command = [sys.executable, "-m", "slidecascade", "analyze", str(folder / "tile.png"), "--pipeline", pipeline]
    command += ["--mpp", "0.5", "--models", str(folder / "models"), "--out", str(tmp_path / "out"), "--gzip"]
    done = subprocess.run(
        command,
        env=environment(tmp_path, pipelines_dir=folder / "pipelines"),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
