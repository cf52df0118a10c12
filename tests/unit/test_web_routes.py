"""The REST API around an analyser whose answers are made up, in process."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest

from fake_analyser import FakeAnalyser
from slidecascade import errors, logs, wire
from slidecascade.cancellation import Control
from slidecascade.memory import Share
from slidecascade.metrics import Metrics
from slidecascade.outputs.colormap import COLORMAPS
from slidecascade.outputs.encoders import Drawing, Encoders
from slidecascade.outputs.files import Overview
from slidecascade.settings import Settings
from slidecascade.web.context import Process
from slidecascade.web.statuses import STATUS

AS_JSON = {"Content-Type": "application/json"}
FORM = {"image": ("patient-7.png", b"pixels"), "request": (None, '{"pipeline": "nash", "mpp": 0.5}')}


@pytest.fixture
def analyser() -> Iterator[FakeAnalyser]:
    fake = FakeAnalyser()
    yield fake
    fake.close()


@pytest.fixture
async def process(analyser: FakeAnalyser) -> AsyncIterator[Process]:
    settings = Settings(max_regions_in_flight=2, max_upload_bytes=5000, retry_after_s=7, max_deadline_s=20)
    made = Process(settings, analyser=analyser, metrics=Metrics())
    yield made
    made.close()


@pytest.fixture
async def client(process: Process) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(process.guard(process.rest), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as made:
        yield made


def problem(response: httpx.Response) -> wire.Problem:
    """The problem in an answer, after the checks every one must pass."""
    assert response.headers["content-type"] == wire.PROBLEM
    reported = wire.Problem.model_validate_json(response.content)
    assert reported.status == response.status_code
    assert reported.request_id == response.headers["x-request-id"]
    assert reported.title
    assert reported.detail.endswith(".")
    return reported


async def post(client: httpx.AsyncClient, **options: Any) -> httpx.Response:
    return await client.post("/v1/regions", **{"files": FORM, **options})


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in a thread of the fake
            await asyncio.sleep(0.005)


async def until_idle(client: httpx.AsyncClient) -> None:
    """Waits until no region is in flight."""
    async with asyncio.timeout(5):
        while "slidecascade_regions_in_flight 0.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110  # in a thread of the fake
            await asyncio.sleep(0.005)


async def test_cells_are_the_default_answer(client: httpx.AsyncClient, analyser: FakeAnalyser) -> None:
    """Without Accept a region is answered as GeoJSON; the analyser gets the request and the bytes."""
    response = await post(client)

    assert response.headers["content-type"] == wire.GEOJSON
    assert len(response.json()["features"]) == 20
    assert analyser.seen == [(wire.RegionRequest(pipeline="nash", mpp=0.5), b"pixels")]


async def test_accept_chooses_the_answer(client: httpx.AsyncClient) -> None:
    """Summary, heatmap and zip are answered to those who ask for them."""
    summary = await post(client, headers={"Accept": "application/json"})
    assert wire.Summary.model_validate_json(summary.content).cells == 20
    heatmap = await post(
        client, headers={"Accept": "image/png"}, params={"heatmap": "steatosis", "colormap": "jet"}
    )
    assert heatmap.content[:4] == b"\x89PNG"
    archive = await post(client, headers={"Accept": "application/zip"})
    assert "cells.geojson" in zipfile.ZipFile(BytesIO(archive.content)).namelist()
    assert archive.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "without", ["heatmaps", "overlay", "figures", "overlay,figures", "figures,heatmaps,overlay"]
)
async def test_the_zip_leaves_out_the_pictures_that_are_not_wanted(
    client: httpx.AsyncClient, without: str
) -> None:
    """And no others; each file that is left is the same."""
    files = {}
    for params in ({}, {"without": without}):
        answer = await post(client, headers={"Accept": wire.ZIP}, params=params)
        with zipfile.ZipFile(BytesIO(answer.content)) as archive:
            files[len(params)] = {name: archive.read(name) for name in archive.namelist()}
    left = {name: data for name, data in files[0].items() if re.split("[./]", name)[0] not in without}
    assert files[1] == left
    assert len(left) < len(files[0])
    assert {"summary.json", "cells.geojson"} <= set(left)


@pytest.mark.parametrize(
    ("options", "status", "name"),
    [
        ({"headers": {"Accept": "text/html"}}, 406, "not-acceptable"),
        ({"params": {"heatmap": "gold"}}, 404, "unknown-heatmap"),
        ({"params": {"colormap": "rainbow"}}, 422, "invalid-request"),
        ({"params": {"without": "figures,cells"}}, 422, "invalid-request"),
        ({"params": {"without": ""}}, 422, "invalid-request"),
        ({"params": {"heatmp": "steatosis"}}, 422, "invalid-request"),
        ({"params": [("colormap", "jet"), ("colormap", "jet")]}, 422, "invalid-request"),
        ({"files": None, "content": b"x"}, 415, "unsupported-media-type"),
        (
            {"files": None, "content": b"{", "headers": {"Content-Type": "application/json"}},
            400,
            "malformed-request",
        ),
        ({"files": {**FORM, "image": b"x" * 6000}}, 413, "upload-too-large"),
        ({"files": {**FORM, "request": (None, '{"pipeline": "gold"}')}}, 404, "unknown-pipeline"),
        ({"files": {**FORM, "request": (None, '{"pipeline": "nash", "mpp": NaN}')}}, 422, "invalid-request"),
    ],
)
async def test_a_bad_request_is_a_problem(
    client: httpx.AsyncClient, analyser: FakeAnalyser, options: dict[str, Any], status: int, name: str
) -> None:
    """Invalid requests are rejected before the work, as a problem with a stable name."""
    reported = problem(await post(client, **options))

    assert (reported.status, reported.name) == (status, name)
    assert analyser.seen == []
    assert (await post(client)).status_code == 200


async def test_misspelt_names_are_quoted(client: httpx.AsyncClient) -> None:
    """The problem names the query parameter or field that does not exist."""
    parameter = problem(await post(client, params={"heatmp": "steatosis"}))
    assert parameter.detail == (
        "The query parameter 'heatmp' is invalid: unknown, use 'heatmap', 'colormap', 'style' or 'without'."
    )
    part = problem(await post(client, params={"without": "overlay,figure"}))
    assert part.detail == (
        "The query parameter 'without' is invalid: must name pictures of the zip, separated by commas: heatmaps, "
        "overlay, figures."
    )
    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0.5, "tresholds": {}}')}
    field = problem(await post(client, files=files))
    assert field.detail == "The field 'tresholds' is invalid: there is no such field, see /openapi.json."


async def test_wrong_fields_are_listed(client: httpx.AsyncClient) -> None:
    """The problem lists each wrong field."""
    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0, "region": {"x": 0}}')}
    reported = problem(await post(client, files=files))

    assert reported.errors is not None
    assert {item.field for item in reported.errors} == {"mpp", "region.y", "region.width", "region.height"}


RAISED = [kind for kind in STATUS if kind not in (errors.TilesFailedError, errors.CancelledError)]


@pytest.mark.parametrize("kind", RAISED)
async def test_every_error_of_the_work_has_its_status(
    client: httpx.AsyncClient, analyser: FakeAnalyser, kind: type[errors.SlideCascadeError]
) -> None:
    """The table's status, the class's name and the error's sentence reach the caller."""
    more = {"retry_after_s": 9} if issubclass(kind, errors.RetryLaterError) else {}
    analyser.error = kind("It went wrong: do better.", **more)
    response = await post(client)

    reported = problem(response)
    assert (reported.name, reported.status, reported.detail) == (
        kind.problem,
        STATUS[kind],
        "It went wrong: do better.",
    )
    assert response.headers.get("retry-after") == ("9" if more else None)


