"""A small conditional generator and its critics, after pix2pixHD (Wang et al. 2018)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS: Final = 2
STRIDE: Final = 4
_WIDTHS: Final = (32, 64, 96)
_BLOCKS: Final = 4
_CRITIC_WIDTHS: Final = (32, 64, 64)
_SCALES: Final = 2


class _Residual(nn.Module):
    """Two dilated convolutions around which the input is added. Without normalisation, so that an image does not
    depend on what lies far away."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, value: Tensor) -> Tensor:
        return value + 0.5 * self.second(functional.leaky_relu(self.first(value), 0.2))  # type: ignore[no-any-return]


class Generator(nn.Module):
    """``(N, 2, H, W)`` foreground and edges of 0 and 1 to an image ``(N, 1, H, W)`` of 0 to 1; sides are multiples
    of `STRIDE`."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.entry = nn.Conv2d(CHANNELS, first, 5, padding=2)
        self.down = nn.ModuleList([nn.Conv2d(first, second, 3, 2, 1), nn.Conv2d(second, third, 3, 2, 1)])
        self.middle = nn.Sequential(*(_Residual(third, 2**index) for index in range(_BLOCKS)))
        self.up = nn.ModuleList(
            [nn.Conv2d(third + second, second, 3, 1, 1), nn.Conv2d(second + first, first, 3, 1, 1)]
        )
        self.last = nn.Conv2d(first, 1, 3, padding=1)

    def forward(self, mask: Tensor) -> Tensor:
        maps = [functional.leaky_relu(self.entry(mask), 0.2)]
        for layer in self.down:
            maps.append(functional.leaky_relu(layer(maps[-1]), 0.2))
        value = self.middle(maps[-1])
        for layer, beside in zip(self.up, maps[-2::-1], strict=True):
            value = functional.interpolate(value, scale_factor=2.0, mode="nearest")
            value = functional.leaky_relu(layer(torch.cat([value, beside], dim=1)), 0.2)
        image: Tensor = self.last(value)
        # Clipped in training, black images would have no gradient.
        return image if self.training else image.clamp(0, 1)


class Critics(nn.Module):
    """Of masks with images, at full and at half size: the maps of every layer, the last the verdict of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleList(_critic() for _ in range(_SCALES))

    def forward(self, mask: Tensor, image: Tensor) -> list[list[Tensor]]:
        value, found = torch.cat([mask, image], dim=1), []
        for critic in self.critics:
            maps = [value]
            for layer in critic.children():
                maps.append(layer(maps[-1]))
            found.append(maps[1:])
            value = functional.avg_pool2d(value, 2)
        return found


def _critic() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = CHANNELS + 1
    for width in _CRITIC_WIDTHS:
        layers.append(nn.Sequential(nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)))
        inputs = width
    return nn.Sequential(*layers, nn.Conv2d(inputs, 1, 3, padding=1))
