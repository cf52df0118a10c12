"""What a viewer asks of a job: the cells of fields, tiles of classes and heatmaps, and what it may keep."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import cv2
import geopandas
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from long_slide import HEIGHT, WIDTH
from served_jobs import GEOJSON, LIMIT_S, StartJobs, ended, features, problem, show, submit
from served_process import Server
from slidecascade.geometry import Size
from slidecascade.slides.deepzoom import max_level
from slidecascade_client import AsyncClient, Client, FieldCells

TOP = max_level(Size(WIDTH, HEIGHT))


def field(server: Server, job: str, index: int, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/jobs/{job}/fields/{index}", headers=headers, timeout=30)


def tile(server: Server, job: str, name: str, level: int, column: int, row: int, **query: str) -> httpx.Response:
    url = f"{server.url}/v1/jobs/{job}/layers/{name}/{level}/{column}_{row}.png"
    return httpx.get(url, params=query, timeout=30)


def pixels(answer: httpx.Response) -> NDArray[np.uint8]:
    """RGBA."""
    assert answer.headers["content-type"] == "image/png"
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), np.uint8)


@pytest.fixture(scope="module")
def cells(job_server: Server, done_job: str) -> list[dict[str, object]]:
    """The features of the job."""
    answer = httpx.get(f"{job_server.url}/v1/jobs/{done_job}/result", headers=GEOJSON, timeout=30)
    return [json.loads(line) for line in features(answer.content)]


def test_fields_together_are_the_cells_of_the_result(
    job_server: Server, done_job: str, cells: list[dict[str, object]]
) -> None:
    """Every outline, class and probability once, read by the client's decoder, against the GeoParquet file."""
    total = show(job_server, done_job)["progress"]["fields_total"]
    read = [FieldCells.read(field(job_server, done_job, index).content) for index in range(total)]
    assert [part.index for part in read] == list(range(total))
    assert all(part.is_final for part in read)
    url = f"{job_server.url}/v1/jobs/{done_job}/files/cells.parquet"
    table = geopandas.read_parquet(io.BytesIO(httpx.get(url, timeout=30).content))
    outlines = [outline for part in read for outline in part.outlines]
    assert len(outlines) == len(table) == len(cells) > 100
    for outline, polygon in zip(outlines, table.geometry, strict=True):
        ring = np.array(polygon.exterior.coords)[:-1]
        assert outline.shape == ring.shape
        assert np.abs(outline - ring).max() <= 1 / 32
    names = [part.classes[place] for part in read for place in part.class_index]
    assert names == list(table["class"])
    probability = np.concatenate([part.probability for part in read])
    assert len(set(names)) > 2
    for name in set(names) - {"Unclassified"}:
        first, _, second = name.partition(": ")
        column = f"toy-second {second} probability" if second else f"toy-classifier {first} probability"
        chosen = np.array(names) == name
        assert np.array_equal(probability[chosen], table[column][chosen].to_numpy(np.float32))


def test_cells_of_a_box_as_columns_are_those_of_geojson(job_server: Server, done_job: str) -> None:
    """Ids, outlines, classes with colours and all measurements, as docs/jobs.md describes the columns."""
    url = f"{job_server.url}/v1/jobs/{done_job}/cells?bbox=300,100,700,400"
    stated = json.loads(httpx.get(url, timeout=30).content)["features"]
    answer = httpx.get(url, headers={"Accept": "application/vnd.slidecascade.cells"}, timeout=30)
    assert (answer.headers["content-type"], answer.headers["vary"]) == (
        "application/vnd.slidecascade.cells",
        "Accept",
    )
    assert len(stated) > 20
    assert unpacked(answer.content) == [
        {
            "id": item["id"],
            "ring": item["geometry"]["coordinates"][0],
            "class": item["properties"]["classification"],
            "measurements": item["properties"]["measurements"],
        }
        for item in stated
    ]


def unpacked(data: bytes) -> list[dict[str, object]]:
    magic, version, width, _, count, vertices, measured, named = struct.unpack_from("<4s2BH4I", data)
    assert (magic, version) == (b"SCBC", 1)
    names = json.loads(data[24 : 24 + named])
    at = 24 + named

    def take(kind: str, *shape: int) -> NDArray[Any]:
        nonlocal at
        found = np.frombuffer(data, kind, int(np.prod(shape)), at).reshape(shape)
        at += found.nbytes
        return found

    firsts, sizes, values = take("<i4", count, 2), take("<u4", count), take("<f4", measured, count)
    ways, classes, ids = take(f"<i{width}", vertices - count, 2), take("u1", count), take("S36", count)
    assert at == len(data)
    ends = np.cumsum(sizes.astype(np.int64) - 1)
    cells = []
    for cell, (first, way) in enumerate(zip(firsts, np.split(ways.astype(np.int64), ends[:-1]), strict=True)):
        points = np.concatenate([first[None], first + np.cumsum(way, axis=0), first[None]])
        pairs = zip(names["measurements"], values[:, cell].tolist(), strict=True)
        cells.append(
            {
                "id": ids[cell].decode(),
                "ring": [[x / 100, y / 100] for x, y in points.tolist()],
                "class": names["classes"][classes[cell]],
                "measurements": {
                    item["name"]: round(value, item["decimals"]) for item, value in pairs if not np.isnan(value)
                },
            }
        )
    return cells


