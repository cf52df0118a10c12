"""Run lengths as segmentation challenges write masks: pairs of start and length, down the columns, counted from 1.

Reading and writing go by runs (`areas/runs.py`); a mask is never made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from slidecascade.areas.runs import Runs
from slidecascade.errors import InvalidRequestError


def decode(encoding: str, *, width_px: int, height_px: int, name: str) -> Runs:
    """The runs of one mask, all labelled 0, of an image of this size; `name` is the mask's, for messages.

    Raises:
        InvalidRequestError: what is there is no list of pairs, its runs overlap or are not in order, or they reach
            beyond the image.
    """
    try:
        numbers = np.array(encoding.split(), np.int64)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(
            f"The run lengths of {name!r} hold what is not a whole number of 64 bits: write the mask again."
        ) from error
    if len(numbers) % 2:
        raise InvalidRequestError(
            f"The run lengths of {name!r} are {len(numbers)} numbers, not pairs of start and length: the "
            "file may have been cut off."
        )
    begins, lengths = numbers[::2] - 1, numbers[1::2]
    ends = begins + lengths
    _require_runs(begins, lengths, ends, width_px * height_px, f"{width_px} x {height_px}", name)
    first, last = begins // height_px, (ends - 1) // height_px
    spans = last - first + 1
    run = np.repeat(np.arange(len(begins)), spans)
    columns = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(spans) - spans, spans)
    tops = np.maximum(begins[run] - columns * height_px, 0)
    bottoms = np.minimum(ends[run] - columns * height_px, height_px)
    return Runs(columns, tops, bottoms, np.zeros(len(columns), np.int64))


def _require_runs(
    begins: NDArray[np.int64],
    lengths: NDArray[np.int64],
    ends: NDArray[np.int64],
    pixels: int,
    size: str,
    name: str,
) -> None:
    if (lengths < 1).any() or (begins < 0).any():
        wrong = int(np.flatnonzero((lengths < 1) | (begins < 0))[0])
        raise InvalidRequestError(
            f"Run {wrong + 1} of {name!r} starts at {begins[wrong] + 1} and has length {lengths[wrong]}: "
            "starts and lengths are at least 1."
        )
    # Each by itself as well: the sum of two large numbers wraps around.
    beyond = (begins > pixels) | (lengths > pixels) | (ends > pixels)
    if beyond.any():
        wrong = int(np.flatnonzero(beyond)[-1])
        last = int(begins[wrong]) + int(lengths[wrong])
        raise InvalidRequestError(
            f"The run lengths of {name!r} reach pixel {last}, but an image of {size} px has {pixels}: "
            "they belong to another image, or to one of another resolution."
        )
    if (begins[1:] < ends[:-1]).any():
        wrong = int(np.flatnonzero(begins[1:] < ends[:-1])[0])
        raise InvalidRequestError(
            f"Runs {wrong + 1} and {wrong + 2} of {name!r} overlap or are not in order: write the mask again."
        )


def begins_of(
    columns: NDArray[np.int64], tops: NDArray[np.int64], bottoms: NDArray[np.int64], height_px: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs begin in an image read down its columns, from 0, in ascending order, and their lengths."""
    begins, lengths = columns * height_px + tops, bottoms - tops
    order = np.argsort(begins, kind="stable")
    begins, lengths = begins[order], lengths[order]
    return begins[lengths > 0], lengths[lengths > 0]


def encode(strips: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Iterator[bytes]:
    """The encoding, in pieces, of strips of columns from left to right, as `begins_of` has them.

    Runs that follow one another without a gap, over the end of a column or a strip too, are one.
    """
    pending = np.zeros((0, 2), np.int64)
    is_first = True
    for strip in strips:
        begins, lengths = merged(*(np.append(pending[:, axis], strip[axis]) for axis in (0, 1)))
        if not len(begins):
            continue
        pending = np.array([[begins[-1], lengths[-1]]], np.int64)
        if len(begins) > 1:
            yield _text(begins[:-1], lengths[:-1], is_first=is_first)
            is_first = False
    if len(pending):
        yield _text(pending[:, 0], pending[:, 1], is_first=is_first)


def merged(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs in ascending order, those that touch made one."""
    if not len(begins):
        return begins, lengths
    starts = np.flatnonzero(np.append(True, begins[1:] != begins[:-1] + lengths[:-1]))
    return begins[starts], np.add.reduceat(lengths, starts)


def _text(begins: NDArray[np.int64], lengths: NDArray[np.int64], *, is_first: bool) -> bytes:
    text = " ".join(map(str, np.stack([begins + 1, lengths], axis=1).ravel().tolist()))
    return (text if is_first else " " + text).encode()
