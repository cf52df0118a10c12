"""The `config.pbtxt` of a model package is one that a Triton server takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from slidecascade.settings import bundled_models_dir

PACKAGES = sorted(path.parent for path in bundled_models_dir().glob("*/config.pbtxt"))
TRITON_TYPES = {"tensor(uint8)": model_config_pb2.TYPE_UINT8, "tensor(float)": model_config_pb2.TYPE_FP32}


def read(package: Path) -> Any:
    """The configuration, parsed with Triton's own schema: a field it does not know is an error."""
    return text_format.Parse((package / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_tensors_are_those_of_the_graph(package: Path) -> None:
    """Names, types and dims are those of the ONNX graph without its batch, which max_batch_size stands for."""
    config = read(package)
    version = yaml.safe_load((package / "model.yaml").read_text())["version"]
    session = ort.InferenceSession(package / str(version) / "model.onnx", providers=["CPUExecutionProvider"])
    for reported, graph in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(item.name, item.data_type, list(item.dims)) for item in reported] == [
            (item.name, TRITON_TYPES[item.type], [dim if isinstance(dim, int) else -1 for dim in item.shape[1:]])
            for item in graph
        ]
        assert not any(isinstance(item.shape[0], int) for item in graph), "the batch must be free"
    assert config.max_batch_size > 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_it_names_the_model_and_its_runtime(package: Path) -> None:
    """Triton finds the graph under its folder's name, batches requests, and states which graph it is."""
    config = read(package)
    assert (config.name, config.backend) == (package.name, "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.HasField("dynamic_batching")
    sha256 = yaml.safe_load((package / "model.yaml").read_text())["sha256"]
    assert config.parameters["sha256"].string_value == sha256, "write the sha256 of model.yaml into config.pbtxt"