async def test_failed_tiles_are_listed(client: httpx.AsyncClient, analyser: FakeAnalyser) -> None:
    """A caller can see which tiles failed and why."""
    analyser.error = errors.TilesFailedError("1 of 9 tiles failed.", tiles=(((1, 2, 3, 4), "model-failed"),))
    reported = problem(await post(client))

    assert reported.status == 500
    assert reported.tiles == (wire.FailedTile(x=1, y=2, width=3, height=4, reason="model-failed"),)


def test_every_error_has_a_row_or_never_ends_a_request() -> None:
    """No error of a request is missing from the status table."""
    known = [kind for kind in vars(errors).values() if isinstance(kind, type) and "problem" in vars(kind)]
    elsewhere = {
        errors.SlideCascadeError,
        errors.ModelPackageError,
        errors.HeadPluginError,
        errors.ConversionError,
        errors.PipelineSpecError,
        errors.UnusableDataError,
        errors.TrainingFailedError,
        errors.SettingsError,
        errors.ListenError,
        errors.MissingExtraError,
        errors.UnwritableOutputError,
        errors.BrokenAuditLogError,
    }
    assert set(known) - set(STATUS) == elsewhere


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/v1/slides/nothing", 404, "unknown-slide"),
        ("GET", "/v1/slides/", 404, "unknown-slide"),
        ("GET", "/v1/slides/%2e%2e/%2e%2e/etc/passwd", 404, "unknown-slide"),
        ("GET", "/v1/pipelines/gold", 404, "unknown-pipeline"),
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1/pipelines/", 404, "not-found"),
        ("PUT", "/v1/regions", 405, "method-not-allowed"),
        ("POST", "/livez", 405, "method-not-allowed"),
        ("BREW", "/v1/slides", 405, "method-not-allowed"),
        ("GET", "/v1/slides/fault", 500, "internal-error"),
    ],
)
async def test_other_addresses_answer_problems_too(
    client: httpx.AsyncClient, method: str, path: str, status: int, name: str
) -> None:
    """Unknown things, addresses and methods are problems; so is a fault, without a word of what it was."""
    response = await client.request(method, path)

    reported = problem(response)
    assert (reported.status, reported.name) == (status, name)
    assert "ValueError" not in response.text
    assert "/data" not in response.text
    assert ("allow" in response.headers) == (status == 405)


