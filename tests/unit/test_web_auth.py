"""Who is let in, at every address of the API, in process."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection

from fake_analyser import FakeAnalyser
from slidecascade.access.caller import SCOPES, Limits, Scope
from slidecascade.access.keys import KeyFile
from slidecascade.metrics import Metrics
from slidecascade.settings import Settings
from slidecascade.web.context import NATIVE_JOB_ROUTE, NATIVE_ROUTE, Process
from slidecascade.web.middleware.auth import Auth, is_still_valid
from slidecascade.web.routescopes import OPEN, is_listed, needed

FORM: dict[str, Any] = {"image": ("a.png", b"pixels"), "request": (None, '{"pipeline": "nash", "mpp": 0.5}')}
NATIVE = [("POST", NATIVE_ROUTE), ("POST", NATIVE_JOB_ROUTE), ("GET", "/schema.json"), ("GET", "/docs.json")]
PAGES = [
    ("GET", path) for path in ("/docs", "/docs/swagger-ui.css", "/viewer/", "/viewer/page.js", "/openapi.json")
]
ABSENT = [
    (method, path)
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
    for path in (
        "/",
        "/nothing",
        "/v1",
        "/v1/nothing",
        "/v1/jobs/../regions",
        "//v1/jobs",
        "/V1/jobs",
        "/v1/regions/",
        "/v1/jobs/00000000-0000-0000-0000-000000000000",
        "/v1/jobs/x/files/../../secret",
        "/v1/slides/no such slide",
        "/v2/models/none/infer",
        "/v2/repository/index",
        "/healthz",
        "/livez/",
        "/metrics/",
        "/livez%0A",
        "/static_content/index.css",
    )
]


@asynccontextmanager
async def served(analyser: FakeAnalyser, **settings: Any) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    """A process with these settings and a client of it."""
    process = Process(Settings(**settings), analyser=analyser, metrics=Metrics())
    transport = httpx.ASGITransport(process.guard(process.rest), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield process, client
    process.close()


@pytest.fixture
def analyser() -> Iterator[FakeAnalyser]:
    fake = FakeAnalyser()
    yield fake
    fake.close()


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    made = KeyFile(tmp_path / "keys.json")
    made.create("first", ["infer"])
    return made


def with_key(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def addresses(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Every operation of the API's document, with values for the parameters of its path."""
    return [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, operations in document["paths"].items()
        for method in operations
    ]


async def test_nothing_but_health_is_answered_without_a_key(
    analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path
) -> None:
    """Every address of the document and others, existing or not: 401 with a challenge, and a problem."""
    assert keys.list()
    async with served(analyser, keys_file=tmp_path / "keys.json", jobs_dir=tmp_path / "jobs") as (process, client):
        document = process.rest.openapi()  # type: ignore[attr-defined]
        walked = addresses(document) + NATIVE + PAGES + ABSENT
        assert len(walked) > 180
        wrong = f"sc_{'0' * 12}_{'A' * 43}"
        for (method, path), headers in itertools.product(walked, ({}, with_key(wrong), {"X-API-Key": wrong})):
            response = await client.request(method, f"http://here{path}", headers=headers)
            if path in OPEN and method in ("GET", "HEAD"):
                assert response.status_code == 200, (method, path)
                continue
            if path in OPEN:
                continue
            assert response.status_code == 401, (method, path, response.text)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert response.headers["content-length"] != "0"
            if method != "HEAD" and not path.startswith("/v2"):
                assert response.json()["type"] == "urn:slidecascade:problem:unauthenticated"
        assert analyser.seen == []


async def test_each_address_needs_its_own_scope(analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path) -> None:
    """A key with every other scope gets 403, which names the one that lacks, also where nothing exists."""
    without = {
        lacking: keys.create(
            f"no-{lacking.replace(':', '-')}", [one for one in SCOPES if one not in (lacking, "admin")]
        )
        for lacking in SCOPES
    }
    async with served(analyser, keys_file=tmp_path / "keys.json", jobs_dir=tmp_path / "jobs") as (process, client):
        document = process.rest.openapi()  # type: ignore[attr-defined]
        for method, path in addresses(document) + NATIVE + PAGES + ABSENT:
            scope = needed(method, httpx.URL(f"http://here{path}").path)
            if scope is None:
                continue
            response = await client.request(method, f"http://here{path}", headers=with_key(without[scope]))
            assert response.status_code == 403, (method, path, response.text)
            if method != "HEAD":
                assert scope in response.text


async def test_every_route_has_a_line_in_the_table(analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path) -> None:
    """So that a new one is not closed to all but `admin` by accident, and the document names its scope."""
    assert keys.list()
    async with served(analyser, keys_file=tmp_path / "keys.json", jobs_dir=tmp_path / "jobs") as (process, _):
        document = process.rest.openapi()  # type: ignore[attr-defined]
        for method, path in addresses(document) + PAGES:
            assert is_listed(method, path), (method, path)
        assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                assert bool(operation["security"]) == (path not in OPEN), path
                assert ("401" in operation["responses"]) == (path not in OPEN)


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("regions:write", "POST", "/v1/regions"),
        ("slides:read", "GET", "/v1/slides"),
        ("models:read", "GET", "/v1/pipelines"),
        ("models:read", "GET", "/docs"),
        ("metrics:read", "GET", "/metrics"),
        ("admin", "GET", "/metrics"),
        ("admin", "POST", "/v1/regions"),
    ],
)
async def test_a_key_with_the_scope_is_let_in(
    analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path, scope: Scope, method: str, path: str
) -> None:
    """In either header."""
    text = keys.create("lab", [scope])
    async with served(analyser, keys_file=tmp_path / "keys.json") as (_, client):
        for headers in (with_key(text), {"X-API-Key": text}, {"Authorization": f"bearer  {text} "}):
            files = FORM if method == "POST" else None
            response = await client.request(method, path, headers=headers, files=files)
            assert response.status_code == 200, response.text


