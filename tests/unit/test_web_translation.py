"""Masks that are drawn: how large they may be, and where they are decoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

import toy_models
from fake_analyser import FakeAnalyser
from slidecascade.cancellation import Control
from slidecascade.metrics import Metrics
from slidecascade.models.repository import ModelPackage, load_package
from slidecascade.models.tensors import Tensors
from slidecascade.settings import Settings
from slidecascade.slides.canvas import UNWATCHED, Watch
from slidecascade.slides.decoder import DirectDecoder
from slidecascade.slides.upload import EncodedImage
from slidecascade.web.context import Process
from toy_translator import TRANSLATOR, translator, translator_fields


class Counting(DirectDecoder):
    """Notes the masks that it decodes."""

    def __init__(self) -> None:
        self.decoded: list[tuple[int, int]] = []

    def mask(self, image: EncodedImage, watch: Watch = UNWATCHED) -> NDArray[np.uint16]:
        self.decoded.append((image.header.size.height, image.header.size.width))
        return super().mask(image, watch)


class Drawing(FakeAnalyser):
    """Has one translator, for sides that are multiples of 16, which draws the foreground."""

    def __init__(self, package: ModelPackage) -> None:
        super().__init__()
        self._decoder = self.counting = Counting()
        self._package = package
        self.drawn: list[tuple[int, ...]] = []

    def package(self, name: str) -> ModelPackage:
        return self._package

    def infer(self, model: str, inputs: Tensors, control: Control) -> Tensors:
        self.drawn.append(inputs["mask"].shape)
        return {"image": inputs["mask"][:, :1]}


@pytest.fixture
def analyser(tmp_path: Path) -> Drawing:
    return Drawing(load_package(toy_models.write_package(tmp_path, translator_fields(), translator())))


@pytest.fixture
async def client(analyser: Drawing) -> AsyncIterator[httpx.AsyncClient]:
    process = Process(Settings(), analyser=analyser, metrics=Metrics())
    transport = httpx.ASGITransport(process.guard(process.rest), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as made:
        yield made
    process.close()


async def ask(client: httpx.AsyncClient, labels: NDArray[np.uint16]) -> httpx.Response:
    body = cv2.imencode(".png", labels)[1].tobytes()
    headers = {"Content-Type": "image/png"}
    return await client.post("/v1/translate", params={"model": TRANSLATOR}, content=body, headers=headers)


@pytest.mark.parametrize("shape", [(4096, 4096), (2**19, 1)])
async def test_a_mask_of_more_pixels_than_a_run_is_rejected_by_its_header(
    client: httpx.AsyncClient, analyser: Drawing, shape: tuple[int, int]
) -> None:
    """Also one that has more with the background to multiples of 16: it is not decoded, no network runs."""
    answer = await ask(client, np.zeros(shape, np.uint16))
    assert answer.status_code == 413, answer.text
    assert answer.json()["type"].endswith("region-too-large")
    assert f"{shape[1]} x {shape[0]}" in answer.json()["detail"]
    assert analyser.counting.decoded == analyser.drawn == []


async def test_a_mask_is_decoded_where_uploads_are(client: httpx.AsyncClient, analyser: Drawing) -> None:
    """By the decoder of the analyser, which may be confined; all objects are drawn."""
    labels = np.zeros((20, 33), np.uint16)
    labels[3:9, 4:30], labels[12:18, 2:7] = 60_000, 1
    answer = await ask(client, labels)
    assert answer.status_code == 200, answer.text
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert drawn is not None
    assert np.array_equal(drawn > 0, labels > 0)
    assert analyser.counting.decoded == [labels.shape]
    assert analyser.drawn == [(1, 2, 32, 48)]