async def test_the_catalogue_is_answered(client: httpx.AsyncClient) -> None:
    """Pipelines, models and slides are listed and shown."""
    assert (await client.get("/v1/pipelines")).json()["pipelines"][0]["name"] == "nash"
    assert (await client.get("/v1/pipelines/nash")).json()["segmenter"] == "nuclei"
    assert (await client.get("/v1/models")).json() == {"models": []}
    assert (await client.get("/v1/slides")).json()["slides"] == [{"id": "a.svs"}]
    assert (await client.get("/v1/slides/a.svs")).json()["vendor"] == "aperio"


@pytest.mark.parametrize("asked", ["abc-1.2_X", "a" * 64])
async def test_a_valid_request_id_is_kept(client: httpx.AsyncClient, asked: str) -> None:
    """The client's id is returned."""
    assert (await client.get("/livez", headers={"X-Request-Id": asked})).headers["x-request-id"] == asked


@pytest.mark.parametrize("asked", ["", "a b", "a" * 65, "a\u00e4", "a\n", "<script>"])
async def test_another_request_id_is_replaced(client: httpx.AsyncClient, asked: str) -> None:
    """What could break a log line or a page is not repeated."""
    headers = {b"x-request-id": asked.encode()}
    response = await client.get("/livez", headers=headers)

    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_the_document_describes_the_contract(client: httpx.AsyncClient) -> None:
    """Every route of the contract is in it, and every reference leads somewhere."""
    text = (await client.get("/openapi.json")).text
    document = json.loads(text)

    expected = {"/v1/regions", "/v1/pipelines", "/v1/pipelines/{name}", "/v1/models", "/v1/models/{name}"}
    expected |= {"/v1/slides", "/v1/slides/{slide_id}", "/livez", "/readyz", "/metrics"}
    pictures = ("dzi", "dzi_files/{level}/{column}_{row}.jpeg", "thumbnail")
    expected |= {f"/v1/slides/{{slide_id}}/{part}" for part in pictures}
    expected |= {"/v1/slides/{slide_id}/crops/{model}.png", "/v1/translate"}
    expected |= {"/v2", "/v2/health/live", "/v2/health/ready"}
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        expected |= {model, f"{model}/ready", f"{model}/infer"}
    assert set(document["paths"]) == expected
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert {"RegionRequest", "RegionBox", "Summary", "Problem"} <= names
    assert names <= set(document["components"]["schemas"])