def test_the_fields_that_are_done_are_listed(job_server: Server, done_job: str) -> None:
    total = show(job_server, done_job)["progress"]["fields_total"]
    answer = httpx.get(f"{job_server.url}/v1/jobs/{done_job}/fields", timeout=30)
    assert answer.json() == {"fields": list(range(total))}
    missing = httpx.get(f"{job_server.url}/v1/jobs/00000000-0000-0000-0000-000000000000/fields", timeout=30)
    assert problem(missing) == (404, "unknown-job")


def test_a_field_is_served_while_the_job_runs(start_job_server: StartJobs, tmp_path: Path) -> None:
    """As soon as it is done, to be asked after again; the final one has another ETag."""
    server = start_job_server(tmp_path / "jobs", max_fields_in_flight=1)
    job = str(submit(server)["id"])
    server.wait(lambda: show(server, job)["progress"]["fields_done"] >= 1, seconds=LIMIT_S)
    answers = [field(server, job, index) for index in range(4)]
    early = next(answer for answer in answers if answer.status_code == 200)
    if show(server, job)["status"] == "running":
        assert not FieldCells.read(early.content).is_final
        assert early.headers["cache-control"] == "private, no-cache"
    ended(server, job)
    index = answers.index(early)
    final = field(server, job, index, **{"If-None-Match": early.headers["etag"]})
    assert final.status_code == 200
    assert FieldCells.read(final.content).is_final
    assert len(FieldCells.read(final.content).outlines) > 10
    assert server.stop() == 0


