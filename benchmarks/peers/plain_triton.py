"""The Triton peer: a real server, and a client program as one writes it with `tritonclient`."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from benchmarks.peers.composition import Composition
from benchmarks.peers.imagenetworks import ImageNetworks
from benchmarks.peers.knobs import TritonKnobs
from benchmarks.peers.process import PeerFailedError
from benchmarks.peers.triton_server import NoTritonError, TritonServer
from numpy.typing import NDArray

from slidecascade.settings import bundled_models_dir

Serving = Callable[[Path, Path], contextlib.AbstractContextManager[TritonServer]]


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


def configured(config: str, knobs: TritonKnobs) -> str:
    """The text of a ``config.pbtxt`` with other settings.

    Raises:
        ValueError: a setting does not stand in it exactly once.
    """
    for name, value in (
        ("count", knobs.instances),
        ("max_batch_size", knobs.batch),
        ("max_queue_delay_microseconds", knobs.delay_us),
    ):
        config, times = re.subn(rf"\b{name}: \d+", f"{name}: {value}", config)
        if times != 1:
            raise ValueError(f"config.pbtxt holds {name!r} {times} times: it is expected once.")
    return config


@contextlib.contextmanager
def served(composition: Composition, folder: Path, knobs: TritonKnobs, serving: Serving) -> Iterator[TritonServer]:
    """A server started by `serving`, with the models folder as it is but for `knobs`.

    Raises:
        PeerFailedError: when there is no Triton server on this machine.
    """
    models = folder / "models"
    for package in composition.packages:
        name = package.spec.name
        shutil.copytree(bundled_models_dir() / name, models / name)
        config = models / name / "config.pbtxt"
        config.write_text(configured(config.read_text(encoding="utf-8"), knobs), encoding="utf-8")
    home = folder / "server"
    home.mkdir()
    try:
        with serving(models, home) as server:
            yield server
    except NoTritonError as error:
        raise PeerFailedError(str(error)) from error
