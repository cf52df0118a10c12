"""Files of published libraries with random weights, by the names these libraries save, and their networks.

The forward passes are written on the stored tensors alone, by name, so that they check the converter's modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]
CPNET_WIDTHS: Final = (32, 64, 128, 256)
U2NET: Final = {
    "stage1": (7, 3, 32, 64), "stage2": (6, 64, 32, 128), "stage3": (5, 128, 64, 256),
    "stage4": (4, 256, 128, 512),
    "stage5": (0, 512, 256, 512), "stage6": (0, 512, 256, 512), "stage5d": (0, 1024, 256, 512),
    "stage4d": (4, 1024, 128, 256), "stage3d": (5, 512, 64, 128), "stage2d": (6, 256, 32, 64),
    "stage1d": (7, 128, 16, 64),
}  # fmt: skip
"""Levels, inputs, inner and outputs of each block; 0 levels: the flat one of four."""
U2NETP: Final = {
    name: (levels, 3 if name == "stage1" else 128 if name.endswith("d") else 64, 16, 64)
    for name, (levels, *_) in U2NET.items()
}


class _Writer:
    def __init__(self, seed: int) -> None:
        self.weights: Weights = {}
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=self._generator) * scale

    def convolution(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        scale = (2 / (inputs * kernel**2)) ** 0.5
        self.weights[f"{name}.weight"] = self.normal(outputs, inputs, kernel, kernel, scale=scale)
        self.weights[f"{name}.bias"] = self.normal(outputs, scale=0.1)

    def normalisation(self, name: str, width: int) -> None:
        self.weights[f"{name}.weight"] = 1 + self.normal(width, scale=0.1)
        self.weights[f"{name}.bias"] = self.normal(width, scale=0.1)
        self.weights[f"{name}.running_mean"] = self.normal(width, scale=0.1)
        self.weights[f"{name}.running_var"] = 1 + self.normal(width).abs()
        self.weights[f"{name}.num_batches_tracked"] = torch.tensor(7)


def cpnet(
    *, seed: int = 0, channels: int = 2, widths: Sequence[int] = CPNET_WIDTHS, diameter_px: float = 30.0
) -> Weights:
    """As ``CPnet.save_model`` of Cellpose 2 and 3 writes it."""
    writer = _Writer(seed)

    def block(name: str, inputs: int, outputs: int, kernel: int, *, last: int = 2) -> None:
        writer.normalisation(f"{name}.0", inputs)
        writer.convolution(f"{name}.{last}", inputs, outputs, kernel)

    for level, (inputs, outputs) in enumerate(zip((channels, *widths), widths, strict=False)):
        name = f"downsample.down.res_down_{level}"
        for index in range(4):
            block(f"{name}.conv.conv_{index}", outputs if index else inputs, outputs, 3)
        block(f"{name}.proj", inputs, outputs, 1, last=1)
    for level, (inputs, outputs) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True)):
        name = f"upsample.up.res_up_{level}"
        block(f"{name}.conv.conv_0", inputs, outputs, 3)
        for index in (1, 2, 3):
            block(f"{name}.conv.conv_{index}.conv", outputs, outputs, 3)
            writer.weights[f"{name}.conv.conv_{index}.full.weight"] = writer.normal(outputs, widths[-1])
            writer.weights[f"{name}.conv.conv_{index}.full.bias"] = writer.normal(outputs, scale=0.1)
        block(f"{name}.proj", inputs, outputs, 1, last=1)
    block("output", widths[0], 3, 1)
    sizes = {"diam_mean": torch.tensor([diameter_px]), "diam_labels": torch.tensor([21.5])}
    return writer.weights | sizes


def cpnet_answer(weights: Weights, image: Tensor, levels: int = len(CPNET_WIDTHS)) -> Tensor:
    def block(name: str, value: Tensor, *, last: int = 2) -> Tensor:
        value = _normalised(weights, f"{name}.0", value)
        value = value.relu() if last == 2 else value
        kernel = weights[f"{name}.{last}.weight"]
        return functional.conv2d(value, kernel, weights[f"{name}.{last}.bias"], padding=kernel.shape[-1] // 2)

    def styled(name: str, value: Tensor, style: Tensor) -> Tensor:
        added = functional.linear(style, weights[f"{name}.full.weight"], weights[f"{name}.full.bias"])
        return block(f"{name}.conv", value + added[:, :, None, None])

    maps: list[Tensor] = []
    for level in range(levels):
        value = functional.max_pool2d(maps[-1], 2, 2) if maps else image
        name = f"downsample.down.res_down_{level}"
        inner = block(f"{name}.conv.conv_1", block(f"{name}.conv.conv_0", value))
        value = block(f"{name}.proj", value, last=1) + inner
        maps.append(value + block(f"{name}.conv.conv_3", block(f"{name}.conv.conv_2", value)))
    style = functional.avg_pool2d(maps[-1], maps[-1].shape[2:]).flatten(1)
    style = style / (style**2).sum(dim=1, keepdim=True) ** 0.5
    value = maps[-1]
    for level in reversed(range(levels)):
        if level < levels - 1:
            value = functional.interpolate(value, scale_factor=2, mode="nearest")
        name = f"upsample.up.res_up_{level}"
        inner = styled(f"{name}.conv.conv_1", block(f"{name}.conv.conv_0", value) + maps[level], style)
        value = block(f"{name}.proj", value, last=1) + inner
        value = value + styled(f"{name}.conv.conv_3", styled(f"{name}.conv.conv_2", value, style), style)
    return block("output", value)


def u2net(blocks: Mapping[str, tuple[int, ...]] = U2NETP, *, seed: int = 0) -> Weights:
    """As ``torch.save(net.state_dict())`` of the project's training writes it."""
    writer = _Writer(seed)
    for stage, (levels, inputs, inner, outputs) in blocks.items():
        for name, (taken, given, _) in _layers(levels, inputs, inner, outputs).items():
            writer.convolution(f"{stage}.{name}.conv_s1", taken, given, 3)
            writer.normalisation(f"{stage}.{name}.bn_s1", given)
    for index, stage in enumerate(("stage1d", "stage2d", "stage3d", "stage4d", "stage5d", "stage6"), start=1):
        writer.convolution(f"side{index}", blocks[stage][3], 1, 3)
    writer.convolution("outconv", 6, 1, 1)
    return writer.weights


