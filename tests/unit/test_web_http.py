"""What HTTP has beside GET and POST of JSON: HEAD, gzip, pages of other origins."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from fake_analyser import FakeAnalyser
from slidecascade import wire
from slidecascade.errors import SettingsError
from slidecascade.metrics import Metrics
from slidecascade.settings import Settings, read_settings
from slidecascade.web.context import Process
from slidecascade.web.encoding import accepts_gzip

FORM: dict[str, Any] = {"image": ("a.png", b"pixels"), "request": (None, '{"pipeline": "nash", "mpp": 0.5}')}
PAGE = "https://viewer.hospital.org"
PATHS = [
    "/v1/pipelines",
    "/v1/pipelines/nash",
    "/v1/pipelines/gold",
    "/v1/models",
    "/v1/slides",
    "/v1/slides/a.svs",
    "/v1/slides/missing.svs",
    "/v1/slides/fault",
    "/livez",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2",
    "/v2/health/live",
    "/v2/models/gold",
    "/nothing",
]


@pytest.fixture
def analyser() -> Iterator[FakeAnalyser]:
    fake = FakeAnalyser()
    yield fake
    fake.close()


@asynccontextmanager
async def served(analyser: FakeAnalyser, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    process = Process(Settings(**settings), analyser=analyser, metrics=Metrics())
    transport = httpx.ASGITransport(process.guard(process.rest), raise_app_exceptions=False)
    headers = {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
        yield client
    process.close()


@pytest.fixture
async def client(analyser: FakeAnalyser) -> AsyncIterator[httpx.AsyncClient]:
    async with served(analyser) as made:
        yield made


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_as_get_without_content(client: httpx.AsyncClient, path: str) -> None:
    """Status and headers are those of GET, the length of its content included; nothing follows them."""
    got, head = await client.get(path), await client.head(path)

    assert head.status_code == got.status_code
    assert head.content == b""
    same = {"content-type", "content-length", "cache-control", "vary"}
    found = {name: value for name, value in head.headers.items() if name in same}
    expected = {name: value for name, value in got.headers.items() if name in same}
    if path == "/metrics":  # it counts these very requests
        found.pop("content-length"), expected.pop("content-length")
    assert found == expected
    assert head.headers["x-request-id"] != got.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("HEAD", "/v1/regions", "POST"), ("POST", "/v1/slides", "GET, HEAD"), ("PUT", "/readyz", "GET, HEAD")],
)
async def test_what_is_not_allowed_lists_what_is(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """HEAD of what has no GET is refused; where there is GET, both are listed."""
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


async def test_the_log_and_the_metrics_say_head(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """With the route, as for any other method."""
    caplog.set_level(logging.INFO, "slidecascade.access")
    await client.head("/v1/slides/a.svs")
    (record,) = [record for record in caplog.records if record.name == "slidecascade.access"]
    fields = record.fields  # type: ignore[attr-defined]  # added by the access log
    assert (fields["method"], fields["route"], fields["bytes"]) == ("HEAD", "/v1/slides/{slide_id:path}", 0)
    assert 'method="HEAD"' in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("x-gzip", True),
        ("*", True),
        ("GZIP;Q=0.5", True),
        ("br;q=1, gzip;q=0.1", True),
        ("", False),
        ("identity", False),
        ("deflate, br", False),
        ("gzip;q=0", False),
        ("*;q=0", False),
        ("*, gzip;q=0", False),
        ("gzip;q=high", False),
        ("gzippy", False),
    ],
)
def test_accept_encoding_is_read_as_http_says(header: str, wanted: bool) -> None:
    """A weight of zero forbids, a star stands for all that is not named."""
    assert accepts_gzip(header) is wanted


@pytest.mark.parametrize("media_type", [wire.GEOJSON, wire.JSON])
async def test_cells_are_packed_for_those_who_ask(client: httpx.AsyncClient, media_type: str) -> None:
    """The same document, in fewer bytes, for caches a variant of its own."""
    plain = await client.post("/v1/regions", files=FORM, headers={"Accept": media_type})
    headers = {"Accept": media_type, "Accept-Encoding": "gzip"}
    async with client.stream("POST", "/v1/regions", files=FORM, headers=headers) as response:
        packed = b"".join([chunk async for chunk in response.aiter_raw()])

    assert response.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    for answer in (plain, response):
        assert {name.strip() for name in answer.headers["vary"].split(",")} >= {"Accept", "Accept-Encoding"}
    unpacked, document = json.loads(gzip.decompress(packed)), plain.json()
    assert unpacked.keys() == document.keys()
    assert unpacked.get("features") == document.get("features")
    assert len(packed) < len(plain.content)


@pytest.mark.parametrize("media_type", [wire.PNG, wire.ZIP])
async def test_what_is_packed_already_is_not_packed_again(client: httpx.AsyncClient, media_type: str) -> None:
    """Pictures and archives gain nothing."""
    headers = {"Accept": media_type, "Accept-Encoding": "gzip"}
    response = await client.post("/v1/regions?heatmap=steatosis", files=FORM, headers=headers)
    assert response.status_code == 200
    assert "content-encoding" not in response.headers


async def test_a_packed_answer_that_breaks_off_is_not_complete(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after the first packed bytes were sent leaves a gzip stream without its end."""

    def broken(_analysis: object) -> Iterator[bytes]:
        for number in range(3000):
            yield json.dumps({"n": number, "text": str(hash(str(number)) ** 9)}).encode()
        raise ValueError("in the middle")

    monkeypatch.setattr("slidecascade.outputs.cells.geojson.encode", broken)
    headers = {"Accept-Encoding": "gzip"}
    async with client.stream("POST", "/v1/regions", files=FORM, headers=headers) as response:
        assert response.status_code == 200
        packed = b"".join([chunk async for chunk in response.aiter_raw()])
    stream = zlib.decompressobj(31)
    stream.decompress(packed)
    assert packed
    assert not stream.eof


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/metrics", "/v1/pipelines", "/v1/slides/missing.svs"])
async def test_other_text_is_packed_when_that_is_worth_it(client: httpx.AsyncClient, path: str) -> None:
    """From a thousand bytes on; HEAD states the length that GET has."""
    plain = await client.get(path)
    headers = {"Accept-Encoding": "gzip"}
    async with client.stream("GET", path, headers=headers) as response:
        packed = b"".join([chunk async for chunk in response.aiter_raw()])
    assert "Accept-Encoding" in plain.headers["vary"]
    assert "Accept-Encoding" in response.headers["vary"]
    if len(plain.content) < 1000:
        assert "content-encoding" not in response.headers
        return
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) == len(packed) < len(plain.content)
    head = await client.head(path, headers=headers)
    assert head.headers["content-encoding"] == "gzip"
    if path != "/metrics":
        assert gzip.decompress(packed) == plain.content
        assert head.headers["content-length"] == str(len(packed))


