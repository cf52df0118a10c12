"""The public contract against a real ``slidecascade serve`` process."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from cut_jpeg import cut_jpeg, cut_parts, tiled_jpeg_tiff
from served_process import Server, Upload
from slidecascade import wire
from slidecascade_client import Client
from slidecascade_render.liver.tissue import TissueOptions, render

MPP = 0.5
SLIDE = {"pipeline": "nuclei", "slide": "rendered.tiff"}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made


def form(image: bytes, **fields: Any) -> dict[str, Any]:
    request = {"pipeline": "nuclei", "mpp": MPP} | fields
    return {"image": ("Doe, Jane 1970.png", image), "request": (None, json.dumps(request))}


def problem(response: httpx.Response) -> wire.Problem:
    """The problem in an answer, after the checks every one must pass."""
    assert response.headers["content-type"] == wire.PROBLEM
    problem_of = wire.Problem.model_validate_json(response.content)
    assert problem_of.status == response.status_code
    assert problem_of.request_id == response.headers["x-request-id"]
    assert problem_of.detail.endswith(".")
    assert not re.search(r"Traceback|File \"|/tmp/|site-packages", response.text)
    return problem_of


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png(side_px: int) -> bytes:
    """A valid one-bit PNG of `side_px` squared, a few hundred kB."""
    row = b"\0" * (1 + -(-side_px // 8))
    packed = zlib.compressobj(1)
    rows = b"".join([*(packed.compress(row * 100) for _ in range(side_px // 100)), packed.flush()])
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_slide_region_is_answered_in_every_form(client: httpx.Client) -> None:
    """GeoJSON, summary, heatmap and zip of one region agree with each other."""
    request = SLIDE | {"region": {"x": 64, "y": 32, "width": 512, "height": 384}}
    cells = client.post("/v1/regions", json=request)
    assert cells.headers["content-type"] == wire.GEOJSON
    features = cells.json()["features"]
    assert len(features) > 20
    summary = wire.Summary.model_validate_json(
        client.post("/v1/regions", json=request, headers={"Accept": wire.JSON}).content
    )
    assert summary.cells == len(features) == sum(summary.counts.values())
    assert summary.mpp == pytest.approx(MPP, rel=1e-3)
    assert summary.coordinate_space == "level0-pixels"
    png = client.post("/v1/regions", json=request, headers={"Accept": wire.PNG}, params={"heatmap": "density"})
    heatmap = cv2.imdecode(np.frombuffer(png.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert heatmap is not None
    assert heatmap.shape[2] == 4
    archive = client.post("/v1/regions", json=request, headers={"Accept": wire.ZIP})
    with zipfile.ZipFile(BytesIO(archive.content)) as files:
        assert files.testzip() is None
        assert {
            "cells.geojson",
            "summary.json",
            "heatmaps/density.png",
            "overlay.png",
            "figures/density.png",
            "figures/overlay.png",
        } == set(files.namelist())
        assert json.loads(files.read("cells.geojson"))["features"] == features


def test_an_upload_is_answered(client: httpx.Client, tissue_png: bytes) -> None:
    """An image and its pixel size are enough."""
    answer = client.post("/v1/regions", files=form(tissue_png)).json()

    assert answer["slidecascade"]["coordinate_space"] == "image-pixels"
    assert len(answer["features"]) > 5


def test_slides_are_listed_and_shown(client: httpx.Client) -> None:
    """Ids are paths below the root; a link that leads out of it is no slide."""
    listed = wire.SlideList.model_validate_json(client.get("/v1/slides").content)
    assert [slide.id for slide in listed.slides] == ["rendered.tiff", "ward 7/nested.tiff"]
    for slide in listed.slides:
        shown = wire.SlideInfo.model_validate_json(client.get(f"/v1/slides/{quote(slide.id)}").content)
        assert (shown.id, shown.width, shown.height) == (slide.id, 1024, 768)


@pytest.mark.parametrize(
    "slide_id",
    ["../../etc/passwd", "/etc/passwd", "link.tiff", "ward 7/../rendered.tiff", "gone.svs", ".", "a\0b"],
)
def test_an_id_never_leaves_the_root(client: httpx.Client, server: Server, slide_id: str) -> None:
    """Ids that lead out, links and missing files are all the same unknown slide, in a body and in an address."""
    problem_of = problem(client.post("/v1/regions", json=SLIDE | {"slide": slide_id}))
    assert (problem_of.status, problem_of.name) == (404, "unknown-slide")
    # As it stands: httpx would resolve the dots before sending.
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", f"/v1/slides/{quote(slide_id)}")
        with connection.getresponse() as response:
            assert (response.status, json.load(response)["title"]) == (404, "Unknown slide")
    assert "passwd" not in server.log.read_text()


JPEG_START = bytes(cv2.imencode(".jpg", np.full((64, 64, 3), 200, np.uint8))[1])[:300]
NOISE = np.random.default_rng(4).integers(0, 256, (256, 256, 3), np.uint8)
JPEG_CUT = cut_jpeg(bytes(cv2.imencode(".jpg", NOISE)[1]))
TIFF_CUT = cut_parts(tiled_jpeg_tiff(NOISE, 64), 5)
REGION = {"x": 0, "y": 0, "width": 64, "height": 64}


@pytest.mark.parametrize(
    ("options", "status", "name"),
    [
        ({"files": form(b"x") | {"request": (None, "{")}}, 400, "malformed-request"),
        ({"files": {"image": b"x"}}, 400, "malformed-request"),
        ({"files": {"request": form(b"")["request"]}}, 400, "malformed-request"),
        ({"content": b"[1]", "headers": {"Content-Type": "application/json"}}, 400, "malformed-request"),
        ({"json": SLIDE | {"pipeline": "gold"}}, 404, "unknown-pipeline"),
        ({"json": SLIDE, "params": {"heatmap": "gold"}}, 404, "unknown-heatmap"),
        ({"json": SLIDE, "headers": {"Accept": "text/html"}}, 406, "not-acceptable"),
        ({"content": b"x", "headers": {"Content-Type": "image/png"}}, 415, "unsupported-media-type"),
        ({"files": form(b"x" * 2**23)}, 413, "upload-too-large"),
        ({"json": {"pipeline": "nuclei"}}, 422, "invalid-request"),
        ({"files": form(b"x", slide="rendered.tiff")}, 422, "invalid-request"),
        ({"json": SLIDE | {"region": REGION | {"width": -64}}}, 422, "invalid-request"),
        ({"json": SLIDE | {"mpp": 0}}, 422, "invalid-request"),
        ({"json": SLIDE | {"mpp": -1}}, 422, "invalid-request"),
        ({"files": form(b"x", mpp=float("nan"))}, 422, "invalid-request"),
        ({"files": form(b"x", mpp=float("inf"))}, 422, "invalid-request"),
        ({"json": SLIDE | {"thresholds": {"gold": 0.5}}}, 422, "invalid-request"),
        ({"json": SLIDE, "params": {"colormap": "rainbow"}}, 422, "invalid-request"),
        ({"json": SLIDE | {"region": REGION | {"x": 1000}}}, 422, "region-outside-slide"),
        ({"json": SLIDE | {"region": REGION | {"x": 10**6}}}, 422, "region-outside-slide"),
        ({"json": SLIDE | {"region": REGION | {"y": -1}}}, 422, "region-outside-slide"),
        ({"json": SLIDE | {"region": REGION | {"x": 2**31 - 1}}}, 422, "region-outside-slide"),
        ({"json": SLIDE | {"region": REGION | {"x": 10**30}}}, 422, "invalid-request"),
        ({"json": SLIDE | {"thresholds": {f"m{number}": 0.5 for number in range(33)}}}, 422, "invalid-request"),
        ({"files": form(b"")}, 422, "undecodable-image"),
        ({"files": form(b"This is a letter, not a picture.")}, 422, "undecodable-image"),
        ({"files": form(JPEG_START)}, 422, "undecodable-image"),
        ({"files": form(JPEG_CUT)}, 422, "undecodable-image"),
        ({"files": form(TIFF_CUT)}, 422, "undecodable-image"),
        ({"json": SLIDE | {"deadline_s": 0.000001}}, 504, "deadline-exceeded"),
    ],
)
def test_bad_input_is_a_problem(client: httpx.Client, options: dict[str, Any], status: int, name: str) -> None:
    """Each row of the error table, from real bytes; the process works on."""
    problem_of = problem(client.post("/v1/regions", **options))
    assert (problem_of.status, problem_of.name) == (status, name)
    assert client.get("/readyz").status_code == 200


def test_the_next_request_works(client: httpx.Client, tissue_png: bytes) -> None:
    """After the errors above, a valid request is answered."""
    assert client.post("/v1/regions", files=form(tissue_png)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/slides", "/v1/slides/rendered.tiff", "/readyz", "/docs", "/metrics", "/none"]
)
def test_head_is_answered_over_a_persistent_connection(server: Server, path: str) -> None:
    """No content follows the head, so the next answer on the same connection is read as one."""
    with closing(http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            connection.request(method, path)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == (404 if path == "/none" else 200)
            assert (content == b"") == (method == "HEAD")
            assert answer.getheader("Content-Length") is not None


def test_a_large_answer_is_packed_over_the_wire(client: httpx.Client, tissue_png: bytes) -> None:
    """The features are the same, in less than half the bytes."""
    plain = client.post("/v1/regions", files=form(tissue_png), headers={"Accept-Encoding": "identity"})
    with client.stream(
        "POST", "/v1/regions", files=form(tissue_png), headers={"Accept-Encoding": "gzip"}
    ) as response:
        packed = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed))["features"] == plain.json()["features"]
    assert len(packed) < len(plain.content) / 2


def peak_bytes(server: Server) -> int:
    """The most memory the process has held so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0])