def test_what_a_viewer_has_is_not_sent_again(job_server: Server, done_job: str) -> None:
    """304 with the ETag for fields, tiles, files and results; immutable where it never changes."""
    url = f"{job_server.url}/v1/jobs/{done_job}"
    for path, accept, cache in (
        ("fields/0", "*/*", "immutable"),
        (f"layers/classes/{TOP}/0_0.png", "image/png", "immutable"),
        ("layers/red/8/0_0.png", "image/png", "immutable"),
        ("files/cells.parquet", "*/*", "no-cache"),
        ("result", "application/geo+json", "no-cache"),
        ("result", "application/json", "no-cache"),
        ("result", "application/zip", "no-cache"),
    ):
        first = httpx.get(f"{url}/{path}", headers={"Accept": accept}, timeout=30)
        assert first.status_code == 200
        assert cache in first.headers["cache-control"]
        assert "private" in first.headers["cache-control"]
        again = httpx.get(
            f"{url}/{path}", headers={"Accept": accept, "If-None-Match": f'"x", {first.headers["etag"]}'}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"].removeprefix("W/") == first.headers["etag"].removeprefix("W/")
        other = httpx.get(f"{url}/{path}", headers={"Accept": accept, "If-None-Match": '"x"'}, timeout=30)
        assert other.content == first.content
        head = httpx.head(f"{url}/{path}", headers={"Accept": accept}, timeout=30)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"].removeprefix("W/") == first.headers["etag"].removeprefix("W/")
        assert head.headers["content-type"] == first.headers["content-type"]
    for path in ("", "/files", "/cells?bbox=0,0,100,100"):
        assert httpx.head(url + path, timeout=30).status_code == 200
    assert httpx.head(f"{job_server.url}/v1/jobs", timeout=30).status_code == 200


def test_tiles_of_classes_show_the_cells(job_server: Server, done_job: str) -> None:
    """At full size a tile is the outlines filled with their classes' colours, and transparent elsewhere."""
    path = f"{job_server.url}/v1/jobs/{done_job}/cells"
    box = httpx.get(path, params={"bbox": "5120,0,256,256"}, timeout=30).json()["features"]
    shown = pixels(tile(job_server, done_job, "classes", TOP, 20, 0))
    assert shown.shape == (256, 256, 4)
    expected = np.zeros((256, 256), np.uint8)
    for feature in box:
        ring = np.array(feature["geometry"]["coordinates"][0]) - [5120, 0]
        cv2.fillPoly(expected, [np.rint((ring - 0.5) * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    assert (expected > 0).mean() > 0.02
    assert (shown[:, :, 3] == expected).mean() > 0.999
    colors = {tuple(feature["properties"]["classification"]["color"]) for feature in box}
    assert {tuple(color) for color in shown[expected > 0][:, :3].tolist()} <= colors


def test_tiles_of_all_levels_show_the_same_share(job_server: Server, done_job: str) -> None:
    """Each level covers about as much of the slide as the one above it; the sides are those of Deep Zoom."""
    shares = {}
    for level in range(TOP, 7, -1):
        downsample = 2 ** (TOP - level)
        width, height = -(-WIDTH // downsample), -(-HEIGHT // downsample)
        covered = 0.0
        for column in range(-(-width // 256)):
            for row in range(-(-height // 256)):
                shown = pixels(tile(job_server, done_job, "classes", level, column, row))
                assert shown.shape[:2] == (min(256, height - 256 * row), min(256, width - 256 * column))
                covered += float(shown[:, :, 3].sum()) / 255
        shares[level] = covered / (width * height)
    assert shares[TOP] > 0.02
    assert all(0.7 < share / shares[TOP] < 1.6 for share in shares.values()), shares
    assert pixels(tile(job_server, done_job, "classes", 0, 0, 0)).shape == (1, 1, 4)


def test_tiles_of_heatmaps_are_the_heatmap(job_server: Server, done_job: str) -> None:
    """Coloured as its PNG is, at the same places; another colormap on request."""
    result = httpx.get(
        f"{job_server.url}/v1/jobs/{done_job}/result", headers={"Accept": "image/png"}, params={"heatmap": "red"}
    )
    whole = pixels(result)
    level = 11
    downsample = 2 ** (TOP - level)
    shown = pixels(tile(job_server, done_job, "red", level, 2, 0))
    rows, columns = np.mgrid[4 : shown.shape[0] - 4, 4 : shown.shape[1] - 4]
    ys = ((rows + 0.5) * downsample * whole.shape[0] / HEIGHT).astype(int).clip(0, whole.shape[0] - 1)
    xs = ((columns + 512 + 0.5) * downsample * whole.shape[1] / WIDTH).astype(int).clip(0, whole.shape[1] - 1)
    there = whole[ys, xs]
    here = shown[rows, columns]
    both = (there[:, :, 3] > 0) & (here[:, :, 3] > 0)
    assert both.mean() > 0.2
    assert ((there[:, :, 3] > 0) == (here[:, :, 3] > 0)).mean() > 0.97
    assert np.abs(there[both].astype(int) - here[both].astype(int)).mean() < 6
    assert (
        tile(job_server, done_job, "red", level, 2, 0, colormap="jet").content
        != tile(job_server, done_job, "red", level, 2, 0).content
    )
    assert problem(tile(job_server, done_job, "red", level, 2, 0, colormap="x")) == (422, "invalid-request")


def test_what_is_not_there_is_named(job_server: Server, done_job: str) -> None:
    """A layer, a tile, a field, a job that does not exist or has not ended."""
    assert problem(tile(job_server, done_job, "none", TOP, 0, 0)) == (404, "unknown-heatmap")
    for level, column, row in ((TOP + 1, 0, 0), (-1, 0, 0), (TOP, 1000, 0), (TOP, 0, 2), (TOP, -1, 0)):
        assert problem(tile(job_server, done_job, "classes", level, column, row)) == (404, "not-found")
    assert problem(field(job_server, done_job, 1000)) == (404, "not-found")
    assert problem(field(job_server, done_job, -1)) == (404, "not-found")
    assert problem(field(job_server, "none", 0)) == (404, "unknown-job")
    assert problem(tile(job_server, "../..", "classes", TOP, 0, 0))[0] == 404
    waiting = str(submit(job_server)["id"])
    assert problem(tile(job_server, waiting, "classes", TOP, 0, 0)) == (409, "job-not-finished")
    httpx.post(f"{job_server.url}/v1/jobs/{waiting}/cancel")


async def test_the_clients_fetch_fields_and_tiles(job_server: Server, done_job: str) -> None:
    """Both, decoded."""
    with Client(job_server.url) as client:
        job = client.job(done_job)
        assert job.layer("classes", level=TOP, column=0, row=0).startswith(b"\x89PNG")
        cells = job.field(0)
    async with AsyncClient(job_server.url) as client:
        later = await client.job(done_job)
        assert (await later.layer("red", level=8, column=0, row=0)).startswith(b"\x89PNG")
        assert len((await later.field(0)).outlines) == len(cells.outlines) > 10
