"""The Triton peer: a real server, and a client program as one writes it with `tritonclient`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from benchmarks.peers.composition import Composition
from benchmarks.peers.imagenetworks import ImageNetworks
from benchmarks.peers.process import PeerFailedError
from numpy.typing import NDArray

from slidecascade.settings import bundled_models_dir


class Plain(ImageNetworks):
    """A runner that sends every call in one message and waits."""

    def __init__(self, url: str) -> None:
        super().__init__(self._call)
        self._client = triton.InferenceServerClient(url)

    def _call(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        given = triton.InferInput("image", list(images.shape), "UINT8")
        given.set_data_from_numpy(images)
        answer = self._client.infer(model, [given])
        name = answer.get_response().outputs[0].name
        return np.array(answer.as_numpy(name))  # a copy: callers write into their maps

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def served(composition: Composition, folder: Path, *, instances: int) -> Iterator[Any]:
    """The server of the tests, with the models folder as it is but for the number of instances.

    Raises:
        PeerFailedError: when there is no Triton server on this machine.
    """
    from benchmarks.peers import triton_server

    models = folder / "models"
    for package in composition.packages:
        name = package.spec.name
        shutil.copytree(bundled_models_dir() / name, models / name)
        config = models / name / "config.pbtxt"
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("count: 1", f"count: {instances}"), encoding="utf-8")
    home = folder / "server"
    home.mkdir()
    try:
        with triton_server.serving(models, home) as server:
            yield server
    except triton_server.NoTritonError as error:
        raise PeerFailedError(str(error)) from error