def test_too_many_pixels_are_refused_before_they_are_decoded(client: httpx.Client, server: Server) -> None:
    """A small file that would become 900 million pixels is refused, and its pixels are never held."""
    png = huge_png(30_000)
    assert len(png) < 1_000_000
    before = peak_bytes(server)
    problem_of = problem(client.post("/v1/regions", files=form(png)))
    assert (problem_of.status, problem_of.name) == (413, "region-too-large")
    assert peak_bytes(server) - before < 200_000_000


def test_an_upload_without_pixel_size_says_what_to_send(client: httpx.Client, tissue_png: bytes) -> None:
    """Nothing is guessed: the answer asks for mpp."""
    files = form(tissue_png) | {"request": (None, '{"pipeline": "nuclei"}')}
    problem_of = problem(client.post("/v1/regions", files=files))
    assert (problem_of.status, problem_of.name) == (422, "missing-resolution")
    assert "mpp" in problem_of.detail


@pytest.mark.parametrize(
    "path", ["/v1/models/gold", "/v1/pipelines/gold", "/nothing", "/v1/regions", "/analyze_region"]
)
def test_other_addresses_answer_problems(client: httpx.Client, path: str) -> None:
    """Whatever is not there is a problem too, on BentoML's routes as on ours."""
    assert problem(client.get(path)).status in (404, 405)


