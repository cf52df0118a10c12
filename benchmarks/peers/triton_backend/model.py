"""ONNX Runtime as a Python-based backend of a real Triton server.

The tests put this file where Triton looks for its own ONNX Runtime backend, so that the server takes `models/`
as it is: same folders, same ``config.pbtxt``. It runs inside the server's Python, not inside the tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One model of the repository; requests that Triton's batcher put together run as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = Path(args["model_repository"]) / args["model_version"] / config["default_model_filename"]
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = {
            name: [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self._inputs
        }
        try:
            joined = {name: np.concatenate(arrays) for name, arrays in inputs.items()}
            answers = self._session.run(self._outputs, joined)
        except Exception as error:  # noqa: BLE001 - the boundary: what the network raised is the answer
            failure = triton.TritonError(str(error))
            return [triton.InferenceResponse(output_tensors=[], error=failure) for _ in requests]
        ends = np.cumsum([len(array) for array in inputs[self._inputs[0]]])[:-1]
        parts = zip(*(np.split(answer, ends) for answer in answers), strict=True)
        return [
            triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self._outputs, part, strict=True)])
            for part in parts
        ]
