"""A fake of EMPAIA's App API v3 over HTTP. It accepts only what the documented shapes allow; where the models of
PyPI's ``empaia-app-test-suite`` are installed, these judge every posted item as well.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StrictInt

JOB, TOKEN, SLIDE = "b10648a7-340d-43fc-a2d9-4d91cc86f33f", "job-token", "37bd11b8-3995-4377-bf57-e718e797d515"
Text = Annotated[str, Field(min_length=1, max_length=200)]
Place = Annotated[int, Field(ge=0, strict=True)]


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    creator_id: Literal["b10648a7-340d-43fc-a2d9-4d91cc86f33f"]
    creator_type: Literal["job"]
    reference_id: str


class _Polygon(_Item):
    type: Literal["polygon"]
    name: Text
    reference_type: Literal["wsi"]
    npp_created: Annotated[float, Field(gt=0)]
    coordinates: Annotated[list[Annotated[list[Place], Field(min_length=2, max_length=2)]], Field(min_length=3)]


class _Class(_Item):
    type: Literal["class"]
    reference_type: Literal["annotation"]
    value: Annotated[str, Field(pattern=r"^[a-z0-9.]+\.classes\.[a-z0-9_]+$", max_length=100)]


class _Integer(_Item):
    type: Literal["integer"]
    name: Text
    reference_type: Literal["annotation"]
    value: StrictInt


class _Collection(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["collection"]
    creator_id: Literal["b10648a7-340d-43fc-a2d9-4d91cc86f33f"]
    creator_type: Literal["job"]
    reference_id: str | None = None
    reference_type: Literal["annotation"] | None = None
    item_type: Literal["polygon", "class", "integer", "collection"]
    items: list[dict[str, Any]]


MODELS: dict[str, type[BaseModel]] = {
    "polygon": _Polygon, "class": _Class, "integer": _Integer, "collection": _Collection,
}  # fmt: skip
_SUITE = (("annotations", "polygon", "PostPolygonAnnotation"), ("classes", "class", "PostClass"),
          ("primitives", "integer", "PostIntegerPrimitive"))  # fmt: skip


def suite_models() -> dict[str, type[BaseModel]]:
    """The models of the test suite by item type; empty where it is not installed."""
    found = {}
    for module, kind, name in _SUITE:
        with suppress(ImportError):
            package = importlib.import_module(f"empaia_app_test_suite.models.v3.annotation.{module}")
            found[kind] = getattr(package, name)
    return found


class FakePlatform(ThreadingHTTPServer):
    """One job on one slide.

    Attributes:
        outputs: ids of the collections of each output, in the order of the rectangles.
        items: what each collection holds.
        ended: ``finalized``, or the message of a failure.
        refuses: statuses of the next requests, in place of doing them.
    """

    daemon_threads = True

    def __init__(self, pixels: NDArray[np.uint8], mpp: float, rectangles: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pixels = pixels
        height, width = pixels.shape[:2]
        nm = {"x": 1000 * mpp, "y": 1000 * mpp}
        slide = {"id": SLIDE, "extent": {"x": width, "y": height, "z": 1}, "pixel_size_nm": nm, "num_levels": 1}
        self.rectangles = rectangles
        self.inputs = {"slide": slide, "regions": {"item_type": "rectangle", "items": rectangles}}
        self.outputs: dict[str, list[str]] = {}
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.kinds: dict[str, str] = {}
        self.ended: str | None = None
        self.refuses: list[int] = []
        self.judges = suite_models()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, key: str) -> list[list[dict[str, Any]]]:
        """The items of an output for each rectangle."""
        return [self.items[collection] for collection in self.outputs[key]]

    def post_output(self, key: str, document: dict[str, Any]) -> dict[str, Any]:
        outer = _Collection.model_validate(document)
        assert outer.item_type == "collection"
        self.outputs[key] = []
        for inner in document["items"]:
            kind = _Collection.model_validate(inner).item_type
            inner["id"] = str(uuid.uuid4())
            self.outputs[key].append(inner["id"])
            self.items[inner["id"]], self.kinds[inner["id"]] = [], kind
        return document | {"id": str(uuid.uuid4())}

    def post_items(self, collection: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        kind = self.kinds[collection]
        for item in items:
            MODELS[kind].model_validate(item)
            if kind in self.judges:
                self.judges[kind].model_validate(item)
            item["id"] = str(uuid.uuid4())
        self.items[collection] += items
        return {"items": items}

    def region(self, x_l0: int, y_l0: int, width: int, height: int) -> bytes:
        target = io.BytesIO()
        Image.fromarray(self.pixels[y_l0 : y_l0 + height, x_l0 : x_l0 + width]).save(target, "PNG")
        return target.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakePlatform

    def do_GET(self) -> None:
        if (rest := self._rest()) is None:
            return
        region = re.fullmatch(rf"regions/{SLIDE}/level/0/start/(\d+)/(\d+)/size/(\d+)/(\d+)", rest)
        if region:
            assert "image_format=png" in self.path
            self._answer(self.server.region(*map(int, region.groups())), "image/png")
        elif (key := rest.removeprefix("inputs/")) in self.server.inputs:
            self._json(self.server.inputs[key])
        else:
            self._json({"detail": "unknown"}, 404)

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if (rest := self._rest()) is None:
            return
        parts = rest.split("/")
        if parts[0] == "outputs":
            self._json(self.server.post_output(parts[1], document), 201)
        else:
            self._json(self.server.post_items(parts[1], document["items"]), 201)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (rest := self._rest()) is None:
            return
        assert self.server.ended is None
        self.server.ended = "finalized" if rest == "finalize" else json.loads(content)["user_message"]
        self._json({})

    def _rest(self) -> str | None:
        """The address below the job, unless the request is answered already."""
        if self.server.refuses or self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._json({"detail": "refused"}, self.server.refuses.pop(0) if self.server.refuses else 401)
            return None
        path = urlsplit(self.path).path
        assert path.startswith(f"/v3/{JOB}/")
        return path.removeprefix(f"/v3/{JOB}/")

    def _json(self, document: Any, status: int = 200) -> None:
        self._answer(json.dumps(document).encode(), "application/json", status)

    def _answer(self, content: bytes, media_type: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of the base class
        """Requests are not logged."""


@contextmanager
def fake_platform(
    pixels: NDArray[np.uint8], mpp: float, rectangles: list[dict[str, Any]]
) -> Iterator[FakePlatform]:
    """A running fake."""
    server = FakePlatform(pixels, mpp, rectangles)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