def test_models_and_pipelines_are_listed_and_shown(client: httpx.Client) -> None:
    """The catalogue names what it shows."""
    for kind in ("pipelines", "models"):
        for item in client.get(f"/v1/{kind}").json()[kind]:
            assert client.get(f"/v1/{kind}/{item['name']}").json() == item
    nash = client.get("/v1/pipelines/nash").json()
    assert (nash["segmenter"], nash["companions"]) == ("nuclei-unet", ["liver-fat"])


def test_real_slides_that_cannot_be_analysed(start_server: Any, shared_data: Path, tmp_path: Path) -> None:
    """Damaged files are unreadable slides, one without a pixel size asks for it; none stops the process."""
    for path in [*(shared_data / "slides" / "broken").iterdir(), shared_data / "slides" / "tcga-no-mpp.svs"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    server = start_server(slides=tmp_path)
    tiny = {"x": 0, "y": 0, "width": 8, "height": 8}
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for path in sorted((shared_data / "slides" / "broken").iterdir()):
            problem_of = problem(client.post("/v1/regions", json=SLIDE | {"slide": path.name, "region": tiny}))
            assert (problem_of.status, problem_of.name) == (422, "unreadable-slide"), path.name
        asked = SLIDE | {"slide": "tcga-no-mpp.svs", "region": REGION}
        assert problem(client.post("/v1/regions", json=asked)).name == "missing-resolution"
        assert client.post("/v1/regions", json=asked | {"mpp": 0.5}).status_code == 200
    assert server.stop() == 0


def test_request_ids_are_kept_or_made(client: httpx.Client) -> None:
    """A valid id is returned in every kind of response, an invalid one is replaced."""
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/docs", "/nothing", "/v1/slides", "/schema.json"):
        assert client.get(path, headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        made = client.get(path, headers={"X-Request-Id": "no good"}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_the_document_and_its_page_are_served(client: httpx.Client) -> None:
    """The OpenAPI document describes the routes; the page that shows it loads nothing from elsewhere."""
    document = client.get("/openapi.json").json()
    assert {"multipart/form-data", "application/json"} == set(
        document["paths"]["/v1/regions"]["post"]["requestBody"]["content"]
    )
    page = client.get("/docs").text
    assert "://" not in page
    for address in re.findall(r'(?:src|href)="(docs/[^"]*)"', page):
        assert client.get(f"/{address}").status_code == 200


def test_health_answers_while_a_region_is_computed(client: httpx.Client, server: Server) -> None:
    """Liveness and readiness do not wait for the work."""
    image = render(TissueOptions(seed=2, mpp=MPP), width_px=1024, height_px=1024).image
    files = form(bytes(cv2.imencode(".png", image)[1]), tile_px=128)
    statuses: list[int] = []

    def analyse() -> None:
        statuses.append(httpx.post(f"{server.url}/v1/regions", files=files, timeout=120).status_code)

    work = threading.Thread(target=analyse)
    work.start()
    server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 1)
    answered_during_work = 0
    while not statuses:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        answered_during_work += not statuses
    work.join()
    assert statuses == [200]
    assert answered_during_work >= 3


def test_a_caller_who_leaves_stops_the_work(server: Server, client: httpx.Client) -> None:
    """When the connection closes, the region's place is free long before it would have been done."""
    image = render(TissueOptions(seed=3, mpp=MPP), width_px=1024, height_px=1024).image
    large = cv2.imencode(".jpg", np.tile(image, (3, 3, 1)))[1].tobytes()
    before = server.metric("slidecascade_cancelled_total")
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/regions", files=form(large, tile_px=128), timeout=httpx.Timeout(60, read=1.0))
    server.wait(lambda: server.metric("slidecascade_cancelled_total") == before + 1)
    server.wait(lambda: server.metric("slidecascade_regions_in_flight") == 0)
    access = [line for line in server.lines() if line["logger"] == "slidecascade.access"]
    assert (access[-1]["status"], access[-1]["problem"]) == (499, "cancelled")


def test_a_caller_who_leaves_while_sending_frees_the_place(server: Server, stalled: Any) -> None:
    """A broken upload does not keep its place."""
    upload: Upload = stalled(server)
    upload.close()
    server.wait(lambda: server.metric("slidecascade_bodies_arriving") == 0)


def series(page: str) -> set[str]:
    """Names and labels of all series, without their values."""
    return {line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")}


def test_metrics_are_bounded_and_contain_no_names(client: httpx.Client, server: Server) -> None:
    """However many addresses are tried no series is added; neither the page nor the log holds any of them."""
    client.get("/warm-up")
    client.request("GOLD-0", "/warm-up")
    client.get("/v1/slides/gone")
    client.get("/v1/slides/ward 7/nested.tiff")
    client.get("/v1/models/gone")
    client.post("/v2/models/gone/infer")
    client.post("/v2/models/gone/versions/1/infer")
    client.post("/v1/regions", json=SLIDE | {"slide": "gone"})
    client.post("/v1/regions", json=SLIDE | {"slide": "ward 7/nested.tiff", "region": REGION})
    client.get("/metrics")
    before = series(client.get("/metrics").text)
    random = np.random.default_rng(0)
    for number in range(50):
        client.get(f"/secret-{number}/{random.bytes(8).hex()}")
        client.request(f"GOLD-{number}", "/secret")
        client.get(f"/v1/slides/Doe-{number}.svs?name=Doe")
        client.get(f"/v1/models/secret-{number}")
        client.post(f"/v2/models/secret-{number}/infer")
        client.post(f"/v2/models/nash-cell/versions/secret-{number}/infer")
        client.post("/v1/regions", json=SLIDE | {"slide": f"Doe-{number}.svs"}, headers={"X-Request-Id": "mine"})
    client.post("/v1/regions", json=SLIDE | {"slide": "rendered.tiff", "region": REGION})
    page = client.get("/metrics").text
    assert series(page) == before
    for name in (
        "requests_total",
        "request_duration_seconds_bucket",
        "stage_duration_seconds_bucket",
        "cells_total",
    ):
        assert f"\nslidecascade_{name}{{" in page
    for name in ("tiles_total", "build_info", "cancelled_total", "regions_in_flight"):
        assert f"\nslidecascade_{name}" in page
    for problem_of in (page, server.log.read_text()):
        assert not re.search(r"secret|Doe|rendered|nested|ward 7|\.tiff|\.svs|bentoml_service", problem_of)


def test_every_log_line_is_json(server: Server) -> None:
    """One object per line, each with the same first members; none is a stray print."""
    lines = server.lines()
    assert lines
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)


def test_a_damaged_upload_leaves_json_lines_only_in_the_log(server: Server, client: httpx.Client) -> None:
    """What libtiff has to say of a strip is kept from stderr, where each line is a record."""
    stream = BytesIO()
    Image.fromarray(NOISE).save(stream, "TIFF", compression="packbits", tiffinfo={278: 16})
    damaged = bytearray(stream.getvalue())
    damaged[30_000:60_000] = bytes(30_000)
    problem_of = problem(client.post("/v1/regions", files=form(bytes(damaged))))

    assert problem_of.name == "undecodable-image"
    server.wait(lambda: any(line.get("request_id") == problem_of.request_id for line in server.lines()))
    assert "PackBits" not in server.log.read_text(encoding="utf-8")


def test_a_diameter_of_objects_stands_for_the_pixel_size(client: httpx.Client) -> None:
    """An image whose pixel size nobody knows is analysed by the usual diameter of its objects, over HTTP and by
    the client; both together are rejected."""
    image = render(TissueOptions(seed=5, mpp=0.25), width_px=512, height_px=512).image
    encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    known = client.post("/v1/regions", files=form(encoded, mpp=0.25), headers={"accept": "application/json"})
    by_size = form(encoded, mpp=None, object_diameter_px=2 * 18.7)
    found = client.post("/v1/regions", files=by_size, headers={"accept": "application/json"})

    assert (known.status_code, found.status_code) == (200, 200)
    summary = found.json()
    assert (summary["mpp"], summary["object_diameter_px"], summary["tissue_area_mm2"]) == (None, 37.4, None)
    assert summary["cells"] == known.json()["cells"] > 10
    with Client(str(client.base_url)) as typed:
        result = typed.analyze_region(encoded, pipeline="nuclei", object_diameter_px=2 * 18.7)
    assert (result.summary.mpp, len(result.cells)) == (None, summary["cells"])
    both = client.post("/v1/regions", files=form(encoded, object_diameter_px=20))
    assert problem(both).name == "invalid-request"
    assert "send one of them" in both.json()["detail"]
