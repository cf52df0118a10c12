"""Odd HTTP to a served process: each request is answered as the protocol says, or refused in a sentence."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import tifffile

from served_process import Server, StartServer
from toy_pipeline import ToyPipeline, blobs

REGION: Final = {
    "pipeline": "toy",
    "slide": "slide.tif",
    "mpp": 0.5,
    "region": {"x": 0, "y": 0, "width": 200, "height": 200},
}
BODY: Final = json.dumps(REGION).encode()
JSON: Final = b"Content-Type: application/json"
FORM: Final = b"Content-Type: multipart/form-data; boundary=b"
CLOSE: Final = b"Connection: close"


@pytest.fixture(scope="module")
def jobs_server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("odd")
    toy = ToyPipeline(folder)
    (folder / "slides").mkdir()
    tifffile.imwrite(folder / "slides" / "slide.tif", blobs(3, 400, 300, 60), tile=(256, 256), photometric="rgb")
    return start_server(
        slides=folder / "slides",
        models=toy.models_dir,
        pipelines_dir=toy.pipelines_dir,
        threads=1,
        jobs_dir=folder / "jobs",
        jobs_min_free_bytes=0,
    )


@pytest.fixture(scope="module")
def job(jobs_server: Server) -> str:
    """The path of a job that has succeeded."""
    answer = httpx.post(f"{jobs_server.url}/v1/jobs", json=REGION, timeout=30).raise_for_status()
    path = str(answer.headers["location"])
    jobs_server.wait(
        lambda: bool(httpx.get(f"{jobs_server.url}{path}").json()["status"] == "succeeded"), seconds=60
    )
    return path


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])


@dataclass(frozen=True)
class _Received:
    """What was received, as the socket that http.client reads from."""

    data: io.BytesIO = field(default_factory=io.BytesIO)

    def makefile(self, _mode: str) -> Any:
        return _Kept(self.data)


class _Kept(io.BufferedReader):
    def __init__(self, data: io.BytesIO) -> None:
        super().__init__(data, 1)  # nothing beyond this answer is taken

    def close(self) -> None:
        """The next answer follows."""


def exchange(server: Server, data: bytes, *, head: bool = False) -> list[Answer]:
    """Send `data` and read to the end of the connection; every answer but the interim ones."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        while piece := connection.recv(2**16):
            received += piece
    return parsed(received, head=head)


def parsed(received: bytes, *, head: bool) -> list[Answer]:
    stream = io.BytesIO(received)
    answers = []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(_Received(stream), method="HEAD" if head else "GET")  # type: ignore[arg-type]
        response.begin()
        answers.append(Answer(response.status, response.headers, response.read()))
    return answers


def sent(
    target: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1", body: bytes = b""
) -> bytes:
    """A request for this host after which the connection is closed."""
    lines = [method + b" " + target + b" " + version, b"Host: 127.0.0.1", CLOSE, *headers, b"", body]
    return b"\r\n".join(lines)


