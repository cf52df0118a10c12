"""Small PyTorch networks, and files of them as training scripts leave them."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidecascade_convert.torch_unext import Unext, UnextShape

Network = TypeVar("Network", bound=nn.Module)

SIDE_PX = 24
SMALL = UnextShape(blocks=(1, 1, 1, 1), groups=2, group_width=2, base=4, pyramid=2)


class Segmenter(nn.Module):
    """Two levels; the lower one is brought to the size of the upper, whatever that is. Logits ``(N, 1, H, W)``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.low = nn.Conv2d(width, width, 3, padding=1)
        self.drop = nn.Dropout2d(0.5)
        self.out = nn.Conv2d(2 * width, 1, 1)

    def features(self, pixels: Tensor) -> Tensor:
        high = self.down(pixels)
        low = self.drop(functional.relu(self.low(functional.max_pool2d(high, 2))))
        wide = functional.interpolate(low, size=high.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([high, wide], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.out(self.features(pixels))
        return logits


class Classifier(nn.Module):
    """A convolution, pooling and a dense layer with softmax: ``(N, 3)``."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.softmax(self.head(self.features(pixels).mean(dim=(2, 3))), dim=1)


def segmenter() -> Segmenter:
    return _seen(Segmenter)


def classifier() -> Classifier:
    return _seen(Classifier)


def small_unext() -> Unext:
    return _seen(lambda: Unext(SMALL))


def scripted(model: nn.Module, *, traced: bool = False) -> Any:
    """The module as TorchScript, which torch has deprecated and files still hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if traced:
            return torch.jit.trace(model, torch.rand(1, 3, 64, 64))  # type: ignore[no-untyped-call]  # torch's own
        return torch.jit.script(model)


def program(path: Path, **dynamic: Any) -> Path:
    """The segmenter exported by torch.export with open batch, height and width."""
    sizes = dynamic or {str(axis): torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    shapes = ({int(axis): size for axis, size in sizes.items()},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(segmenter(), (torch.rand(2, 3, 64, 96),), dynamic_shapes=shapes)
        torch.export.save(exported, path)
    return path


def rewritten(path: Path, entry: str, change: Callable[[Any], Any]) -> Path:
    """The archive with one JSON entry changed."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            is_meant = name.endswith(entry)
            archive.writestr(name, json.dumps(change(json.loads(content))) if is_meant else content)
    return path


def archived(path: Path, pickled: bytes) -> Path:
    """A zip file as torch.save writes it, around any pickle."""
    content = io.BytesIO()
    torch.save({}, content)
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return path


def _seen(build: Callable[[], Network]) -> Network:
    """With random weights and statistics, ready for inference."""
    torch.manual_seed(3)
    model = build()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = 0.2 * torch.rand(layer.num_features)
            layer.running_var = 0.5 + torch.rand(layer.num_features)
    return model.eval()