async def test_the_page_needs_no_other_host(client: httpx.AsyncClient) -> None:
    """/docs loads nothing from other servers, and its policy makes the browser block it."""
    page = await client.get("/docs")

    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page.text) == [
        "docs/swagger-ui.css",
        "docs/swagger-ui-bundle.js",
    ]
    assert "://" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert len((await client.get(f"/docs/{name}")).content) > 100_000


async def test_too_many_regions_are_refused_unread(client: httpx.AsyncClient, analyser: FakeAnalyser) -> None:
    """Beyond the limit requests are rejected immediately with Retry-After, and health checks continue."""
    analyser.hold.set()
    busy = [asyncio.create_task(post(client)) for _ in range(2)]
    await until(lambda: analyser.running == 2)

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    refused = await client.post("/v1/regions", content=unread(), headers={"Content-Type": "application/json"})
    assert problem(refused).name == "overloaded"
    assert refused.headers["retry-after"] == "7"
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    page = (await client.get("/metrics")).text
    assert "slidecascade_regions_in_flight 2.0" in page
    assert 'slidecascade_rejections_total{reason="overloaded"} 1.0' in page
    assert 'slidecascade_requests_total{method="POST",route="/v1/regions",status="429"} 1.0' in page
    analyser.hold.clear()
    assert [response.status_code for response in await asyncio.gather(*busy)] == [200, 200]
    assert (await post(client)).status_code == 200


async def test_a_region_waits_for_its_memory(client: httpx.AsyncClient, analyser: FakeAnalyser) -> None:
    """Two that do not fit together are answered one after another, and their memory is released."""
    analyser.needs_bytes = 600 * 2**20
    analyser.hold.set()
    both = [asyncio.create_task(post(client)) for _ in range(2)]
    await until(lambda: analyser.running == 1 and analyser.memory.waiting == 1)
    page = (await client.get("/metrics")).text
    assert "slidecascade_regions_in_flight 2.0" in page
    assert re.search(r"^slidecascade_memory_limit_bytes 1\.073741824e\+09$", page, re.MULTILINE)

    analyser.hold.clear()
    assert [response.status_code for response in await asyncio.gather(*both)] == [200, 200]
    await until_idle(client)
    analyser.needs_bytes = analyser.memory.total
    assert (await post(client)).status_code == 200


async def test_memory_that_is_not_there_in_time_is_overloaded(
    client: httpx.AsyncClient, analyser: FakeAnalyser
) -> None:
    """The response is 429; a region that never fits is too large."""
    analyser.needs_bytes = 600 * 2**20
    analyser.hold.set()
    busy = asyncio.create_task(post(client))
    await until(lambda: analyser.running == 1)
    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0.5, "deadline_s": 0.1}')}
    refused = await post(client, files=files)

    assert (problem(refused).status, problem(refused).name) == (429, "overloaded")
    assert refused.headers["retry-after"] == "1"
    analyser.needs_bytes = 2**30 + 1
    never = problem(await post(client))
    assert (never.status, never.name) == (413, "region-too-large")
    assert "1025 MiB" in never.detail
    analyser.hold.clear()
    assert (await busy).status_code == 200


