"""The published way: Keras ``predict`` for one tile, then for one cell at a time, in a script.

The script stands behind a plain HTTP server that answers one region at a time. TensorFlow has its default
settings; ``predict`` draws no progress bar.
"""

from __future__ import annotations

import argparse
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
from benchmarks.peers.composition import Composition
from benchmarks.peers.imagenetworks import ImageNetworks
from benchmarks.peers.keras_networks import keras_network
from numpy.typing import NDArray

from slidecascade.models.repository import ModelPackage


class Predict(ImageNetworks):
    """A runner that calls ``predict`` for every image."""

    def __init__(self, packages: tuple[ModelPackage, ...]) -> None:
        super().__init__(self._predict)
        self._networks = {package.spec.name: keras_network(package) for package in packages}

    def _predict(self, model: str, images: NDArray[np.uint8]) -> NDArray[Any]:
        network, pixels = self._networks[model]
        outputs = [network.predict(pixels(images[at : at + 1]), verbose=0) for at in range(len(images))]
        answer: NDArray[np.float32] = np.concatenate(outputs)
        # A segmenter's maps are served as bytes, which its head wants.
        return np.round(255 * answer).astype(np.uint8) if answer.ndim == 4 else answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    composition = Composition.load()
    runner = Predict(composition.packages)

    class Script(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(b"ready")

        def do_POST(self) -> None:
            image = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(composition.answer(image, runner))

        def _send(self, answer: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    HTTPServer(("127.0.0.1", arguments.port), Script).serve_forever()


if __name__ == "__main__":
    main()