async def test_pages_of_other_origins_read_nothing_by_default(client: httpx.AsyncClient) -> None:
    """Without the setting a browser gets no permission."""
    response = await client.get("/v1/slides", headers={"Origin": PAGE})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert (await client.options("/v1/slides", headers=preflight(PAGE))).status_code == 405


def preflight(origin: str, method: str = "POST", headers: str = "authorization,content-type") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


async def test_a_page_of_an_allowed_origin_reads_answers_and_errors(analyser: FakeAnalyser) -> None:
    """Problems too, those of admission included, with the headers that matter."""
    async with served(analyser, cors_origins=f"{PAGE}, http://localhost:5173", max_regions_in_flight=1) as client:
        for path, status in {"/v1/slides": 200, "/v1/slides/missing.svs": 404, "/readyz": 200}.items():
            response = await client.get(path, headers={"Origin": PAGE})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == PAGE
            assert "Origin" in response.headers["vary"]
            exposed = response.headers["access-control-expose-headers"]
            assert {"X-Request-Id", "Retry-After", "Location"} <= {name.strip() for name in exposed.split(",")}
            assert "access-control-allow-credentials" not in response.headers
        posted = await client.post("/v1/regions", files=FORM, headers={"Origin": PAGE})
        assert posted.headers["access-control-allow-origin"] == PAGE
        refused = await client.post("/v1/regions", headers={"Origin": PAGE})
        assert refused.status_code == 415
        assert refused.headers["access-control-allow-origin"] == PAGE


async def test_other_origins_stay_outside(analyser: FakeAnalyser) -> None:
    """Neither a similar name nor another port or scheme is the same origin."""
    async with served(analyser, cors_origins=PAGE) as client:
        for origin in (f"{PAGE}.evil.org", f"{PAGE}:8443", PAGE.replace("https", "http"), "null", "*"):
            response = await client.get("/v1/slides", headers={"Origin": origin})
            assert response.status_code == 200
            assert "access-control-allow-origin" not in response.headers
            asked = await client.options("/v1/regions", headers=preflight(origin))
            assert asked.status_code == 400
            assert asked.headers["content-type"] == wire.PROBLEM
            assert "SLIDECASCADE_CORS_ORIGINS" in asked.json()["detail"]
            assert asked.json()["request_id"] == asked.headers["x-request-id"]
            assert "access-control-allow-origin" not in asked.headers


async def test_a_preflight_is_answered_without_taking_a_place(analyser: FakeAnalyser) -> None:
    """What a browser asks before a POST with a key is answered at once, and says what may be sent."""
    async with served(analyser, cors_origins=PAGE) as client:
        asked = await client.options("/v1/regions", headers=preflight(PAGE))
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "POST" in asked.headers["access-control-allow-methods"]
        allowed = {name.strip().lower() for name in asked.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "x-api-key", "content-type", "idempotency-key"} <= allowed
        assert "x-request-id" in asked.headers
        assert (await client.options("/v1/regions", headers=preflight(PAGE, "TRACE"))).status_code == 400
        assert (await client.options("/v1/regions", headers=preflight(PAGE, headers="x-evil"))).status_code == 400
    assert analyser.seen == []


async def test_a_star_allows_every_origin(analyser: FakeAnalyser) -> None:
    """For a service that is open to its network anyway."""
    async with served(analyser, cors_origins="*") as client:
        response = await client.get("/v1/slides", headers={"Origin": "http://anything"})
        assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "value", ["viewer.org", "https://viewer.org/path", "ftp://x", "https://", "http://a b", "https://u@h"]
)
def test_an_origin_that_is_none_is_refused_at_start(value: str) -> None:
    """A browser would never send it, and the cause would be hard to find."""
    with pytest.raises(SettingsError, match=r"SLIDECASCADE_CORS_ORIGINS cannot be .* is not an origin"):
        read_settings(cors_origins=value)


def test_origins_are_separated_by_commas() -> None:
    """Spaces around them do not count."""
    settings = read_settings(cors_origins=" https://a.org ,http://[::1]:5173, http://localhost:5173,")
    assert settings.allowed_origins == ("https://a.org", "http://[::1]:5173", "http://localhost:5173")
