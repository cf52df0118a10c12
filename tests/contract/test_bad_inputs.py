"""Bad inputs by hand at every door of a served process: each is rejected as a problem; nothing fails or hangs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest

from served_jobs import JOB
from served_process import Server

LEAST_CASES: Final = 300
LIMIT_S: Final = 60.0
"""A hang, on the slowest machine."""

JSON: Final = {"Content-Type": "application/json"}
REGION: Final = JOB | {"region": {"x": 0, "y": 0, "width": 64, "height": 64}}

NUMBERS: Final = ['"1"', "true", "[]", "{}", "-1", "0", "NaN", "Infinity", "-1e999", "1e308", "9" * 400]
TEXTS: Final = ["1", "true", "[]", "{}", '""', '"\\u0000"', '"\\ud800"', json.dumps("x" * 5000)]
BOXES: Final = [
    "1",
    '"0,0,1,1"',
    "[0, 0, 1, 1]",
    "{}",
    '{"x": 0, "y": 0, "width": 64}',
    '{"x": 0, "y": 0, "width": 0, "height": 64}',
    '{"x": 0, "y": 0, "width": 64, "height": -64}',
    '{"x": 0.5, "y": 0, "width": 64, "height": 64}',
    '{"x": "0", "y": 0, "width": 64, "height": 64}',
    '{"x": null, "y": 0, "width": 64, "height": 64}',
    '{"x": 1e300, "y": 0, "width": 64, "height": 64}',
    '{"x": 99999999, "y": 0, "width": 64, "height": 64}',
    '{"x": 0, "y": 0, "width": 64, "height": 64, "z": 1}',
]
MAPPINGS: Final = ["1", '"a"', "[]", '{"a": null}', '{"a": []}', '{"a": true}', '{"\\u0000": {}}']
SLIDES: Final = [
    "\uff0fetc\uff0fpasswd",  # full-width solidus
    "..\uff0f..\uff0fetc/passwd",
    "\u2025/\u2025/etc/passwd",  # two dot leader
    "\uff0e\uff0e/etc/passwd",  # full-width stops
    "Ward\u00a07 patient.tif",  # no-break space
    "ward 7 patient.tif",
    "Ward 7 patient.tif ",
    "Ward 7 patient.tif\u200b",
    "\u202efit.tneitap 7 draW",  # right-to-left override
    "\ufeffWard 7 patient.tif",
    "W\u0430rd 7 patient.tif",  # Cyrillic a
    "Ward 7 patient.tif:stream",
    "Ward 7 patient.tif/..",
    "./Ward 7 patient.tif",
    "file:///etc/passwd",
    "http://127.0.0.1:1/a.tif",
    "dicomweb:none/1.2/3.4",
    "/proc/self/environ",
    "/dev/zero",
    "con",
    "$(id)",
    "a.tif\r\nX-Injected: 1",
    "%2e%2e/secret.tif",
]
FIELDS: Final[dict[str, list[str]]] = {
    "pipeline": [*TEXTS, "null", '"../toy"', '"Toy"'],
    "mpp": NUMBERS,
    "object_diameter_px": NUMBERS,
    "slide": [*TEXTS, *map(json.dumps, SLIDES)],
    "region": BOXES,
    "thresholds": MAPPINGS,
    "channels": MAPPINGS,
    "stain": ["1", '"none such"', "[]", "true"],
    "options": ["1", '"a"', "[]", '{"none": 1}'],
    "allow_partial": ['"true"', "1", "null", "[]"],
    "origin": ['"corner"', "1", "null", "[]"],
    "unknown": ["1"],
}
OF_REGIONS: Final = FIELDS | {"tile_px": [*NUMBERS, "64.5"], "deadline_s": NUMBERS[:9]}
OF_JOBS: Final = FIELDS | {
    "outputs": ["1", '"geojson"', '["none"]', "[null]", "[1]", "{}", json.dumps(["geojson"] * 17)],
    "label": TEXTS,
    "notify": [*TEXTS, '"http://127.0.0.1/"', '"none-such"'],
}


@dataclass(frozen=True)
class Case:
    """A request that must be rejected, and what it is called."""

    name: str
    method: str
    target: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


def _of_fields(target: str, good: dict[str, Any], fields: dict[str, list[str]]) -> Iterator[Case]:
    """A case for each bad value, written as JSON text, of each field of a request that is good otherwise."""
    for field, values in fields.items():
        rest = json.dumps({name: value for name, value in good.items() if name != field})[:-1]
        for value in values:
            body = f'{rest}, "{field}": {value}}}'.encode()
            yield Case(f"{field}: {value[:60]}", "POST", target, body, tuple(JSON.items()))


def _of_bodies(target: str) -> Iterator[Case]:
    """Bodies that are wrong wherever they are posted."""
    form = "multipart/form-data; boundary=b"
    for media, body in (
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"null"),
        ("application/json", b'"text"'),
        ("application/json", b"\xff\xfe{\0}\0"),
        ("application/json", b'{"pipeline": "toy", "pipeline": ["toy"]}'),
        ("application/json", b"[" * 50_000),
        ("application/xml", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"),
        ("application/x-yaml", b"!!python/object/apply:os.system [id]"),
        ("application/x-www-form-urlencoded", b"pipeline=toy"),
        ("text/plain", b"pipeline"),
        (form, b""),
        (form, b"--b--\r\n"),
        (form, b"--b\r\nContent-Disposition: form-data; name=request\r\n\r\n{}\r\n"),
        (form, b"--b\r\nContent-Disposition: form-data; name=request\r\n\r\n[]\r\n--b--\r\n"),
        (form, b"--b\r\nContent-Disposition: form-data; name=image; filename=../../a\r\n\r\nx\r\n--b--\r\n"),
    ):
        yield Case(f"{media}: {body[:40]!r}", "POST", target, body, (("Content-Type", media),))


def _of_addresses() -> Iterator[Case]:
    """Ids and names in paths, and queries, at every address that takes them; {job} is a job that succeeded."""
    names = [
        "none",
        "%00",
        "%ff",
        "%2e%2e%2fetc",
        "a" * 3000,
        "%E2%80%AE",
        "%0d%0aX:1",
        "*",
        "%25s%25n",
        "'%20OR%201=1--",
    ]
    for prefix in (
        "/v1/pipelines/",
        "/v1/models/",
        "/v1/slides/",
        "/v1/jobs/",
        "/v2/models/",
        "/v1/jobs/{job}/files/",
    ):
        yield from (Case(name[:30], "GET", prefix + name) for name in names)
    yield from (Case(name[:30], "DELETE", f"/v1/jobs/{name}") for name in names)
    for action in ("cancel", "retry"):
        yield from (Case(name[:30], "POST", f"/v1/jobs/{name}/{action}") for name in names[:4])
    yield from (Case(slide, "GET", f"/v1/slides/{quote(slide, safe='')}") for slide in SLIDES)
    for query in ("limit=-1", "limit=1e9", "status=%00", "cursor=AAAA", "label=%00", "limit=%D9%A3"):
        yield Case(query, "GET", f"/v1/jobs?{query}")
    for query in ("bbox=", "bbox=a,b,c,d", "bbox=NaN,0,1,1", "bbox=0,0,1,1,1", "bbox=0,0,-1,-1", "limit=5"):
        yield Case(query, "GET", f"/v1/jobs/{{job}}/cells?{query}")
    for path in (
        "/nothing",
        "/v1",
        "/v3",
        "/V1/jobs",
        "/.env",
        "/.git/config",
        "/cgi-bin/x",
    ):
        yield Case(path, "GET", path)
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"):
        yield from (Case(path, method, path) for path in ("/v1/regions", "/v1/slides", "/v1/models", "/livez"))


def cases() -> list[Case]:
    """All of them."""
    doors = ("/v1/regions", "/v1/jobs", "/v1/jobs:batch", "/v1/translate", "/v2/models/toy-cell/infer")
    return [
        *_of_fields("/v1/regions", REGION, OF_REGIONS),
        *_of_fields("/v1/jobs", JOB, OF_JOBS),
        *(case for door in doors for case in _of_bodies(door)),
        *_of_addresses(),
    ]


@pytest.fixture(scope="module")
def wrongly_answered(job_server: Server, done_job: str) -> list[str]:
    """The cases that were not rejected as they should be, and how they were answered."""
    wrong = []
    with httpx.Client(base_url=job_server.url, timeout=LIMIT_S) as client:
        for case in cases():
            target = case.target.replace("{job}", done_job)
            request = client.build_request(case.method, "/", content=case.body, headers=dict(case.headers))
            request.url = request.url.copy_with(raw_path=target.encode())
            answer = client.send(request)
            if not _is_rejected(answer):
                wrong.append(
                    f"{case.method} {case.target[:80]} {case.name}: {answer.status_code} {answer.text[:200]}"
                )
    return wrong


def _is_rejected(answer: httpx.Response) -> bool:
    """With 4xx, as a problem with a sentence and the id of its request; /v2 answers errors in its own form."""
    if not 400 <= answer.status_code < 500:
        return False
    document = answer.json()
    if answer.headers["Content-Type"] != "application/problem+json":
        return bool(document.get("error"))
    return bool(document["detail"]) and document["request_id"] == answer.headers["X-Request-Id"]


def test_there_are_enough_cases() -> None:
    """At least as many as are promised, each another request."""
    found = cases()
    assert len({(case.method, case.target, case.body, case.headers) for case in found}) == len(found)
    assert len(found) >= LEAST_CASES, len(found)


def test_each_is_rejected_in_a_sentence(wrongly_answered: list[str]) -> None:
    """With 4xx and within the time limit: no bare 500, no hang, nothing accepted."""
    assert wrongly_answered == [], "\n".join(wrongly_answered)


def test_none_was_a_fault_of_the_server(job_server: Server, wrongly_answered: list[str]) -> None:
    """It is ready, it logged no error, and nothing was injected."""
    assert wrongly_answered is not None
    assert httpx.get(f"{job_server.url}/readyz", timeout=LIMIT_S).status_code == 200
    assert not [line for line in job_server.lines() if line["message"] in ("unexpected error", "failed")]
