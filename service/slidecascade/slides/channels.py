"""Channels by meaning: which channel of a slide is given to a network as what, and how its intensity is scaled.

Intensities are scaled by percentiles of a fixed sample of the slide, never of a tile: by default the 1st becomes
0, the 99.8th the full scale of 16 bits; a model may state others. Counts are never spread by more than a 255th of
the scale each, so that the noise of an empty channel stays dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError, UnknownChannelError
from slidecascade.models.tensors import PERCENTILES
from slidecascade.warning import AnswerWarning

FULL_SCALE: Final = 65535
MAX_CHANNELS: Final = 8
_PERCENTS: Final = np.arange(1001) / 10
_LOW_DEVIATIONS: Final = 2.33
"""By which the mean of noise is above its 1st percentile."""
_LEAST_SIGNAL: Final = 0.04

RGB: Final = ("red", "green", "blue")

Samples = NDArray[np.uint8] | NDArray[np.uint16]
"""``(H, W, C)``."""


@dataclass(frozen=True, slots=True)
class IntensitySample:
    """The counts of a channel in a slide's sample.

    Attributes:
        quantiles: the counts at 0, 0.1, ... 100 percent.
        noise: deviation of the noise, in counts.
        least: the fewest counts that are spread over the scale.
    """

    quantiles: tuple[int, ...]
    noise: float
    least: int

    def intensity(self, name: str, percentiles: tuple[float, float]) -> Intensity:
        """The channel `name`, scaled by `percentiles`, which are multiples of 0.1."""
        low, high = (self.quantiles[round(10 * percent)] for percent in percentiles)
        is_flat, high = high < low + self.least // 2, max(high, low + self.least)
        lifted = max(self.noise / 2, _LEAST_SIGNAL * (high - low))
        return Intensity(name, low, high, round(low + _LOW_DEVIATIONS * self.noise + lifted), is_flat, self)


@dataclass(frozen=True, slots=True)
class Intensity:
    """What is known of a channel of a slide.

    Attributes:
        low, high: the counts that become 0 and the full scale.
        is_flat: whether there is next to nothing between the two percentiles.
        signal: the mean of a block from which on it is tissue: above the background and its noise.
        sample: what is known of the slide's sample, for other percentiles; None where there is none.
    """

    name: str
    low: int
    high: int
    signal: int = 0
    is_flat: bool = False
    sample: IntensitySample | None = None

    def between(self, percentiles: tuple[float, float]) -> Intensity:
        """The same channel, scaled by these `percentiles`."""
        return self if self.sample is None else self.sample.intensity(self.name, percentiles)

    @property
    def scaled_signal(self) -> float:
        """`signal` on the full scale."""
        return (self.signal - self.low) * (FULL_SCALE / (self.high - self.low))


@dataclass(frozen=True, slots=True)
class ChannelUse:
    """The channel `index` of the slide, which a network is given as `meaning`."""

    meaning: str
    index: int
    intensity: Intensity

    def in_counts(self) -> ChannelUse:
        """The same channel, whose counts are left as they are."""
        return replace(self, intensity=replace(self.intensity, low=0, high=FULL_SCALE))


def measure(names: Sequence[str], samples: Sequence[Samples]) -> tuple[Intensity, ...]:
    """The intensities of a slide's channels, of the squares of its sample; without any, all is dark."""
    found = []
    for index, name in enumerate(names):
        counts = np.zeros(FULL_SCALE + 1)
        for square in samples:
            counts += np.bincount(square[..., index].ravel(), minlength=FULL_SCALE + 1)
        cumulated = np.cumsum(counts)
        if not cumulated[-1]:
            found.append(Intensity(name, 0, FULL_SCALE))
            continue
        quantiles = np.searchsorted(cumulated, np.maximum(_PERCENTS / 100 * cumulated[-1], 1))
        # 8-bit cameras have fewer counts than 16-bit ones have of noise.
        least = 16 if all(square.dtype == np.uint8 for square in samples) else 255
        noise = _noise([square[..., index] for square in samples])
        sample = IntensitySample(tuple(quantiles.tolist()), noise, least)
        found.append(sample.intensity(name, PERCENTILES))
    return tuple(found)


def _noise(squares: Sequence[NDArray[np.uint8] | NDArray[np.uint16]]) -> float:
    """The deviation of the noise: of the differences between neighbours, which hardly any of the signal is in."""
    steps = np.concatenate([np.abs(np.diff(square.astype(np.int32), axis=1)).ravel() for square in squares])
    return float(np.median(steps)) / (0.6745 * np.sqrt(2)) if len(steps) else 0.0


