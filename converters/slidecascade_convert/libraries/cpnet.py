"""Cellpose's CPnet (Stringer et al. 2021; versions 1 to 3): a residual U-Net whose decoder sees a style vector.

Parameters are named as Cellpose saves them. Widths and numbers of channels are those of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, takewhile

import torch
from torch import Tensor, nn

from slidecascade.errors import ConversionError

_FIRST = "downsample.down.res_down_{}.conv.conv_0.2.weight"
_LAST = "output.2.weight"
FLOWS_OUTPUTS = 3


class _Normalised(nn.Sequential):
    """Batch normalisation, perhaps a ReLU, and a convolution of `kernel` pixels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, is_activated: bool = True) -> None:
        activation = [nn.ReLU()] if is_activated else []
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        super().__init__(nn.BatchNorm2d(inputs), *activation, convolution)


class _Down(nn.Module):
    """Two residual pairs of convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        widths = (inputs, outputs, outputs, outputs)
        self.conv = nn.ModuleDict({f"conv_{i}": _Normalised(width, outputs, 3) for i, width in enumerate(widths)})
        self.proj = _Normalised(inputs, outputs, 1, is_activated=False)

    def forward(self, image: Tensor) -> Tensor:
        first, second, third, fourth = self.conv.values()
        half: Tensor = self.proj(image) + second(first(image))
        return half + fourth(third(half))  # type: ignore[no-any-return]  # modules answer Any


class _Styled(nn.Module):
    """A convolution after the style was added to every pixel."""

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.full = nn.Linear(style, width)
        self.conv = _Normalised(width, width, 3)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        return self.conv(image + self.full(style)[:, :, None, None])  # type: ignore[no-any-return]


class _Up(nn.Module):
    """Two residual pairs; the encoder's map is added after the first convolution."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        super().__init__()
        styled = {f"conv_{i}": _Styled(outputs, style) for i in (1, 2, 3)}
        self.conv = nn.ModuleDict({"conv_0": _Normalised(inputs, outputs, 3), **styled})
        self.proj = _Normalised(inputs, outputs, 1, is_activated=False)

    def forward(self, image: Tensor, beside: Tensor, style: Tensor) -> Tensor:
        first, second, third, fourth = self.conv.values()
        half: Tensor = self.proj(image) + second(first(image) + beside, style)
        return half + fourth(third(half, style), style)  # type: ignore[no-any-return]


class CpNet(nn.Module):
    """``(N, C, H, W)`` float32 to ``(N, 3, H, W)``: flow down, flow right, and the logit of being in a cell.

    Height and width are multiples of two to the number of `widths` less one.

    Attributes:
        channels, levels: of its input, and how many sizes it looks at.
        diam_mean: pixels that objects were scaled to in training.
        diam_labels: mean diameter of the training set's objects before that, in pixels.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.levels = channels, len(widths)
        encoder = [_Down(*pair) for pair in zip((channels, *widths), widths, strict=False)]
        decoder = [_Up(*pair, widths[-1]) for pair in zip((*widths[1:], widths[-1]), widths, strict=True)]
        self.downsample = nn.ModuleDict(
            {"down": nn.ModuleDict({f"res_down_{i}": each for i, each in enumerate(encoder)})}
        )
        self.upsample = nn.ModuleDict(
            {"up": nn.ModuleDict({f"res_up_{i}": each for i, each in enumerate(decoder)})}
        )
        self.output = _Normalised(widths[0], FLOWS_OUTPUTS, 1)
        self.diam_mean = nn.Parameter(torch.full((1,), 30.0), requires_grad=False)
        self.diam_labels = nn.Parameter(torch.full((1,), 30.0), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for block in self.downsample["down"].children():
            maps.append(block(nn.functional.max_pool2d(maps[-1], 2) if maps else image))
        style = maps[-1].mean(dim=(2, 3))
        style = style / style.square().sum(dim=1, keepdim=True).sqrt()
        value = maps[-1]
        for index, block in reversed(list(enumerate(self.upsample["up"].children()))):
            if index < len(maps) - 1:
                value = nn.functional.interpolate(value, scale_factor=2.0, mode="nearest")
            value = block(value, maps[index], style)
        return self.output(value)  # type: ignore[no-any-return]


def network_for(weights: Mapping[str, Tensor]) -> CpNet:
    """The untrained network that `weights` are for.

    Raises:
        ConversionError: they are not a CPnet's, or those of one with other outputs than flows and a probability.
    """
    names = takewhile(weights.__contains__, map(_FIRST.format, count()))
    found = [weights[name].shape for name in names]
    if not found or _LAST not in weights or any(len(shape) != 4 for shape in found):
        raise ConversionError("The source holds no CPnet of Cellpose 1 to 3: name its architecture with --arch.")
    outputs = weights[_LAST].shape[0]
    if outputs != FLOWS_OUTPUTS:
        raise ConversionError(
            f"The network has {outputs} outputs, and a CPnet that finds cells has {FLOWS_OUTPUTS}: give a "
            "segmentation model, not one of Cellpose's others."
        )
    return CpNet(found[0][1], [shape[0] for shape in found])