def posted(target: bytes, body: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return sent(target, length, *headers, method=b"POST", body=body)


def region(body: bytes = BODY, *headers: bytes, target: bytes = b"/v1/regions") -> bytes:
    return posted(target, body, *(headers or (JSON,)))


def part(body: bytes = BODY, *, name: bytes = b"request", more: bytes = b"") -> bytes:
    return b"--b\r\nContent-Disposition: form-data; name=" + name + more + b"\r\n\r\n" + body + b"\r\n--b--\r\n"


def head_of(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


SPOKEN: Final[dict[str, tuple[bytes, int]]] = {
    "HTTP/1.0": (sent(b"/v1/models", version=b"HTTP/1.0"), 200),
    "HTTP/1.0 without a host": (head_of(b"GET /livez HTTP/1.0"), 200),
    "the whole address": (sent(b"http://127.0.0.1/v1/models"), 200),
    "the whole address alone": (sent(b"HTTP://127.0.0.1"), 404),
    "a continued header": (head_of(b"GET /livez HTTP/1.1", b"Host: 127.0.0.1", CLOSE, b"X: a", b" b"), 200),
    "bytes in a header": (sent(b"/livez", b"X: \xe9\xff"), 200),
    "2,000 headers": (sent(b"/livez", *[b"X-%d: y" % number for number in range(2000)]), 200),
    "an upgrade to WebSocket": (
        sent(b"/v1/models", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA"),
        200,
    ),
    "an upgrade to HTTP/2": (sent(b"/v1/models", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), 200),
    "GET with a body": (sent(b"/v1/models", b"Content-Length: 5", body=b"hello"), 200),
    "GET with a chunked body": (
        sent(b"/v1/models", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        200,
    ),
    "a semicolon in the query": (sent(b"/v1/models?a;b=%"), 200),
    "a query of 60 kB": (sent(b"/v1/models?a=" + b"x" * 60_000), 200),
    "chunks with extensions and trailers": (
        sent(
            b"/v1/regions",
            JSON,
            b"Transfer-Encoding: chunked",
            method=b"POST",
            body=b"%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY),
        ),
        200,
    ),
    "Expect": (region(BODY, JSON, b"Expect: 100-continue"), 200),
    "upper case": (region(BODY, b"CONTENT-TYPE: APPLICATION/JSON; CHARSET=UTF-8"), 200),
    "Content-Encoding: identity": (region(BODY, JSON, b"Content-Encoding: identity"), 200),
    "two Accept headers": (region(BODY, JSON, b"Accept: text/html", b"Accept: application/json"), 200),
    "an Accept with a parameter": (region(BODY, JSON, b"Accept: application/json;charset=utf-8"), 200),
    "a request as a file": (region(part(more=b"; filename=r.json"), FORM), 200),
    "a text behind the form": (region(part() + b"epilogue", FORM), 200),
    "a quoted boundary": (region(part(), FORM.replace(b"=b", b'="b"')), 200),
    "a whole float": (region(BODY.replace(b": 200", b": 200.0")), 200),
    "a limit as a whole float": (sent(b"/v1/jobs?limit=1.0"), 200),
}
"""Unusual, and right."""

REFUSED: Final[dict[str, tuple[bytes, int, str]]] = {
    "HTTP/2": (sent(b"*", method=b"PRI", version=b"HTTP/2.0"), 400, "HTTP/1.1"),
    "HTTP/3.7": (sent(b"/livez", version=b"HTTP/3.7"), 400, "HTTP/1.1"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100, 400, "not valid HTTP"),
    "no host": (head_of(b"GET /livez HTTP/1.1"), 400, "not valid HTTP"),
    "two hosts": (head_of(b"GET /livez HTTP/1.1", b"Host: 127.0.0.1", b"Host: other"), 400, "not valid HTTP"),
    "another host": (head_of(b"GET /livez HTTP/1.1", b"Host: other.example"), 421, "SLIDECASCADE_ALLOWED_HOSTS"),
    "another host in the address": (sent(b"http://other.example/livez"), 421, "SLIDECASCADE_ALLOWED_HOSTS"),
    "a space before the colon": (head_of(b"GET /livez HTTP/1.1", b"Host : 127.0.0.1"), 400, "not valid HTTP"),
    "NUL in a header": (sent(b"/livez", b"X: a\0b"), 400, "not valid HTTP"),
    "a path that is not encoded": (sent("/v1/models/é".encode()), 400, "not valid HTTP"),
    "lower case": (sent(b"/v1/models", method=b"get"), 405, "Allow"),
    "an unknown method": (sent(b"/v1/models", method=b"BREW"), 405, "Allow"),
    "TRACE": (sent(b"/v1/models", method=b"TRACE"), 405, "Allow"),
    "CONNECT": (sent(b"other:443", method=b"CONNECT"), 404, "/docs"),
    "two slashes": (sent(b"//v1//models"), 404, "/docs"),
    "a slash at the end": (sent(b"/v1/models/"), 404, "/docs"),
    "a broken escape": (sent(b"/v1/models/%zz%"), 404, "'%zz%'"),
    "an escape that is not UTF-8": (sent(b"/v1/models/%ff%fe"), 404, "/v1/models lists"),
    "NUL in the path": (sent(b"/v1/models/%00"), 404, "/v1/models lists"),
    "a way out": (sent(b"/v1/slides/..%2f..%2fetc/passwd"), 404, "/v1/slides lists"),
    "a limit that is a word": (sent(b"/v1/jobs?limit=x"), 422, "'limit'"),
    "a limit of nothing": (sent(b"/v1/jobs?limit=0"), 422, "'limit'"),
    "a limit of 5,000 digits": (sent(b"/v1/jobs?limit=" + b"9" * 5000), 422, "'limit'"),
    "an unknown status": (sent(b"/v1/jobs?status=done"), 422, "'status'"),
    "a cursor that is none": (sent(b"/v1/jobs?cursor=%ff"), 422, "'cursor'"),
    "a cursor of no time": (sent(b"/v1/jobs?cursor=" + base64.urlsafe_b64encode(b"nan x")), 422, "'cursor'"),
    "a cursor beyond time": (sent(b"/v1/jobs?cursor=" + base64.urlsafe_b64encode(b"1e999 x")), 422, "'cursor'"),
    "NUL in a label": (sent(b"/v1/jobs?label=%00"), 422, "'label'"),
    "a negative length": (sent(b"/v1/regions", b"Content-Length: -1", method=b"POST"), 400, "not valid HTTP"),
    "a length with a sign": (sent(b"/v1/regions", b"Content-Length: +0", method=b"POST"), 400, "not valid HTTP"),
    "two lengths": (
        sent(b"/v1/regions", b"Content-Length: 1", b"Content-Length: 2", method=b"POST", body=b"12"),
        400,
        "not valid HTTP",
    ),
    "a length of 23 digits": (
        sent(b"/v1/regions", b"Content-Length: " + b"9" * 23, method=b"POST"),
        400,
        "not valid HTTP",
    ),
    "an unknown transfer coding": (
        sent(b"/v1/regions", b"Transfer-Encoding: gzip, chunked", method=b"POST", body=b"0\r\n\r\n"),
        400,
        "not valid HTTP",
    ),
    "no body": (sent(b"/v1/regions", method=b"POST"), 415, "application/json"),
    "an empty body": (region(b""), 400, "not a valid JSON object"),
    "an array": (region(b"[]"), 400, "not a valid JSON object"),
    "100,000 open brackets": (region(b"[" * 100_000), 400, "not a valid JSON object"),
    "20,000 members, one in the other": (region(b'{"a":' * 20_000 + b"1" + b"}" * 20_000), 422, "2000 fields"),
    "UTF-16": (region(BODY.decode().encode("utf-16")), 400, "UTF-8"),
    "NaN": (region(BODY.replace(b"0.5", b"NaN")), 422, "'mpp'"),
    "a number beyond all": (region(BODY.replace(b"0.5", b"1e999")), 422, "'mpp'"),
    "half a surrogate": (region(BODY.replace(b"slide.tif", b"\\ud800")), 400, "encoding"),
    "NUL in a name": (region(BODY.replace(b"slide.tif", b"a\\u0000")), 404, "/v1/slides lists"),
    "text behind the JSON": (region(BODY + b" x"), 400, "not a valid JSON object"),
    "no media type": (posted(b"/v1/regions", BODY), 415, "application/json"),
    "bytes as a media type": (region(BODY, b"Content-Type: ;;;=\xff"), 415, "application/json"),
    "gzip": (region(gzip.compress(BODY), JSON, b"Content-Encoding: gzip"), 415, "Content-Encoding"),
    "an Accept that is none": (region(BODY, JSON, b"Accept: ;;;"), 406, "application/geo+json"),
    "an Accept of 60 kB": (region(BODY, JSON, b"Accept: " + b"a/b," * 15_000), 406, "application/geo+json"),
    "an unknown parameter": (region(target=b"/v1/regions?x=1"), 422, "heatmap"),
    "a parameter twice": (region(target=b"/v1/regions?heatmap=red&heatmap=red"), 422, "once"),
    "a form without boundary": (region(b"x", b"Content-Type: multipart/form-data"), 400, "boundary"),
    "a boundary of 5 kB": (region(b"x", FORM + b"b" * 5000), 400, "boundary"),
    "a part of another name": (region(part(name=b"\xc3\xa9"), FORM), 400, "other than 'image' and 'request'"),
    "a part without a name": (region(b"--b\r\n\r\nx\r\n--b--\r\n", FORM), 400, "other than 'image' and 'request'"),
    "line ends of Unix": (region(part().replace(b"\r\n", b"\n"), FORM), 400, "multipart form"),
    "a job as text": (region(BODY, b"Content-Type: text/plain", target=b"/v1/jobs"), 415, "application/json"),
    "NUL in a job's label": (
        region(json.dumps({**REGION, "label": "a\0b"}).encode(), target=b"/v1/jobs"),
        422,
        "'label'",
    ),
    "an empty key": (region(BODY, JSON, b"Idempotency-Key:", target=b"/v1/jobs"), 422, "'Idempotency-Key'"),
    "an address for the server to fetch": (
        region(
            json.dumps({"request": {"pipeline": "toy"}, "image": "http://127.0.0.1/"}).encode(),
            target=b"/analyze_region",
        ),
        422,
        "'image'",
    ),
}
"""What is wrong, the status, and words of the sentence that says why."""


@pytest.mark.parametrize("name", SPOKEN)
def test_what_is_unusual_and_right_is_answered(jobs_server: Server, name: str) -> None:
    """With the status, a request id and one answer."""
    data, status = SPOKEN[name]
    answers = [answer for answer in exchange(jobs_server, data) if answer.status != 100]
    assert [answer.status for answer in answers] == [status]
    assert answers[0].headers["X-Request-Id"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_in_a_sentence(jobs_server: Server, name: str) -> None:
    """As a problem with a request id, and once: nothing behind it is taken for another request."""
    data, status, words = REFUSED[name]
    (answer,) = exchange(jobs_server, data)
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == json.loads(answer.body)["request_id"]
    assert words in answer.detail


RANGES: Final[dict[str, tuple[tuple[bytes, ...], int, Callable[[bytes], bytes]]]] = {
    "the first bytes": ((b"Range: bytes=0-9",), 206, lambda file: file[:10]),
    "the last bytes": ((b"Range: bytes=-5",), 206, lambda file: file[-5:]),
    "to the end": ((b"Range: bytes=10-",), 206, lambda file: file[10:]),
    "beyond the end": ((b"Range: bytes=0-999999",), 206, lambda file: file),
    "spaces": ((b"Range: bytes= 0-9 ",), 206, lambda file: file[:10]),
    "another unit": ((b"Range: lines=0-9",), 200, lambda file: file),
    "letters": ((b"Range: bytes=a-b",), 200, lambda file: file),
    "the last before the first": ((b"Range: bytes=9-0",), 200, lambda file: file),
    "nothing": ((b"Range: bytes=",), 200, lambda file: file),
    "500 times the same": ((b"Range: bytes=" + b",".join([b"0-"] * 500),), 200, lambda file: file),
    "of another file": ((b"Range: bytes=0-9", b'If-Range: "other"'), 200, lambda file: file),
}


@pytest.mark.parametrize("name", RANGES)
def test_ranges_that_can_be_used_are(jobs_server: Server, job: str, name: str) -> None:
    """Others are ignored, as HTTP says."""
    target = f"{job}/files/summary.json".encode()
    file = exchange(jobs_server, sent(target))[0].body
    headers, status, expected = RANGES[name]
    (answer,) = exchange(jobs_server, sent(target, *headers))
    assert (answer.status, answer.body) == (status, expected(file))


def test_a_range_behind_the_file_says_how_long_it_is(jobs_server: Server, job: str) -> None:
    """416 with Content-Range, as a problem."""
    target = f"{job}/files/summary.json".encode()
    length = len(exchange(jobs_server, sent(target))[0].body)
    (answer,) = exchange(jobs_server, sent(target, b"Range: bytes=9999999-"))
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{length}")
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("bbox=0,0,999999999,999999999", 200),
        ("bbox=-5,-5,10,10", 200),
        ("bbox=0,0,9999999999,9999999999", 422),
        ("bbox=0,0,0,1", 422),
        ("bbox=0,0,1,%D9%A3", 422),
        ("bbox=0,0,1,1%0A", 422),
        ("bbox=0,0,1_0,1", 422),
        ("bbox=0,0,1.5,1", 422),
        ("bbox=0,0,1", 422),
        ("bbox=0,0,9,9&class=%00", 422),
        ("bbox=0,0,9,9&limit=-1", 422),
        ("limit=1", 422),
    ],
)
def test_boxes_of_cells_are_checked(jobs_server: Server, job: str, query: str, status: int) -> None:
    """Whole numbers of the slide, written as such."""
    (answer,) = exchange(jobs_server, sent(f"{job}/cells?{query}".encode()))
    assert answer.status == status, answer.body


@pytest.mark.parametrize(
    "name", ["..%2f..%2frecords.sqlite", "%2e%2e/files/summary.json", "heatmaps", "a%00b", "a" * 5000, "%ff"]
)
def test_a_job_has_its_own_files_only(jobs_server: Server, job: str, name: str) -> None:
    """404 for everything else, whatever it is called."""
    (answer,) = exchange(jobs_server, sent(f"{job}/files/{name}".encode()))
    assert answer.status == 404


def test_all_methods_of_an_address_are_listed(jobs_server: Server, job: str) -> None:
    """Those of every route there."""
    for target, allowed in ((b"/v1/jobs", "GET, HEAD, POST"), (job.encode(), "DELETE, GET, HEAD")):
        (answer,) = exchange(jobs_server, sent(target, method=b"OPTIONS"))
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)


def test_a_header_that_names_another_method_changes_nothing(jobs_server: Server, job: str) -> None:
    """GET is GET."""
    (answer,) = exchange(jobs_server, sent(job.encode(), b"X-HTTP-Method-Override: DELETE"))
    assert answer.status == 200
    assert exchange(jobs_server, sent(job.encode()))[0].status == 200


def test_requests_in_one_packet_are_answered_in_order(jobs_server: Server) -> None:
    """The last one is no HTTP: it is refused, and those before it are not."""
    keep = [line.replace(CLOSE + b"\r\n", b"") for line in (sent(b"/livez"), region(), sent(b"/v1/models/none"))]
    answers = exchange(jobs_server, b"".join(keep) + b"\x16\x03\x01\r\n\r\n")
    assert [answer.status for answer in answers] == [200, 200, 404, 400]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4


def test_vary_names_each_header_once(jobs_server: Server) -> None:
    """What an answer depends on is listed without repetition."""
    for data in (region(), sent(b"/v1/models")):
        (answer,) = exchange(jobs_server, data)
        names = [name.strip() for name in ",".join(answer.headers.get_all("Vary", [])).split(",")]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("asked", [b"a b\xff<script>", b"a" * 65, b"", b"../x"])
def test_a_request_id_that_could_harm_a_log_is_replaced(jobs_server: Server, asked: bytes) -> None:
    """By one of the server's own."""
    (answer,) = exchange(jobs_server, sent(b"/livez", b"X-Request-Id: " + asked))
    assert answer.headers["X-Request-Id"].isalnum()
    assert len(answer.headers["X-Request-Id"]) == 32


def test_nothing_failed_and_the_log_is_json(jobs_server: Server, job: str) -> None:
    """No request above was a fault of the server."""
    assert exchange(jobs_server, sent(job.encode()))[0].status == 200
    assert not [line for line in jobs_server.lines() if line["message"] in ("unexpected error", "failed")]
    assert Path(jobs_server.log).with_name("stdout.txt").read_bytes() == b""