async def test_a_browser_reads_pages_with_the_key_as_its_password(
    analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path
) -> None:
    """It is asked for one; what it then sends by itself, also for other sites, changes nothing."""
    text = keys.create("lab", ["admin"])
    basic = {"Authorization": f"Basic {base64.b64encode(f'me:{text}'.encode()).decode()}"}
    async with served(analyser, keys_file=tmp_path / "keys.json") as (_, client):
        asked = await client.get("/docs")
        assert [value.split()[0] for value in asked.headers.get_list("www-authenticate")] == ["Bearer", "Basic"]
        assert (await client.get("/docs", headers=basic)).status_code == 200
        assert (await client.get("/v1/slides", headers=basic)).status_code == 200
        assert (await client.post("/v1/regions", headers=basic, files=FORM)).status_code == 401
        for broken in ("Basic", "Basic !!!", "Basic /w==", "Digest x", "Bearer", "Bearer a b"):
            assert (await client.get("/docs", headers={"Authorization": broken})).status_code == 401


async def test_a_key_has_its_own_number_of_requests(analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path) -> None:
    """429 names the limit and when to come back; other keys are not concerned."""
    text = keys.create("busy", ["models:read"], limits=Limits(requests_per_minute=3))
    other = keys.create("other", ["models:read"], limits=Limits(requests_per_minute=3))
    async with served(analyser, keys_file=tmp_path / "keys.json") as (_, client):
        for _ in range(3):
            assert (await client.get("/v1/pipelines", headers=with_key(text))).status_code == 200
        response = await client.get("/v1/pipelines", headers=with_key(text))
        assert response.status_code == 429
        assert response.json()["type"].endswith(":limit-exceeded")
        assert "requests_per_minute" in response.json()["detail"]
        assert 1 <= int(response.headers["retry-after"]) <= 21
        assert (await client.get("/v1/pipelines", headers=with_key(other))).status_code == 200


async def test_a_key_has_its_own_number_of_regions(analyser: FakeAnalyser, keys: KeyFile, tmp_path: Path) -> None:
    """While one is in flight a second is rejected; afterwards it is accepted."""
    text = keys.create("busy", ["regions:write"], limits=Limits(regions_in_flight=1))
    analyser.hold.set()
    async with served(analyser, keys_file=tmp_path / "keys.json") as (_, client):
        first = asyncio.create_task(client.post("/v1/regions", headers=with_key(text), files=FORM))
        async with asyncio.timeout(5):
            while not analyser.running:  # noqa: ASYNC110  # it runs in a thread of the fake
                await asyncio.sleep(0.005)
        second = await client.post("/v1/regions", headers=with_key(text), files=FORM)
        assert (second.status_code, "regions_in_flight" in second.json()["detail"]) == (429, True)
        analyser.hold.clear()
        assert (await first).status_code == 200
        assert (await client.post("/v1/regions", headers=with_key(text), files=FORM)).status_code == 200


@pytest.mark.parametrize(("address", "status"), [("10.0.0.7", 401), ("::ffff:10.0.0.7", 401), ("127.0.0.1", 200)])
async def test_without_keys_only_this_machine_is_let_in(analyser: FakeAnalyser, address: str, status: int) -> None:
    """Whatever program listens, as BentoML's does, unless the operator allows it."""
    host = f"[{address}]" if ":" in address else address
    for allowed, expected in ((False, status), (True, 200)):
        async with served(analyser, allow_anonymous=allowed) as (_, client):
            assert (await client.get(f"http://{host}/v1/pipelines")).status_code == expected
            assert (await client.get(f"http://{host}/livez")).status_code == 200


async def test_the_document_of_an_open_server_asks_for_no_key(analyser: FakeAnalyser) -> None:
    """Because it answers without one."""
    async with served(analyser) as (_, client):
        document = (await client.get("/openapi.json")).json()
        assert "securitySchemes" not in document["components"]
        assert not any(
            item["security"] for operations in document["paths"].values() for item in operations.values()
        )


async def test_a_request_that_takes_long_learns_that_its_key_was_revoked(
    keys: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the events of a job do, which may be followed for hours."""
    monkeypatch.setattr("slidecascade.access.keys.LOOK_S", 0.0)
    text = keys.create("lab", ["jobs:read"])
    auth = Auth(Settings(keys_file=tmp_path / "keys.json"))
    headers = [(b"x-api-key", text.encode())]
    scope = {"type": "http", "method": "GET", "path": "/v1/jobs/1/events", "headers": headers, "state": {}}
    await auth.admit(scope)
    assert await is_still_valid(HTTPConnection(scope))
    keys.revoke("lab")
    assert not await is_still_valid(HTTPConnection(scope))