def _layers(levels: int, inputs: int, inner: int, outputs: int) -> dict[str, tuple[int, int, int]]:
    """Inputs, outputs and dilation of a block's convolutions."""
    depth = levels or 4
    found = {"rebnconvin": (inputs, outputs, 1), "rebnconv1": (outputs, inner, 1)}
    for level in range(2, depth + 1):
        dilation = 2 ** (level - 1) if not levels else 2 if level == depth else 1
        found[f"rebnconv{level}"] = (inner, inner, dilation)
    for level in range(depth - 1, 0, -1):
        dilation = 1 if levels else 2 ** (level - 1)
        found[f"rebnconv{level}d"] = (2 * inner, inner if level > 1 else outputs, dilation)
    return found


def u2net_answer(weights: Weights, image: Tensor, blocks: Mapping[str, tuple[int, ...]] = U2NETP) -> Tensor:
    """The first map."""

    def upsampled(value: Tensor, like: Tensor) -> Tensor:
        return functional.interpolate(value, size=like.shape[2:], mode="bilinear", align_corners=False)

    def block(stage: str, image: Tensor) -> Tensor:
        levels, *widths = blocks[stage]
        dilations = {name: sizes[2] for name, sizes in _layers(levels, *widths).items()}

        def layer(name: str, value: Tensor) -> Tensor:
            full, dilation = f"{stage}.{name}", dilations[name]
            kernel, bias = weights[f"{full}.conv_s1.weight"], weights[f"{full}.conv_s1.bias"]
            value = functional.conv2d(value, kernel, bias, padding=dilation, dilation=dilation)
            return _normalised(weights, f"{full}.bn_s1", value).relu()

        depth = levels or 4
        entry = layer("rebnconvin", image)
        maps = [layer("rebnconv1", entry)]
        for level in range(2, depth):
            before = functional.max_pool2d(maps[-1], 2, 2, ceil_mode=True) if levels else maps[-1]
            maps.append(layer(f"rebnconv{level}", before))
        value = layer(f"rebnconv{depth}", maps[-1])
        for level in range(depth - 1, 0, -1):
            value = layer(f"rebnconv{level}d", torch.cat((upsampled(value, maps[level - 1]), maps[level - 1]), 1))
        return value + entry

    maps = [block("stage1", image)]
    for index in range(2, 7):
        maps.append(block(f"stage{index}", functional.max_pool2d(maps[-1], 2, 2, ceil_mode=True)))
    decoded = [maps[5]]
    for index in range(5, 0, -1):
        joined = torch.cat((upsampled(decoded[-1], maps[index - 1]), maps[index - 1]), 1)
        decoded.append(block(f"stage{index}d", joined))
    sides = list(_sides(weights, decoded[::-1]))
    joined = torch.cat([sides[0], *(upsampled(each, sides[0]) for each in sides[1:])], 1)
    return functional.conv2d(joined, weights["outconv.weight"], weights["outconv.bias"]).sigmoid()


