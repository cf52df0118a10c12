"""Values of command line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, get_args

from slidecascade.wire import Averaging, StainMethod

METHODS: Final = get_args(StainMethod)


def add_averaging(parser: argparse.ArgumentParser) -> None:
    """The option ``--tta``."""
    parser.add_argument(
        "--tta",
        choices=get_args(Averaging),
        default="none",
        help="average over turned and mirrored images: d4 all networks, in 8x the time, d4-classifiers the "
        "classifiers, in about 2x",
    )


def region_of(text: str) -> tuple[int, int, int, int]:
    """``x,y,width,height`` as four whole numbers."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,width,height in whole pixels") from None
    return x, y, width, height


def whole_number(least: int) -> Callable[[str], int]:
    """A parser of whole numbers with a minimum."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return number

    return read


def channel_of(text: str) -> tuple[str, int | str]:
    """``nuclear=0`` or ``nuclear=DAPI`` for argparse."""
    meaning, _, channel = text.partition("=")
    if not meaning or not channel:
        raise argparse.ArgumentTypeError(f"{text!r} is not MEANING=CHANNEL, such as nuclear=0 or nuclear=DAPI")
    return meaning, int(channel) if channel.isascii() and channel.isdigit() else channel


def threshold_of(text: str) -> tuple[str, float]:
    """``model=number``."""
    name, separator, number = text.partition("=")
    try:
        return (name, float(number)) if separator and name else _refuse(text)
    except ValueError:
        return _refuse(text)


def _refuse(text: str) -> tuple[str, float]:
    raise argparse.ArgumentTypeError(f"{text!r} is not model=number, e.g. nash-cell=0.5")
