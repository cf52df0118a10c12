"""Runners of the naive composition: a call for every tile and for every cell."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from benchmarks.peers.imagenetworks import ImageNetworks
from numpy.typing import NDArray


class OneByOne(ImageNetworks):
    """A runner that calls a service for every image, and waits for the answer before it calls again."""

    def __init__(self, services: Mapping[str, Any]) -> None:
        super().__init__(self._calls)
        self._services = services

    def _calls(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        service = self._services[model]
        return np.concatenate([service.infer(images[at : at + 1]) for at in range(len(images))])


class Gathered(ImageNetworks):
    """A runner that calls a service for every image, all of them at the same time."""

    def __init__(self, services: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._calls)
        self._services = services
        self._loop = loop

    def _calls(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        service = self._services[model].to_async

        async def calls() -> list[NDArray[Any]]:
            answers: list[NDArray[Any]] = await asyncio.gather(
                *(service.infer(images[at : at + 1]) for at in range(len(images)))
            )
            return answers

        return np.concatenate(asyncio.run_coroutine_threadsafe(calls(), self._loop).result())