def maskrcnn(*, classes: int = 2, seed: int = 0, old_names: bool = False) -> Weights:
    """As ``torch.save(maskrcnn_resnet50_fpn().state_dict())`` writes it; `old_names`: before torchvision 0.14.

    Scores differ and boxes move, as those of a trained network.
    """
    writer = _Writer(seed)

    def frozen(name: str, width: int) -> None:
        writer.normalisation(name, width)
        del writer.weights[f"{name}.num_batches_tracked"]

    def plain(name: str, inputs: int, outputs: int, kernel: int) -> None:
        writer.convolution(name, inputs, outputs, kernel)
        del writer.weights[f"{name}.bias"]

    def linear(name: str, inputs: int, outputs: int, scale: float = 1.0) -> None:
        writer.weights[f"{name}.weight"] = writer.normal(outputs, inputs, scale=scale * (2 / inputs) ** 0.5)
        writer.weights[f"{name}.bias"] = writer.normal(outputs, scale=0.1)

    body, inputs = "backbone.body", 64
    plain(f"{body}.conv1", 3, 64, 7)
    frozen(f"{body}.bn1", 64)
    for layer, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(count):
            name, outputs = f"{body}.layer{layer}.{block}", 4 * width
            for index, sizes in enumerate(((inputs, width, 1), (width, width, 3), (width, outputs, 1)), start=1):
                plain(f"{name}.conv{index}", *sizes)
                frozen(f"{name}.bn{index}", sizes[1])
            # A trained network's last figures are small, too: 16 blocks are added up.
            writer.weights[f"{name}.bn3.weight"] *= 0.2
            if block == 0:
                plain(f"{name}.downsample.0", inputs, outputs, 1)
                frozen(f"{name}.downsample.1", outputs)
            inputs = outputs
    inner = "" if old_names else ".0"
    for level in range(4):
        writer.convolution(f"backbone.fpn.inner_blocks.{level}{inner}", 256 * 2**level, 256, 1)
        writer.convolution(f"backbone.fpn.layer_blocks.{level}{inner}", 256, 256, 3)
    writer.convolution("rpn.head.conv" if old_names else "rpn.head.conv.0.0", 256, 256, 3)
    writer.convolution("rpn.head.cls_logits", 256, 3, 1)
    writer.convolution("rpn.head.bbox_pred", 256, 12, 1)
    writer.weights["rpn.head.bbox_pred.weight"] *= 0.1
    linear("roi_heads.box_head.fc6", 256 * 49, 1024)
    linear("roi_heads.box_head.fc7", 1024, 1024)
    linear("roi_heads.box_predictor.cls_score", 1024, classes)
    score = "roi_heads.box_predictor.cls_score"
    writer.weights[f"{score}.weight"] -= writer.weights[f"{score}.weight"].mean(dim=1, keepdim=True)
    writer.weights[f"{score}.weight"] *= 1.5
    # Few regions are objects.
    writer.weights[f"{score}.bias"] = torch.tensor([13.0] + [0.0] * (classes - 1))
    linear("roi_heads.box_predictor.bbox_pred", 1024, 4 * classes, scale=0.3)
    for index in range(4):
        name = f"mask_fcn{index + 1}" if old_names else f"{index}.0"
        writer.convolution(f"roi_heads.mask_head.{name}", 256, 256, 3)
    writer.convolution("roi_heads.mask_predictor.conv5_mask", 256, 256, 2)
    writer.convolution("roi_heads.mask_predictor.mask_fcn_logits", 256, classes, 1)
    return writer.weights


def _sides(weights: Weights, maps: list[Tensor]) -> Iterator[Tensor]:
    for index, value in enumerate(maps, start=1):
        yield functional.conv2d(value, weights[f"side{index}.weight"], weights[f"side{index}.bias"], padding=1)


def _normalised(weights: Weights, name: str, value: Tensor) -> Tensor:
    parts: list[Any] = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(value, *parts)
