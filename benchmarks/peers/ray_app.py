"""The Ray Serve peer: a deployment for each network and one in front, calls put together by ``serve.batch``.

The deployment in front reads, decodes and crops, and sends a tile, and the crops of a tile, in one call each: a
call per cell, which ``serve.batch`` would gather again, was slower. Networks have one thread; segmenters, where
most of the time goes, have the number of replicas that is given, and the batching is given too."""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import ray
from benchmarks.peers.composition import Composition
from benchmarks.peers.imagenetworks import ImageNetworks
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from slidecascade.runners.local import LocalRunner

IN_FLIGHT = 16


class Network:
    """One network; calls that come close together run as one batch."""

    def __init__(self, model: str, batch: int, wait_s: float) -> None:
        self._model = model
        self._runner = LocalRunner([Composition.load().package(model)], threads_per_call=1)
        self._run.set_max_batch_size(batch)
        self._run.set_batch_wait_timeout_s(wait_s)

    @serve.batch  # type: ignore[untyped-decorator]  # ray: its own environment
    async def _run(self, calls: list[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        (output,) = self._runner.run(self._model, {"image": np.concatenate(calls)}).values()
        return np.split(output, np.cumsum([len(images) for images in calls])[:-1])

    async def infer(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        answer: NDArray[Any] = await self._run(images)
        return answer


class Remote(ImageNetworks):
    """A runner that calls the deployments, from threads beside the event loop."""

    def __init__(self, networks: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._call)
        self._networks = networks
        self._loop = loop

    def _call(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        async def call() -> NDArray[Any]:
            return np.array(await self._networks[model].infer.remote(images))  # a copy: callers write into maps

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()


class Region:
    """Regions in, GeoJSON out."""

    def __init__(self, **networks: Any) -> None:
        self._composition = Composition.load()
        self._networks = {name.replace("_", "-"): handle for name, handle in networks.items()}

    async def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            return Response("ready")
        image = await request.body()
        runner = Remote(self._networks, asyncio.get_running_loop())
        answer = await asyncio.to_thread(self._composition.answer, image, runner)
        return Response(answer, media_type="application/geo+json")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-s", type=float, required=True)
    arguments = parser.parse_args()
    ended = threading.Event()
    ray.init(
        num_cpus=arguments.cores,
        include_dashboard=False,
        _temp_dir=str(arguments.folder),
        _node_ip_address="127.0.0.1",
        object_store_memory=512 * 2**20,
        log_to_driver=False,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
        composition = Composition.load()
        segmenter = composition.pipeline.segmenter.name
        share = 0.9 / (arguments.replicas + len(composition.packages))
        networks = {
            package.spec.name.replace("-", "_"): serve.deployment(
                Network,
                name=package.spec.name,
                max_ongoing_requests=4 * IN_FLIGHT,
                num_replicas=arguments.replicas if package.spec.name == segmenter else 1,
                # Shares of a core for its scheduler, or some would not be placed; it sets one thread for each.
                ray_actor_options={"num_cpus": share},
            ).bind(package.spec.name, arguments.batch, arguments.wait_s)
            for package in composition.packages
        }
        front = serve.deployment(Region, max_ongoing_requests=IN_FLIGHT, ray_actor_options={"num_cpus": share})
        serve.run(front.bind(**networks))
        ended.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
