"""Text of many rows at once, as columns laid side by side.

A column is an array of fixed-width bytes, one text per row; a shorter text ends in NUL bytes, which `lines` takes
out (JSON text holds none). Digits come from tables: to write number after number is slower than all the rest of
a file of cells.
"""

from __future__ import annotations

import functools

import numpy as np
import orjson
from numpy.typing import NDArray

Column = NDArray[np.bytes_]

TABLE_DIGITS = 6
"""Digits before the decimal point up to which numbers with two decimals come from tables."""


def two_decimals(values: NDArray[np.float64]) -> tuple[Column, ...]:
    """Columns which side by side are `values` ``(N,)`` rounded to 2 decimals, e.g. ``12`` and ``3.5``.

    They are written as `orjson` writes them, without zeros at the end: ``3.0``, ``3.5``, ``3.25``; never ``-0.0``.
    Numbers that are negative or of more than `TABLE_DIGITS` digits make all of them slow.
    """
    hundredths = values * 100
    np.rint(hundredths, out=hundredths)
    least, most = (hundredths.min(), hundredths.max()) if len(values) else (0, 0)
    if least < 0 or most >= 10 ** (TABLE_DIGITS + 2):
        return (_written_by_orjson(hundredths / 100 + 0.0),)
    whole = hundredths.astype(np.int32)
    tens = whole // 1000
    # Every index is in range; "wrap" spares the check.
    ends = _units_texts().take(whole - tens * 1000, mode="wrap")
    digits = len(str(int(most) // 1000)) if most >= 1000 else 0
    return (_tens_texts(digits).take(tens, mode="wrap"), ends) if digits else (ends,)


def four_decimals(values: NDArray[np.float64]) -> Column:
    """`values`, an array of finite numbers, with 4 decimals and all equally long: ``0.9300``.

    Where one lies outside of 0 to 1, all are written as `orjson` writes them, with blanks in front.
    """
    units = np.rint(values * 10_000)
    if units.size and (units.min() < 0 or units.max() > 10_000):
        texts = _written_by_orjson(units.ravel() / 10_000).reshape(units.shape)
        return np.strings.rjust(texts, texts.itemsize)
    return _probability_texts().take(units.astype(np.intp), mode="wrap")


def side_by_side(count: int, *columns: Column | bytes) -> Column:
    """One column of `count` rows: row ``i`` is the ``i``-th text of every column end to end.

    A text given as bytes is the same in every row.
    """
    blank = b"".join([part if isinstance(part, bytes) else bytes(part.itemsize) for part in columns])
    rows = np.frombuffer(blank, f"S{len(blank)}").repeat(count)
    begin = 0
    for part in columns if count else ():
        if isinstance(part, bytes):
            begin += len(part)
        else:
            block = _block(part.itemsize)
            np.ndarray(count, block, rows, begin, rows.strides)[...] = part.view(block)
            begin += part.itemsize
    return rows


def lines(column: Column) -> list[bytes]:
    """The texts of a column whose every row ends in a newline, without it and without NUL bytes."""
    return column.tobytes().replace(b"\0", b"").split(b"\n")[:-1]


@functools.cache
def _block(size: int) -> np.dtype[np.generic]:
    """The type that numpy copies fastest for so many bytes: an integer, where there is one."""
    return np.dtype(f"u{size}" if size in (1, 2, 4, 8) else f"V{size}")


def _written_by_orjson(values: NDArray[np.float64]) -> Column:
    text = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    return np.array(text[1:-1].split(b","))


@functools.cache
def _tens_texts(digits: int) -> Column:
    """What stands before the last digit of a whole number: ``n`` in at most `digits` digits, nothing for 0."""
    texts = np.arange(10**digits).astype(f"S{digits}")
    texts[0] = b""
    return texts


@functools.cache
def _units_texts() -> Column:
    """``n`` hundredths below 10: ``0.0``, ``0.01``, ..., ``9.99``."""
    return np.array([f"{n / 100}" for n in range(1000)], "S4")


@functools.cache
def _probability_texts() -> Column:
    """``n`` ten-thousandths up to 1: ``0.0000``, ..., ``1.0000``."""
    return np.array([f"{n / 10_000:.4f}" for n in range(10_001)], "S6")
