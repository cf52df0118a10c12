"""Stacks of channels, and pipelines that take channels by meaning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import tifffile
import yaml
from benchmarks.heads import scene
from numpy.typing import NDArray
from onnx import TensorProto, helper

import toy_models

NAMES = ["DAPI", "CD45", "Ki67"]
GREY = {"photometric": "minisblack"}


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def write_stack(path: Path, counts: NDArray[np.uint16], *, mpp: float = 0.5) -> None:
    """An OME-TIFF in tiles, its channels named as the first of `NAMES`."""
    names = {"Name": NAMES[: len(counts)]}
    metadata = {"axes": "CYX", "Channel": names, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
    tifffile.imwrite(path, counts, tile=(128, 128), metadata=metadata)


def nuclear_network(channels: int) -> bytes:
    """The map is the mean of the channels, which are 0 to 1."""
    nodes = [helper.make_node("ReduceMean", ["image", "axis"], ["d0"], keepdims=1)]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", channels, "H", "W"])
    output = helper.make_tensor_value_info("d0", TensorProto.FLOAT, ["N", 1, "H", "W"])
    graph = helper.make_graph(nodes, "toy", [image], [output], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_pipeline(
    folder: Path, name: str, meanings: list[str], *, image: dict[str, Any] | None = None, **changes: Any
) -> None:
    """A pipeline of bright pieces on the mean of channels; `image` adds to its input, `changes` to its file."""
    given = {
        "name": "image",
        "dtype": "float32",
        "layout": "NCHW",
        "shape": ["batch", len(meanings), "height", "width"],
        "channels": meanings,
        "range": [0, 1],
        "multiple_of": 8,
    } | (image or {})
    output = {
        "name": "d0",
        "dtype": "float32",
        "layout": "NCHW",
        "shape": ["batch", 1, "height", "width"],
        "range": [0, 1],
        "meaning": "probability",
    }
    fields = toy_models.segmenter_fields(
        f"{name}-net",
        head="semantic",
        inputs=[given],
        outputs=[output],
        halo_px=32,
        options={"output": "d0", "foreground": 0.4, "min_area_um2": 4.0},
    )
    toy_models.write_package(folder / "models", fields, nuclear_network(len(meanings)))
    pipeline = {
        "name": name,
        "title": name,
        "description": "Bright pieces.",
        "segmenter": f"{name}-net",
        "heatmaps": [{"name": "density", "title": "Density", "kind": "density", "classes": ["Nucleus"]}],
    }
    (folder / "pipelines").mkdir(exist_ok=True)
    (folder / "pipelines" / f"{name}.yaml").write_text(yaml.safe_dump(pipeline | changes), encoding="utf-8")


def field_of(seed: int, side_px: int = 512) -> NDArray[np.uint16]:
    """Three channels of 12 bits: nuclei, nothing, and other nuclei; with noise."""
    rng = np.random.default_rng(seed)
    channels = [scene.cells(seed + index, side_px, count) > 0 for index, count in ((0, 60), (1, 0), (2, 25))]
    counts = np.stack([200 + 1500 * cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1) for inside in channels])
    return np.clip(counts + rng.normal(0, 15, counts.shape), 0, 4095).astype(np.uint16)
