"""UneXt: a U-Net with a ResNeXt encoder, an atrous pyramid at its bottom and a feature pyramid at its top.

The network of the winning solutions of HuBMAP's kidney segmentation (2020), which find glomeruli; its modules have
the names that fastai and torchvision gave them, so that checkpoints of that time fit. Encoder: ResNeXt (Xie et al.
2017). Bottom: ASPP (Chen et al. 2017). Decoder: U-Net blocks (Ronneberger et al. 2015) with sub-pixel upsampling
(Shi et al. 2016). Top: FPN (Lin et al. 2017). Written from those descriptions; no weights are fetched.

All tensors are float32 ``(N, C, H, W)``; height and width are multiples of 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

EXPANSION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class UnextShape:
    """Depth and width of a UneXt.

    Attributes:
        blocks: residual blocks in each of the encoder's four stages.
        groups: of the grouped convolutions.
        group_width: channels per group in the first stage; doubled with every stage.
        base: channels of the stem; the stages have 4, 8, 16 and 32 times as many.
        pyramid: channels that each level adds to the feature pyramid.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    groups: int = 32
    group_width: int = 16
    base: int = 64
    pyramid: int = 16


UNEXT101 = UnextShape()
UNEXT50 = UnextShape(blocks=(3, 4, 6, 3), group_width=4)


class Unext(nn.Module):
    """Logits ``(N, classes, H, W)`` for images ``(N, 3, H, W)``."""

    def __init__(self, shape: UnextShape = UNEXT101, *, classes: int = 1) -> None:
        super().__init__()
        base = shape.base
        stages = [base * EXPANSION * 2**index for index in range(4)]
        self.enc0 = nn.Sequential(
            nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(base), nn.ReLU(inplace=True)
        )
        first = nn.MaxPool2d(3, stride=2, padding=1)
        self.enc1 = nn.Sequential(first, _stage(base, stages[0], shape, index=0))
        self.enc2 = _stage(stages[0], stages[1], shape, index=1)
        self.enc3 = _stage(stages[1], stages[2], shape, index=2)
        self.enc4 = _stage(stages[2], stages[3], shape, index=3)
        self.aspp = Aspp(stages[3], stages[0], stages[1], dilations=(1, 2, 3, 4))
        self.drop_aspp = nn.Dropout2d(0.5)
        self.dec4 = UnetBlock(stages[1], stages[2], stages[0])
        self.dec3 = UnetBlock(stages[0], stages[1], stages[0] // 2)
        self.dec2 = UnetBlock(stages[0] // 2, stages[0], base)
        self.dec1 = UnetBlock(base, base, base // 2)
        self.fpn = FeaturePyramid((stages[1], stages[0], stages[0] // 2, base), shape.pyramid)
        self.drop = nn.Dropout2d(0.1)
        self.final_conv = nn.Sequential(nn.Conv2d(base // 2 + 4 * shape.pyramid, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        enc0 = self.enc0(image)
        enc1 = self.enc1(enc0)
        enc2 = self.enc2(enc1)
        enc3 = self.enc3(enc2)
        bottom = self.aspp(self.enc4(enc3))
        dec3 = self.dec4(self.drop_aspp(bottom), enc3)
        dec2 = self.dec3(dec3, enc2)
        dec1 = self.dec2(dec2, enc1)
        dec0 = self.dec1(dec1, enc0)
        half = self.final_conv(self.drop(self.fpn((bottom, dec3, dec2, dec1), dec0)))
        return functional.interpolate(half, scale_factor=2.0, mode="bilinear")


class Bottleneck(nn.Module):
    """1 x 1, grouped 3 x 3, 1 x 1, and the input added: the block of a ResNeXt."""

    def __init__(self, inputs: int, width: int, outputs: int, *, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, tensor: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(tensor)))
        inner = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(inner)))))
        added: Tensor = self.relu(inner + (tensor if self.downsample is None else self.downsample(tensor)))
        return added


def _stage(inputs: int, outputs: int, shape: UnextShape, *, index: int) -> nn.Sequential:
    width = shape.groups * shape.group_width * 2**index
    blocks = [
        Bottleneck(
            inputs if block == 0 else outputs,
            width,
            outputs,
            groups=shape.groups,
            stride=2 if index > 0 and block == 0 else 1,
        )
        for block in range(shape.blocks[index])
    ]
    return nn.Sequential(*blocks)


class _Atrous(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, kernel: int, dilation: int, groups: int) -> None:
        super().__init__()
        padding = dilation if kernel > 1 else 0
        self.atrous_conv = nn.Conv2d(
            inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, tensor: Tensor) -> Tensor:
        return self.relu(self.bn(self.atrous_conv(tensor)))  # type: ignore[no-any-return]  # modules answer Any


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: convolutions of several dilations and the image's maximum, side by side."""

    def __init__(self, inputs: int, middle: int, outputs: int, *, dilations: tuple[int, ...]) -> None:
        super().__init__()
        branches = [_Atrous(inputs, middle, kernel=1, dilation=1, groups=1)]
        branches += [_Atrous(inputs, middle, kernel=3, dilation=each, groups=4) for each in dilations]
        self.aspps = nn.ModuleList(branches)
        self.global_pool = nn.Sequential(
            nn.AdaptiveMaxPool2d((1, 1)),
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
        )
        joined = middle * (2 + len(dilations))
        self.out_conv = nn.Sequential(
            nn.Conv2d(joined, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )
        # Never called; published checkpoints hold its weights.
        self.conv1 = nn.Conv2d(joined, outputs, 1, bias=False)

    def forward(self, tensor: Tensor) -> Tensor:
        branches = [branch(tensor) for branch in self.aspps]
        pooled = functional.interpolate(
            self.global_pool(tensor), size=branches[0].shape[2:], mode="bilinear", align_corners=True
        )
        return self.out_conv(torch.cat([pooled, *branches], dim=1))  # type: ignore[no-any-return]  # modules answer Any


class UnetBlock(nn.Module):
    """Twice the size by sub-pixel convolution, the encoder's map beside it, two convolutions."""

    def __init__(self, below: int, beside: int, outputs: int) -> None:
        super().__init__()
        widened = nn.Sequential(weight_norm(nn.Conv2d(below, below // 2 * 4, 1)), nn.ReLU())
        self.shuf = nn.Sequential(widened, nn.PixelShuffle(2))
        self.bn = nn.BatchNorm2d(beside)
        self.conv1 = _convolution(below // 2 + beside, outputs)
        self.conv2 = _convolution(outputs, outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        joined = self.relu(torch.cat([self.shuf(below), self.bn(beside)], dim=1))
        return self.conv2(self.conv1(joined))  # type: ignore[no-any-return]  # modules answer Any


class FeaturePyramid(nn.Module):
    """The maps of every level, brought to the size of the largest and joined to it."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(each, outputs * 2, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(outputs * 2),
                nn.Conv2d(outputs * 2, outputs, 3, padding=1),
            )
            for each in inputs
        )

    def forward(self, levels: tuple[Tensor, ...], largest: Tensor) -> Tensor:
        count = len(self.convs)
        resized = [
            functional.interpolate(convolution(level), scale_factor=2.0 ** (count - index), mode="bilinear")
            for index, (convolution, level) in enumerate(zip(self.convs, levels, strict=True))
        ]
        return torch.cat([*resized, largest], dim=1)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())
