"""U2-Net and its small form U2-Net-p (Qin et al. 2020): a U-Net whose blocks are U-Nets.

Parameters are named as the project saves them; both forms have the same names and differ in widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidecascade.errors import ConversionError

_Widths = tuple[tuple[int, int, int], ...]
"""Inputs, inner and outputs of each block, from stage1 to stage6 and from stage5d to stage1d."""

U2NET: Final[_Widths] = (
    (3, 32, 64), (64, 32, 128), (128, 64, 256), (256, 128, 512), (512, 256, 512), (512, 256, 512),
    (1024, 256, 512), (1024, 128, 256), (512, 64, 128), (256, 32, 64), (128, 16, 64),
)  # fmt: skip
U2NETP: Final[_Widths] = ((3, 16, 64), *[(64, 16, 64)] * 5, *[(128, 16, 64)] * 5)
_STAGES: Final = tuple(f"stage{i}" for i in range(1, 7)) + tuple(f"stage{i}d" for i in range(5, 0, -1))
_DEPTHS: Final = (7, 6, 5, 4, 0, 0, 0, 4, 5, 6, 7)
"""Levels of the block of each stage; 0 for the flat one, which dilates instead of pooling."""

_FLAT_LEVELS: Final = 4
_INNER: Final = "stage{}.rebnconv1.conv_s1.weight"
MAPS: Final = tuple(f"d{i}" for i in range(7))


class _Convolution(nn.Module):
    """3 x 3 pixels, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(outputs)

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.bn_s1(self.conv_s1(image)))


class _Block(nn.Module):
    """A U-Net of `depth` levels around which its input is added; a `depth` of 0 is the flat one."""

    def __init__(self, inputs: int, inner: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.is_flat = depth == 0
        self.depth = depth or _FLAT_LEVELS
        self.rebnconvin = _Convolution(inputs, outputs)
        for level in range(1, self.depth + 1):
            width = outputs if level == 1 else inner
            self.add_module(f"rebnconv{level}", _Convolution(width, inner, self._dilation(level)))
        for level in range(1, self.depth):
            width = outputs if level == 1 else inner
            self.add_module(f"rebnconv{level}d", _Convolution(2 * inner, width, self._dilation(level)))

    def _dilation(self, level: int) -> int:
        if self.is_flat:
            return int(2 ** (level - 1))
        return 2 if level == self.depth else 1

    def forward(self, image: Tensor) -> Tensor:
        entry = self.rebnconvin(image)
        value, maps = entry, []
        for level in range(1, self.depth + 1):
            # The two innermost levels have one size.
            if not self.is_flat and 1 < level < self.depth:
                value = _halved(value)
            value = getattr(self, f"rebnconv{level}")(value)
            maps.append(value)
        for level in range(self.depth - 1, 0, -1):
            beside = maps[level - 1]
            if not self.is_flat and level < self.depth - 1:
                value = _as_large(value, beside)
            value = getattr(self, f"rebnconv{level}d")(torch.cat([value, beside], dim=1))
        return value + entry  # type: ignore[no-any-return]  # modules answer Any


class U2Net(nn.Module):
    """``(N, 3, H, W)`` float32 to seven maps ``(N, 1, H, W)`` of 0 to 1; the first is the answer."""

    def __init__(self, widths: _Widths) -> None:
        super().__init__()
        self.is_small = widths == U2NETP
        for name, sizes, depth in zip(_STAGES, widths, _DEPTHS, strict=True):
            self.add_module(name, _Block(*sizes, depth))
        sides = (*(widths[-i][2] for i in range(1, 6)), widths[5][2])
        for index, width in enumerate(sides, start=1):
            self.add_module(f"side{index}", nn.Conv2d(width, 1, 3, padding=1))
        self.outconv = nn.Conv2d(len(sides), 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        value, maps = image, []
        for index, name in enumerate(_STAGES[:6]):
            value = getattr(self, name)(_halved(value) if index else value)
            maps.append(value)
        decoded = [value]
        for name, beside in zip(_STAGES[6:], reversed(maps[:-1]), strict=True):
            value = getattr(self, name)(torch.cat([_as_large(value, beside), beside], dim=1))
            decoded.append(value)
        sides = [getattr(self, f"side{i}")(each) for i, each in enumerate(reversed(decoded), start=1)]
        sides = [sides[0], *(_as_large(each, sides[0]) for each in sides[1:])]
        joined = self.outconv(torch.cat(sides, dim=1))
        return tuple(torch.sigmoid(each) for each in (joined, *sides))


def network_for(weights: Mapping[str, Tensor]) -> U2Net:
    """The untrained network that `weights` are for.

    Raises:
        ConversionError: they are those of neither form.
    """
    widths = {tuple(weights[name].shape[:2]) for name in map(_INNER.format, (1, 2)) if name in weights}
    for form in (U2NET, U2NETP):
        if widths == {(inner, outputs) for _, inner, outputs in form[:2]}:
            return U2Net(form)
    raise ConversionError(
        "The source holds neither a U2-Net nor a U2-Net-p with three input channels: name its architecture with "
        "--arch."
    )


def _halved(image: Tensor) -> Tensor:
    return functional.max_pool2d(image, 2, stride=2, ceil_mode=True)


def _as_large(image: Tensor, other: Tensor) -> Tensor:
    return functional.interpolate(image, size=other.shape[2:], mode="bilinear", align_corners=False)
