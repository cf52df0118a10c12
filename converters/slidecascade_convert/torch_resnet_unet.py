"""A U-Net with a ResNet34 encoder, as segmentation_models.pytorch builds it by default.

Its modules have the names of that package and of torchvision, so that its checkpoints fit. Encoder: ResNet (He et
al. 2016), without its last layer. Decoder: U-Net (Ronneberger et al. 2015) with nearest-neighbour upsampling.
Written from those descriptions; no weights are fetched.

All tensors are float32 ``(N, C, H, W)``; height and width are multiples of 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

RESNET34 = (3, 4, 6, 3)
DECODER = (256, 128, 64, 32, 16)


class ResnetUnet(nn.Module):
    """Logits ``(N, classes, H, W)`` for images ``(N, 3, H, W)``.

    Args:
        blocks: residual blocks in each of the encoder's four stages.
        base: channels of the stem and of the first stage; doubled with every further one.
        decoder: channels of the decoder's blocks, from the bottom up.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = RESNET34,
        *,
        base: int = 64,
        decoder: tuple[int, int, int, int, int] = DECODER,
        classes: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = _Encoder(blocks, base)
        self.decoder = _Decoder((base, base, 2 * base, 4 * base, 8 * base), decoder)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder[-1], classes, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.segmentation_head(self.decoder(self.encoder(image)))  # type: ignore[no-any-return]  # modules answer Any


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, and the input added."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, tensor: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(tensor)))))
        added: Tensor = self.relu(inner + (tensor if self.downsample is None else self.downsample(tensor)))
        return added


class _Encoder(nn.Module):
    def __init__(self, blocks: tuple[int, int, int, int], base: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(base, base, blocks[0], stride=1)
        self.layer2 = _stage(base, 2 * base, blocks[1], stride=2)
        self.layer3 = _stage(2 * base, 4 * base, blocks[2], stride=2)
        self.layer4 = _stage(4 * base, 8 * base, blocks[3], stride=2)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The maps at 1/2, 1/4, ... 1/32."""
        half = self.relu(self.bn1(self.conv1(image)))
        quarter = self.layer1(self.maxpool(half))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        return half, quarter, eighth, sixteenth, self.layer4(sixteenth)


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride=stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)))


class _Decoder(nn.Module):
    def __init__(self, levels: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        super().__init__()
        below = (levels[-1], *outputs[:-1])
        beside = (*levels[-2::-1], 0)
        self.blocks = nn.ModuleList(map(_DecoderBlock, below, beside, outputs))

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        tensor = levels[-1]
        skips: list[Tensor | None] = [*levels[-2::-1], None]
        for block, skip in zip(self.blocks, skips, strict=True):
            tensor = block(tensor, skip)
        return tensor


class _DecoderBlock(nn.Module):
    """Twice the size by repeating pixels, the encoder's map beside it, two convolutions."""

    def __init__(self, below: int, beside: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _convolution(below + beside, outputs)
        self.conv2 = _convolution(outputs, outputs)

    def forward(self, below: Tensor, beside: Tensor | None) -> Tensor:
        tensor = functional.interpolate(below, scale_factor=2.0, mode="nearest")
        joined = tensor if beside is None else torch.cat([tensor, beside], dim=1)
        return self.conv2(self.conv1(joined))  # type: ignore[no-any-return]  # modules answer Any


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
