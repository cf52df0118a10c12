"""A fake FHIR server over HTTP: transactions with ``ifNoneExist``, searches of ServiceRequests by page. It stands
in for a real server, of which none installs here: it accepts what these lines say, which proves no conformance.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

VALIDATION = Path(__file__).parent / "fhir_validation"
PAGE = 2


class FakeFhirServer(ThreadingHTTPServer):
    """Keeps resources in memory.

    Attributes:
        token: what requests must present; None: nothing.
        answers: statuses of the next requests, in place of doing them.
        rejects: whether transactions are answered with 422.
        forget: the next transaction is stored, and its connection closed without an answer.
        bundles: every Bundle that was stored.
        resources: what is stored, without what ``ifNoneExist`` found.
        searches: the queries of all searches.
        posts: requests with a body, also those that were answered with an error or are not JSON.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token: str | None = None
        self.answers: list[int] = []
        self.rejects = False
        self.forget = False
        self.bundles: list[dict[str, Any]] = []
        self.resources: list[dict[str, Any]] = []
        self.searches: list[dict[str, str]] = []
        self.requests = 0
        self.posts = 0
        self.next_page_at: str | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/r4"

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections of killed bridges are not reported."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        with self.lock:
            return [resource for resource in self.resources if resource["resourceType"] == kind]

    def put(self, resource: dict[str, Any]) -> None:
        """Create a resource or replace that of the same type and id."""
        key = (resource["resourceType"], resource["id"])
        with self.lock:
            kept = [one for one in self.resources if (one["resourceType"], one.get("id")) != key]
            self.resources = [*kept, resource]

    def transact(self, bundle: dict[str, Any]) -> dict[str, Any]:
        entries = []
        with self.lock:
            self.bundles.append(bundle)
            for entry in bundle["entry"]:
                assert entry["request"]["method"] == "POST"
                exists = "ifNoneExist" in entry["request"] and any(
                    entry["resource"].get("identifier") == one.get("identifier")
                    and entry["resource"]["resourceType"] == one["resourceType"]
                    for one in self.resources
                )
                if not exists:
                    self.resources.append(entry["resource"])
                entries.append({"response": {"status": "200 OK" if exists else "201 Created"}})
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}

    def search(self, query: dict[str, str]) -> dict[str, Any]:
        self.searches.append(query)
        since = query.get("_lastUpdated", "ge").removeprefix("ge")
        statuses = query["status"].split(",")
        found = [
            one
            for one in self.of("ServiceRequest")
            if one["status"] in statuses and one["meta"]["lastUpdated"] >= since
        ]
        found.sort(key=lambda one: str(one["meta"]["lastUpdated"]))
        start = int(query.get("from", 0))
        page = found[start : start + PAGE]
        specimens = [] if "_include" not in query else self.of("Specimen")
        document = {
            "resourceType": "Bundle",
            "type": "searchset",
            "entry": [{"resource": resource} for resource in (*page, *specimens)],
        }
        if start + PAGE < len(found):
            further = urlencode({**query, "from": start + PAGE})
            base = self.next_page_at or self.url
            document["link"] = [{"relation": "next", "url": f"{base}/ServiceRequest?{further}"}]
        return document


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeFhirServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts += 1
        if self._refused():
            return
        assert self.headers["Content-Type"] == "application/fhir+json"
        if self.server.rejects:
            self._answer(422, {"resourceType": "OperationOutcome"})
            return
        answer = self.server.transact(json.loads(content))
        if self.server.forget:
            self.server.forget = False
            self.close_connection = True
            return
        self._answer(200, answer)

    def do_GET(self) -> None:
        if not self._refused():
            parts = urlsplit(self.path)
            assert parts.path == "/r4/ServiceRequest"
            self._answer(200, self.server.search({k: v[0] for k, v in parse_qs(parts.query).items()}))

    def _refused(self) -> bool:
        self.server.requests += 1
        if self.server.token is not None and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._answer(401, {"resourceType": "OperationOutcome"})
            return True
        if self.server.answers:
            self._answer(self.server.answers.pop(0), {"resourceType": "OperationOutcome"})
            return True
        return False

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of the base class
        """Requests are not logged."""


@contextmanager
def fake_fhir_server() -> Iterator[FakeFhirServer]:
    """A running fake."""
    server = FakeFhirServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def faults_of(bundle: dict[str, Any], folder: Path) -> list[dict[str, str]]:
    """What npm's `fhir` finds wrong with a Bundle; the test is skipped where it is not installed."""
    node = which("node", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if node is None or not (VALIDATION / "node_modules" / "fhir").is_dir():
        pytest.skip("npm's fhir is not installed: `make fhir-validation` installs it")
    path = folder / "validated.json"
    path.write_text(json.dumps(bundle), encoding="utf-8")
    done = subprocess.run(
        [node, str(VALIDATION / "validate.cjs"), str(path)], capture_output=True, check=True, timeout=120
    )
    found: list[dict[str, str]] = json.loads(done.stdout)
    return [one for one in found if one["severity"] not in ("info", "warning")]  # of bindings that are examples
