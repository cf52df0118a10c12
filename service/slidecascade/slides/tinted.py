"""A stack of channels as a viewer shows it: some of the channels, each in a colour and a contrast of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Box, Size
from slidecascade.slides.channels import MAX_CHANNELS, Intensity, composite
from slidecascade.slides.source import Rgb
from slidecascade.slides.stackimage import StackImage

FORM: Final = "index:rrggbb:low:high, joined by commas; low and high are parts of the channel's own range"
PATTERN: Final = r"\d{1,3}:[0-9a-f]{6}:-?\d{1,2}(\.\d{1,3})?:-?\d{1,2}(\.\d{1,3})?"
_LEAST_SPAN: Final = 0.001


@dataclass(frozen=True, slots=True)
class ChannelLook:
    """How the channel `index` is shown.

    `low` becomes black and `high` the full `color`: 0 and 1 are the counts between which the slide's own sample of
    the channel lies.
    """

    index: int
    color: tuple[int, int, int]
    low: float
    high: float

    def of(self, intensity: Intensity) -> Intensity:
        """The intensity with this contrast."""
        span = intensity.high - intensity.low
        low, high = (intensity.low + round(part * span) for part in (self.low, self.high))
        return replace(intensity, low=low, high=max(high, low + 1))


def parse_looks(text: str) -> tuple[ChannelLook, ...]:
    """What a query says, see `FORM`.

    Raises:
        InvalidRequestError: it has another form, or a channel ends where it begins.
    """
    items = text.split(",")
    if len(items) > MAX_CHANNELS or not all(re.fullmatch(PATTERN, item) for item in items):
        raise _invalid(f"give at most {MAX_CHANNELS} of {FORM}")
    looks = []
    for item in items:
        index, color, low, high = item.split(":")
        red, green, blue = bytes.fromhex(color)
        looks.append(ChannelLook(int(index), (red, green, blue), float(low), float(high)))
    if any(look.high - look.low < _LEAST_SPAN for look in looks):
        raise _invalid("`high` must be greater than `low`")
    return tuple(looks)


class Tinted:
    """The slide `stack` shown by `looks`; its content is another one for each of them.

    Raises:
        InvalidRequestError: the slide has no such channel.
    """

    def __init__(self, stack: StackImage, looks: Sequence[ChannelLook]) -> None:
        names = stack.channels
        if any(look.index >= len(names) for look in looks):
            raise _invalid(f"the slide has the channels 0 to {len(names) - 1}: {', '.join(names)}")
        self._stack = stack
        self._looks = tuple(looks)

    @property
    def size_l0(self) -> Size:
        return self._stack.size_l0

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        return self._stack.level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        return self._stack.level_downsamples

    @property
    def content_id(self) -> str:
        return f"{self._stack.content_id} {self._looks}"

    def read_level(self, level: int, box: Box) -> Rgb:
        """The picture of `box`; raises UnreadableSlideError where the file is damaged."""
        indices = [look.index for look in self._looks]
        counts = self._stack.read_channels(level, box, indices)
        known = self._stack.intensities
        return composite(
            counts,
            [look.of(known[look.index]) for look in self._looks],
            [look.color for look in self._looks],
        )


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(f"'channels' is invalid: {message}.", (("channels", message),))