def scaled(samples: Samples, intensities: Sequence[Intensity]) -> NDArray[np.uint16]:
    """``(H, W, C)`` uint16 of the full scale; what lies beyond the percentiles is clipped."""
    result = np.empty(samples.shape, np.uint16)
    for index, intensity in enumerate(intensities):
        levels = np.arange(256 if samples.dtype == np.uint8 else FULL_SCALE + 1, dtype=np.float64)
        spread = (levels - intensity.low) * (FULL_SCALE / (intensity.high - intensity.low))
        table = np.clip(np.rint(spread), 0, FULL_SCALE).astype(np.uint16)
        result[..., index] = table[samples[..., index]]
    return result


def resolve(
    wanted: Sequence[str], asked: Mapping[str, int | str], intensities: Sequence[Intensity], *, dark_field: bool
) -> tuple[ChannelUse, ...]:
    """Which channel is used as each of `wanted`.

    What is not asked for is the channel of that name; a network of one channel is given the only one, or that with
    the strongest signal of a colour image of light on black.

    Raises:
        InvalidRequestError: `asked` holds a meaning that no network takes.
        UnknownChannelError: the slide has no such channel.
    """
    if unknown := sorted(asked.keys() - set(wanted)):
        raise InvalidRequestError(
            f"The pipeline takes no channel {unknown[0][:100]!r}; it takes {', '.join(wanted)}.",
            errors=tuple((f"channels.{name[:100]}", "the pipeline takes no such channel") for name in unknown),
        )
    return tuple(_use(name, asked.get(name), wanted, intensities, dark_field=dark_field) for name in wanted)


def _use(
    meaning: str,
    asked: int | str | None,
    wanted: Sequence[str],
    intensities: Sequence[Intensity],
    *,
    dark_field: bool,
) -> ChannelUse:
    names = [item.name for item in intensities]
    if isinstance(asked, int):
        index = asked if 0 <= asked < len(names) else None
    else:
        index = _named(meaning if asked is None else asked, names)
        if index is None and asked is None and len(wanted) == 1:
            index = _only(intensities, dark_field=dark_field)
    if index is None:
        raise UnknownChannelError(
            f"The slide has no channel {str(meaning if asked is None else asked)[:100]!r} to be used as "
            f"{meaning!r}; "
            f"it has {_listed(names)}: name one of them in `channels`."
        )
    return ChannelUse(meaning, index, intensities[index])


def _named(name: str, names: Sequence[str]) -> int | None:
    same = [index for index, other in enumerate(names) if other.casefold() == name.casefold()]
    return same[0] if same else None


def _only(intensities: Sequence[Intensity], *, dark_field: bool) -> int | None:
    """The only channel, or that of the signal of an RGB image of light on black."""
    if len(intensities) == 1:
        return 0
    if dark_field and tuple(item.name for item in intensities) == RGB:
        return max(range(3), key=lambda index: intensities[index].high - intensities[index].low)
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{index} ({name})" for index, name in enumerate(names))


def as_input(images: NDArray[Any], *, dtype: str, layout: str) -> NDArray[Any]:
    """``(N, H, W, C)`` uint16 of the full scale as a network takes it: integers of its own scale, or 0 to 1."""
    if dtype == "uint8":
        images = ((images.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif dtype != "uint16":
        images = (images.astype(np.float32) / np.float32(FULL_SCALE)).astype(dtype)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if layout == "NCHW" else images


def doubts_of(uses: Sequence[ChannelUse]) -> tuple[AnswerWarning, ...]:
    """Channels that show next to nothing: all zero, saturated, or noise alone."""
    return tuple(
        AnswerWarning(
            "flat-channel",
            f"The channel {use.intensity.name!r} used as {use.meaning!r} hardly differs from "
            f"{use.intensity.low} counts: it is empty or saturated; choose another in `channels`.",
        )
        for use in uses
        if use.intensity.is_flat
    )


COLOURS: Final = (
    (0, 90, 255), (0, 220, 60), (255, 40, 40), (255, 0, 255), (0, 220, 220), (255, 220, 0), (255, 140, 0),
    (255, 255, 255),
)  # fmt: skip
"""Of the channels of a picture, in their order; a single channel is white."""


def composite(
    samples: Samples, intensities: Sequence[Intensity], colours: Sequence[tuple[int, int, int]] | None = None
) -> NDArray[np.uint8]:
    """``(H, W, 3)`` RGB: the channels of ``(H, W, C)`` in `colours`, by default `COLOURS`, added up."""
    shown = scaled(samples, intensities)
    if shown.shape[2] == 1 and colours is None:
        return np.repeat((shown >> 8).astype(np.uint8), 3, axis=2)
    picture = np.zeros((*shown.shape[:2], 3), np.float32)
    for index in range(shown.shape[2]):
        picture += shown[..., index, None] * (np.array((colours or COLOURS)[index], np.float32) / FULL_SCALE)
    return np.asarray(cv2.convertScaleAbs(np.minimum(picture, 255)), np.uint8)