async def test_a_thread_that_outlasts_its_request_keeps_its_memory(
    client: httpx.AsyncClient, analyser: FakeAnalyser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pixels are there until it ends, whatever was answered meanwhile."""
    freed = threading.Event()

    def stuck(_request: object, _image: object, control: Control, *, share: Share, **_: object) -> None:
        share.reserve(600 * 2**20, control)
        freed.wait()

    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0.5, "deadline_s": 0.1}')}
    analyser.needs_bytes = 600 * 2**20
    with monkeypatch.context() as patch:
        patch.setattr(analyser, "analyse", stuck)
        assert problem(await post(client, files=files)).name == "deadline-exceeded"
    try:
        assert problem(await post(client, files=files)).name == "overloaded"
    finally:
        freed.set()
    await until_idle(client)
    assert (await post(client)).status_code == 200


async def test_the_deadline_is_the_shorter_of_two(client: httpx.AsyncClient, analyser: FakeAnalyser) -> None:
    """A region beyond its deadline is stopped with an error."""
    analyser.hold.set()
    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0.5, "deadline_s": 0.1}')}
    reported = problem(await post(client, files=files))

    assert (reported.status, reported.name) == (504, "deadline-exceeded")
    assert analyser.stopped == ["deadline-exceeded"]


async def test_a_stuck_thread_is_answered_for(
    client: httpx.AsyncClient, analyser: FakeAnalyser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that ignores its deadline is abandoned in time, and counts as load until its thread ends."""
    freed = threading.Event()

    def stuck(*_: object, **__: object) -> None:
        freed.wait()

    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0.5, "deadline_s": 0.1}')}
    with monkeypatch.context() as patch:
        patch.setattr(analyser, "analyse", stuck)
        try:
            for answer in await asyncio.gather(*(post(client, files=files) for _ in range(2))):
                assert problem(answer).name == "deadline-exceeded"
            assert problem(await post(client)).name == "overloaded"
            assert "slidecascade_regions_in_flight 2.0" in (await client.get("/metrics")).text
        finally:
            freed.set()
    await until_idle(client)
    assert (await post(client)).status_code == 200


