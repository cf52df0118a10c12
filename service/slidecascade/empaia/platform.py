"""The App API v3 of EMPAIA: inputs, pixels, outputs and the end of one job."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from slidecascade.errors import SettingsError, SlideCascadeError

_TILE_PX: Final = 2048
_TIMEOUT_S: Final = 120.0
_TRIES: Final = 4
_FIRST_WAIT_S: Final = 0.5
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_BATCH: Final = 2000
"""Items of a collection in one request."""


class EmpaiaError(SlideCascadeError):
    """The platform does not answer, rejects a request, or has inputs that cannot be read."""

    problem, title = "empaia", "EMPAIA platform"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


P = TypeVar("P", bound=_Part)


class _Extent(_Part):
    x: int
    y: int


class _PixelSize(_Part):
    x: float
    y: float


class Wsi(_Part):
    """A slide of the platform; sizes in level-0 pixels."""

    id: str
    extent: _Extent
    pixel_size_nm: _PixelSize


class Rectangle(_Part):
    """An input rectangle in level-0 pixels."""

    id: str
    upper_left: tuple[int, int]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Job:
    """What the platform gives an app by its environment."""

    url: str
    id: str
    token: str

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Job:
        """Raises SettingsError: a variable is missing."""
        names = ("EMPAIA_APP_API", "EMPAIA_JOB_ID", "EMPAIA_TOKEN")
        values = [environment.get(name, "") for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if not value]
        if missing:
            raise SettingsError(f"{missing[0]} is not set: the platform sets it when it starts an app.")
        return cls(*values)


class Platform:
    """Requests for one job; those that may succeed later are repeated, except what would be stored twice.

    Raises:
        EmpaiaError: by each method.
    """

    def __init__(self, job: Job, *, first_wait_s: float = _FIRST_WAIT_S) -> None:
        self.job = job
        self._first_wait_s = first_wait_s
        self._http = httpx.Client(
            base_url=f"{job.url.rstrip('/')}/v3/{job.id}/",
            headers={"authorization": f"Bearer {job.token}"},
            timeout=_TIMEOUT_S,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def slide(self, key: str) -> Wsi:
        return _read(Wsi, self._asked("GET", f"inputs/{key}").json(), key)

    def rectangles(self, key: str) -> tuple[Rectangle, ...]:
        """An input that is a rectangle or a collection of them."""
        document = self._asked("GET", f"inputs/{key}").json()
        items = document.get("items") if isinstance(document, dict) and "items" in document else [document]
        return tuple(_read(Rectangle, item, key) for item in items or ())

    def pixels(self, slide: Wsi, box_l0: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """The pixels ``(H, W, 3)`` of a box (x, y, width, height) of level 0, without loss."""
        x_l0, y_l0, width, height = box_l0
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, _TILE_PX):
            for left in range(0, width, _TILE_PX):
                tile_height, tile_width = min(_TILE_PX, height - top), min(_TILE_PX, width - left)
                path = (
                    f"regions/{slide.id}/level/0/start/{x_l0 + left}/{y_l0 + top}/size/{tile_width}/{tile_height}"
                )
                content = self._asked("GET", path, params={"image_format": "png"}).content
                pixels[top : top + tile_height, left : left + tile_width] = _decoded(
                    content, (tile_height, tile_width)
                )
        return pixels

    def post_collections(self, key: str, item_type: str, rectangles: Sequence[Rectangle]) -> list[str]:
        """An output that is a collection with an empty collection for each rectangle; the ids of these."""
        inner = [
            {**self._made("collection"), "item_type": item_type, "items": [], **_about(rectangle.id)}
            for rectangle in rectangles
        ]
        outer = {**self._made("collection"), "item_type": "collection", "items": inner}
        answer = self._asked("POST", f"outputs/{key}", json=outer).json()
        return _ids(answer, len(inner))

    def post_items(self, collection_id: str, items: Sequence[Mapping[str, Any]]) -> list[str]:
        """Add items to a collection; their ids."""
        ids: list[str] = []
        for start in range(0, len(items), _BATCH):
            batch = list(items[start : start + _BATCH])
            answer = self._asked("POST", f"collections/{collection_id}/items", json={"items": batch}).json()
            ids += _ids(answer, len(batch))
        return ids

    def item(self, kind: str, reference_id: str, **fields: Any) -> dict[str, Any]:
        """An item that refers to an annotation."""
        return {**self._made(kind), **_about(reference_id), **fields}

    def annotation(self, kind: str, slide: Wsi, **fields: Any) -> dict[str, Any]:
        """An annotation of the slide."""
        about = {"reference_id": slide.id, "reference_type": "wsi", "npp_created": slide.pixel_size_nm.x}
        return {**self._made(kind), **about, **fields}

    def finalize(self) -> None:
        self._asked("PUT", "finalize")

    def fail(self, message: str) -> None:
        """End the job with a sentence for its user."""
        self._asked("PUT", "failure", json={"user_message": message})

    def _made(self, kind: str) -> dict[str, Any]:
        return {"type": kind, "creator_id": self.job.id, "creator_type": "job"}

    def _asked(self, method: str, path: str, **content: Any) -> httpx.Response:
        tries = 1 if method == "POST" else _TRIES
        for made in range(1, tries + 1):
            try:
                answer = self._http.request(method, path, **content)
            except httpx.HTTPError as error:
                reason = type(error).__name__
            else:
                if answer.is_success:
                    return answer
                reason = f"status {answer.status_code}"
                if answer.status_code not in _AGAIN:
                    break
            if made < tries:
                time.sleep(self._first_wait_s * 2.0 ** (made - 1))
        raise EmpaiaError(
            f"The platform did not do {method} {path.split('/', maxsplit=1)[0]} ({reason}): see its log."
        )


def _about(reference_id: str) -> dict[str, str]:
    return {"reference_id": reference_id, "reference_type": "annotation"}


def _ids(answer: Any, count: int) -> list[str]:
    items = answer.get("items") if isinstance(answer, dict) else answer
    ids = [str(item["id"]) for item in items or () if isinstance(item, dict) and item.get("id")]
    if len(ids) != count:
        raise EmpaiaError("The platform's answer has not the ids of what was posted: it has another API version.")
    return ids


def _read(model: type[P], document: object, key: str) -> P:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise EmpaiaError(
            f"The input {key} is no {model.__name__.lower()}: check the keys of the app's description."
        ) from error


def _decoded(content: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise EmpaiaError("The platform sent pixels that are not an image: see its log.") from error
    if pixels.shape[:2] != shape:
        raise EmpaiaError("The platform sent a region of another size: it may lie outside of the slide.")
    return pixels
