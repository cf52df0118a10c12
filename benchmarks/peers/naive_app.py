"""The naive peers: a BentoML service for every network, and one in front that calls them for every tile and cell.

`Naive` has default settings throughout and waits for each call before it makes the next, as one writes it first.
`NaiveGathered` makes the calls of a tile's cells at the same time, so that BentoML's adaptive batching has
something to put together, and answers several regions at a time; workers and batching of its networks are those of
`PEER_WORKERS`, `PEER_BATCH` and `PEER_LATENCY_MS`. It has one more setting, without which calls fail: BentoML
closes the connection that services share after 100 calls, those under way included."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import onnxruntime
from benchmarks.peers.composition import Composition
from benchmarks.peers.percell import Gathered, OneByOne
from numpy.typing import NDArray
from starlette.responses import Response

LONG = {"timeout": 600}
"""BentoML gives up after 60 s, which regions one after the other can take; it is no part of what is measured."""

KEPT = {"max_requests": 2_000_000_000, "max_age": 1e9}


class Network:
    """One network as BentoML's documentation wraps one; ONNX Runtime with its default settings."""

    model: str

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(Composition.load().package(self.model).read())

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]  # bentoml is untyped, here and below
    def infer(self, images: np.ndarray) -> np.ndarray:
        answer: NDArray[Any] = self._session.run(None, {"image": images})[0]
        return answer


class NucleiUnet(Network):
    model = "nuclei-unet"


class NashCell(Network):
    model = "nash-cell"


class NashHepatocyte(Network):
    model = "nash-hepatocyte"


class LiverFat(Network):
    model = "liver-fat"


# BentoML imports this file by name in every process, and its decorators take numbers: there is no call to pass
# them in.
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
BATCHING = {
    "max_batch_size": int(os.environ.get("PEER_BATCH", "100")),
    "max_latency_ms": int(os.environ.get("PEER_LATENCY_MS", "60000")),
}


class TunedNetwork(Network):
    """The same with the batching that is given."""

    @bentoml.api(batchable=True, **BATCHING)  # type: ignore[untyped-decorator]
    def infer(self, images: np.ndarray) -> np.ndarray:
        answer: NDArray[Any] = self._session.run(None, {"image": images})[0]
        return answer


class TunedNucleiUnet(TunedNetwork):
    model = "nuclei-unet"


class TunedNashCell(TunedNetwork):
    model = "nash-cell"


class TunedNashHepatocyte(TunedNetwork):
    model = "nash-hepatocyte"


class TunedLiverFat(TunedNetwork):
    model = "liver-fat"


NETWORKS = (NucleiUnet, NashCell, NashHepatocyte, LiverFat)
TUNED_NETWORKS = (TunedNucleiUnet, TunedNashCell, TunedNashHepatocyte, TunedLiverFat)
DEFAULT = [bentoml.service(network, name=network.model) for network in NETWORKS]
TUNED = [
    bentoml.service(network, name=f"{network.model}-tuned", workers=WORKERS, runner_connection=KEPT)
    for network in TUNED_NETWORKS
]


@bentoml.service(traffic=LONG)
class Naive:
    """Regions in, GeoJSON out; one call after the other."""

    segmenter = bentoml.depends(DEFAULT[0])
    cells = bentoml.depends(DEFAULT[1])
    hepatocytes = bentoml.depends(DEFAULT[2])
    fat = bentoml.depends(DEFAULT[3])

    def __init__(self) -> None:
        self._composition = Composition.load()

    @bentoml.api  # type: ignore[untyped-decorator]
    def analyse(self, image: Path) -> Any:
        services = (self.segmenter, self.cells, self.hepatocytes, self.fat)
        runner = OneByOne({network.model: service for network, service in zip(NETWORKS, services, strict=True)})
        return _response(self._composition.answer(image.read_bytes(), runner))


@bentoml.service(traffic=LONG)
class NaiveGathered:
    """Regions in, GeoJSON out; the calls for the cells of a tile at the same time."""

    segmenter = bentoml.depends(TUNED[0])
    cells = bentoml.depends(TUNED[1])
    hepatocytes = bentoml.depends(TUNED[2])
    fat = bentoml.depends(TUNED[3])

    def __init__(self) -> None:
        self._composition = Composition.load()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def analyse(self, image: Path) -> Any:
        services = (self.segmenter, self.cells, self.hepatocytes, self.fat)
        runner = Gathered(
            {network.model: service for network, service in zip(NETWORKS, services, strict=True)},
            asyncio.get_running_loop(),
        )
        return await asyncio.to_thread(self._answer, image, runner)

    def _answer(self, image: Path, runner: Gathered) -> Response:
        return _response(self._composition.answer(image.read_bytes(), runner))


def _response(answer: bytes) -> Response:
    return Response(answer, media_type="application/geo+json")
