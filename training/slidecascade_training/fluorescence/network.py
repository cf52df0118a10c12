"""The trunk of the nuclei network with heads for maps, star-convex polygons and flows, in PyTorch.

The trunk starts from the weights of the bundled `nuclei-unet`, whose graph has its batch norm folded, so the
convolutions here have biases and no norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from slidecascade.heads.flows import FLOW_SCALE

RAYS: Final = 32
GRID: Final = 2
STRIDE: Final = 8
_DISTANCE_UNIT: Final = 8.0
_DETAIL_WIDTH: Final = 8
_WIDTH: Final = 48
# The convolutions of the nuclei graph in the order of its nodes.
_OF_TRUNK: Final = ("half1", "half2", "quarter1", "quarter2", "eighth1", "eighth2", "eighth3", "up1", "join1",
                    "join2", "up2", "join3")  # fmt: skip
_OF_MAPS: Final = ("context", "detail", "correction", "coarse")
_SHUFFLED: Final = ("up1", "up2", "context", "coarse")


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Trunk(nn.Module):
    """``(N, 2, H, W)``, intensity of 0 to 1 and its root, to ``(N, 48, H / 2, W / 2)``."""

    def __init__(self) -> None:
        super().__init__()
        self.half1 = nn.Conv2d(2, 48, 4, stride=2, padding=1)
        self.half2 = _conv(48, 48)
        self.quarter1, self.quarter2 = _conv(48, 96), _conv(96, 96)
        self.eighth1, self.eighth2, self.eighth3 = _conv(96, 192), _conv(192, 192), _conv(192, 192)
        self.up1, self.join1, self.join2 = _conv(192, 384, 1), _conv(192, 96), _conv(96, 96)
        self.up2, self.join3 = _conv(96, 192, 1), _conv(96, 48)

    def forward(self, lit: Tensor) -> Tensor:
        half = self.half2(self.half1(lit).relu()).relu()
        quarter = self.quarter2(self.quarter1(functional.max_pool2d(half, 2)).relu()).relu()
        eighth = self.eighth2(self.eighth1(functional.max_pool2d(quarter, 2)).relu()).relu()
        eighth = self.eighth3(eighth).relu()
        up = functional.pixel_shuffle(self.up1(eighth), 2)
        quarter = self.join2(self.join1(torch.cat([up, quarter], 1)).relu()).relu()
        up = functional.pixel_shuffle(self.up2(quarter), 2)
        joined: Tensor = self.join3(torch.cat([up, half], 1)).relu()
        return joined


class FullResolution(nn.Module):
    """Logits ``(N, maps, H, W)``: coarse ones, corrected by a narrow pair of convolutions at full resolution."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coarse, self.context = _conv(_WIDTH, 4 * maps, 1), _conv(_WIDTH, 4 * _DETAIL_WIDTH, 1)
        self.detail, self.correction = _conv(2 + _DETAIL_WIDTH, _DETAIL_WIDTH), _conv(_DETAIL_WIDTH, maps)
        nn.init.zeros_(self.correction.weight)

    def forward(self, lit: Tensor, features: Tensor) -> Tensor:
        context = functional.pixel_shuffle(self.context(features), 2)
        detail = self.detail(torch.cat([lit, context], 1)).relu()
        logits: Tensor = functional.pixel_shuffle(self.coarse(features), 2) + self.correction(detail)
        return logits


class FluorescenceNetwork(nn.Module):
    """All heads on one trunk; `maps`, `stars` and `flows` are what training compares with targets."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.maps = FullResolution(2)
        self.star_features, self.star_outputs = _conv(_WIDTH, _WIDTH), _conv(_WIDTH, 1 + RAYS, 1)
        self.flow_features, self.flow_outputs = _conv(_WIDTH, _WIDTH), FullResolution(3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(N, 1, H, W)`` of 0 to 1 to logits of maps ``(N, 2, H, W)``, logit and distances in pixels
        ``(N, 1, h, w)`` and ``(N, 32, h, w)`` at every second pixel, and flows ``(N, 3, H, W)``."""
        lit = torch.cat([image, image.sqrt()], 1)
        features = self.trunk(lit)
        probability, distances = self.stars_of(features)
        return self.maps(lit, features), probability, distances, self.flows_of(lit, features)

    def stars_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        stars = self.star_outputs(self.star_features(features).relu())
        return stars[:, :1], stars[:, 1:] * _DISTANCE_UNIT

    def flows_of(self, lit: Tensor, features: Tensor) -> Tensor:
        flows: Tensor = self.flow_outputs(lit, self.flow_features(features).relu())
        return torch.cat([flows[:, :2] * FLOW_SCALE, flows[:, 2:]], 1)


class Served(nn.Module):
    """One head as it is served: float32 ``(N, H, W, 1)`` of 0 to 1 to what the service's head decodes.

    `gain` is a factor on the intensity, for a network that was trained on darker images.
    """

    def __init__(self, network: FluorescenceNetwork, head: str, gain: float = 1.0) -> None:
        super().__init__()
        self.network, self.head, self.gain = network, head, gain

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        image = image.permute(0, 3, 1, 2).clamp(0, 1) * self.gain
        lit = torch.cat([image, image.sqrt()], 1)
        features = self.network.trunk(lit)
        if self.head == "stardist":
            probability, distances = self.network.stars_of(features)
            return probability.sigmoid().permute(0, 2, 3, 1), distances.relu().permute(0, 2, 3, 1)
        if self.head == "flows":
            return (self.network.flows_of(lit, features),)
        maps = torch.round(255 * self.network.maps(lit, features).sigmoid())
        return (maps.permute(0, 2, 3, 1).to(torch.uint8),)


def network_from_nuclei(graph_path: Path, seed: int) -> FluorescenceNetwork:
    """A network whose trunk and maps are those of the nuclei graph for grey images.

    Raises:
        ValueError: the graph is another network.
    """
    torch.manual_seed(seed)
    network = FluorescenceNetwork()
    weights = _convolutions(graph_path)
    modules = [(network.trunk, name) for name in _OF_TRUNK] + [(network.maps, name) for name in _OF_MAPS]
    if len(weights) != len(modules):
        raise ValueError(f"{graph_path} has {len(weights)} convolutions, the nuclei network {len(modules)}")
    with torch.no_grad():
        for (module, name), (stored, stored_bias) in zip(modules, weights, strict=True):
            target, kernel, bias = getattr(module, name), stored, stored_bias
            if name in ("half1", "detail"):
                # Grey pixels have three equal colours.
                parts = [kernel[:, :3].sum(1, keepdims=True), kernel[:, 3:6].sum(1, keepdims=True), kernel[:, 6:]]
                kernel = np.concatenate(parts, axis=1)
            if name in _SHUFFLED:
                order = np.arange(len(kernel)).reshape(4, -1).T.ravel()
                kernel, bias = kernel[order], bias[order]
            target.weight.copy_(torch.from_numpy(kernel.copy()))
            target.bias.copy_(torch.from_numpy(bias.copy()))
    return network


def _convolutions(graph_path: Path) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Kernels and biases in the order of the nodes; a bias may be added by a node of its own."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(graph_path)).graph
    arrays: Mapping[str, Any] = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    following = {name: node for node in graph.node for name in node.input}
    found = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        after = following[node.output[0]]
        while len(node.input) < 3 and after.op_type == "Transpose":
            after = following[after.output[0]]
        bias = node.input[2] if len(node.input) > 2 else after.input[1]
        found.append((arrays[node.input[1]], arrays[bias]))
    return found
