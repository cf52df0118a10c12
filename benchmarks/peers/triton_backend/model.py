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
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        arrays = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        try:
            (answer,) = self._session.run([self._output], {self._input: np.concatenate(arrays)})
        except Exception as error:  # noqa: BLE001 - the boundary: what the network raised is the answer
            failure = triton.TritonError(str(error))
            return [triton.InferenceResponse(output_tensors=[], error=failure) for _ in requests]
        ends = np.cumsum([len(array) for array in arrays])
        parts = np.split(answer, ends[:-1])
        return [triton.InferenceResponse([triton.Tensor(self._output, part)]) for part in parts]
