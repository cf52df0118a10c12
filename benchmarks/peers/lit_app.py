"""The LitServe peer: one API holds all networks, LitServe puts requests together.

Each network has one thread, so that workers do not share cores; the number of workers and the batching are given.
Images come as base64 in JSON, as in its examples: uploaded files do not survive the way to its workers.
"""

from __future__ import annotations

import argparse
import base64
import os
from typing import Any

import litserve
from benchmarks.peers.composition import Composition
from benchmarks.peers.joining import together
from starlette.responses import Response

from slidecascade.runners.local import LocalRunner


class Region(litserve.LitAPI):  # type: ignore[misc]  # installed in its own environment only
    """Regions in, GeoJSON out."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - of `LitAPI`
        self.composition = Composition.load()
        self.runner = LocalRunner(self.composition.packages, threads_per_call=1)

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["image"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, images: list[bytes] | bytes) -> Any:
        if isinstance(images, bytes):
            return self.composition.answer(images, self.runner)
        return together(images, self.composition.answer, self.runner)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/geo+json")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-s", type=float, required=True)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    api = Region(max_batch_size=arguments.batch, batch_timeout=arguments.wait_s)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=arguments.workers, timeout=False)
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