async def test_the_deadline_holds_for_the_encoding(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first piece that takes too long is a deadline exceeded as well."""
    freed = threading.Event()

    def stuck(_analysis: object) -> Iterator[bytes]:
        freed.wait()
        yield b""

    monkeypatch.setattr("slidecascade.outputs.cells.geojson.encode", stuck)
    files = {**FORM, "request": (None, '{"pipeline": "nash", "mpp": 0.5, "deadline_s": 0.1}')}
    try:
        assert problem(await post(client, files=files)).name == "deadline-exceeded"
    finally:
        freed.set()
    await until_idle(client)


@pytest.mark.parametrize("media_type", [wire.GEOJSON, wire.JSON, wire.PNG, wire.ZIP])
async def test_all_of_the_encoding_is_measured(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, media_type: str
) -> None:
    """The stage holds the time of the first piece too, which for some answers is the only one."""
    encode = Encoders.encode

    def slow(
        of: Encoders[Any], media_type: str, result: Any, overview: Overview, drawing: Drawing
    ) -> Iterator[bytes]:
        time.sleep(0.1)
        yield from encode(of, media_type, result, overview, drawing)

    monkeypatch.setattr(Encoders, "encode", slow)
    assert (await post(client, headers={"Accept": media_type})).status_code == 200
    page = (await client.get("/metrics")).text
    assert 'slidecascade_stage_duration_seconds_count{stage="encode"} 1.0' in page
    reported = re.search(r'slidecascade_stage_duration_seconds_sum\{stage="encode"\} (\S+)', page)
    assert reported is not None
    assert float(reported[1]) >= 0.1


@pytest.mark.parametrize("colormap", COLORMAPS)
async def test_every_colormap_can_be_asked_for(client: httpx.AsyncClient, colormap: str) -> None:
    """What heatmaps are drawn in is what requests may name."""
    answer = await post(client, headers={"Accept": wire.PNG}, params={"colormap": colormap})
    assert answer.headers["content-type"] == wire.PNG


async def test_an_answer_that_breaks_off_breaks_the_connection(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the start of the response cannot be reported, but the response must not appear complete."""

    def broken(_analysis: object) -> Iterator[bytes]:
        yield b'{"type":"FeatureCollection","features":['
        raise ValueError("in the middle")

    monkeypatch.setattr("slidecascade.outputs.cells.geojson.encode", broken)
    transport = httpx.ASGITransport(process.guard(process.rest))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        with pytest.raises(ConnectionAbortedError):
            await post(client, headers={"Accept-Encoding": "identity"})


async def test_a_failure_before_the_response_is_reported(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that fails at once is a problem like any other."""

    def broken(_analysis: object) -> Iterator[bytes]:
        raise errors.ModelFailedError("A score is not a number.")
        yield b""

    monkeypatch.setattr("slidecascade.outputs.cells.geojson.encode", broken)
    assert problem(await post(client)).name == "model-failed"


async def test_a_caller_who_leaves_stops_the_work(process: Process, analyser: FakeAnalyser) -> None:
    """When the connection closes, the work ends and is counted, and the place is free again."""
    analyser.hold.set()
    app = process.guard(process.rest)
    leaves = asyncio.Event()
    body = [{"type": "http.request", "body": b'{"pipeline": "nash", "slide": "a.svs"}', "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/regions", "query_string": b"", "root_path": ""}
    call = app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)
    asked = asyncio.ensure_future(call)
    await until(lambda: analyser.running == 1)
    leaves.set()
    await asked
    await until(lambda: analyser.running == 0)

    assert analyser.stopped == ["cancelled"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        await until_idle(client)
        page = (await client.get("/metrics")).text
    assert "slidecascade_cancelled_total 1.0" in page


async def test_unknown_addresses_add_no_series(client: httpx.AsyncClient) -> None:
    """However many addresses are tried, the metrics stay as many, and none of them is on the page."""
    await client.get("/warm-up")
    await client.get("/v1/slides/other")
    await client.get("/metrics")
    before = (await client.get("/metrics")).text
    for number in range(50):
        await client.get(f"/secret-{number}")
        await client.get(f"/v1/slides/patient-{number}.svs")
        await client.request(f"M{number}", "/warm-up")
    after = (await client.get("/metrics")).text

    # One method nobody knows is one more series, however many there are.
    grown = {line.split("{")[0] for line in set(after.splitlines()) if 'method="other"' in line}
    assert len(after.splitlines()) - len(before.splitlines()) == sum(
        'method="other"' in s for s in after.splitlines()
    )
    assert grown
    assert "secret" not in after
    assert "patient" not in after


def _series(page: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")}


async def test_log_lines_name_no_slide(
    client: httpx.AsyncClient, analyser: FakeAnalyser, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per request, with template and id; no data of the request or upload."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure()
    try:
        await client.get("/v1/slides/patient-8.svs?key=patient-8", headers={"X-Request-Id": "id-1"})
        await client.get("/v1/slides/fault", headers={"X-Request-Id": "id-2"})
        analyser.error = errors.ModelFailedError("The network patient-8 failed.")
        await post(client, headers={"X-Request-Id": "id-3"})
        await client.get("/livez")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert "patient" not in json.dumps(lines)
    access = [line for line in lines if line["logger"] == "slidecascade.access"]
    assert [(line["request_id"], line["route"], line["status"]) for line in access] == [
        ("id-1", "/v1/slides/{slide_id:path}", 404),
        ("id-2", "/v1/slides/{slide_id:path}", 500),
        ("id-3", "/v1/regions", 502),
    ]
    assert access[2]["problem"] == "model-failed"
    fault = next(line for line in lines if line["message"] == "unexpected error")
    assert fault["request_id"] == "id-2"
    assert fault["exception"][0]["type"] == "ValueError"
    assert any("fake_analyser.py" in frame for frame in fault["exception"][0]["frames"])


async def test_every_error_is_described_as_a_problem(client: httpx.AsyncClient) -> None:
    """Client generators see one schema for every error: the Problem, or under /v2 that protocol's own."""
    document = (await client.get("/openapi.json")).json()
    errors = [
        (path.startswith("/v2"), answer["content"])
        for path, operations in document["paths"].items()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        if status == "default" or int(status) >= 400
    ]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert {in_protocol for in_protocol, _ in errors} == {False, True}
    assert all(content == problem for in_protocol, content in errors if not in_protocol)
    assert all(list(content) == ["application/json"] for in_protocol, content in errors if in_protocol)
    assert not [name for name in document["components"]["schemas"] if "ValidationError" in name]


async def test_every_operation_states_that_the_server_may_stop(client: httpx.AsyncClient) -> None:
    """503 while it drains, but for health and metrics, which are answered then."""
    document = (await client.get("/openapi.json")).json()
    missing = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "503" not in operation["responses"]
    }
    assert missing == {"/livez", "/metrics", "/v2/health/live"}
