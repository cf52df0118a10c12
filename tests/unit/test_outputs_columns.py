"""Numbers and texts of many rows at once."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.outputs.columns import TABLE_DIGITS, Column, four_decimals, lines, side_by_side, two_decimals
from slidecascade.outputs.rings import closed_rings

COORDINATES = st.one_of(
    st.floats(0, 300),
    st.floats(-1e6, 2e6),
    st.integers(-3, 10**7).map(float),
    st.integers(-100, 10**8).map(lambda n: n / 200),  # halves of a hundredth are rounded too
    st.sampled_from([0.0, -0.0, -0.004, 0.004, 0.005, 0.1, 9.995, 9.999, 10.0, 99.99, 999_999.99, 1e6, 1e12]),
)


def texts(columns: tuple[Column, ...], count: int) -> list[bytes]:
    return lines(side_by_side(count, *columns, b"\n"))


def one_by_one(numbers: list[float], decimals: int) -> list[bytes]:
    """Every number rounded and written alone."""
    return [orjson.dumps(float(np.round(number, decimals)) + 0.0) for number in numbers]


@given(st.lists(COORDINATES, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_two_decimals_are_those_of_orjson(numbers: list[float]) -> None:
    """Whatever stands next to it, a number is written as it is alone, with no zeros at its end."""
    assert texts(two_decimals(np.array(numbers)), len(numbers)) == one_by_one(numbers, 2)


@pytest.mark.parametrize("digits", range(TABLE_DIGITS + 2))
def test_numbers_of_any_length_have_all_their_digits(digits: int) -> None:
    """Numbers around every power of ten are right, alone and next to a short one; also beyond the tables."""
    for change in (-1.0, -0.01, -0.001, 0.0, 0.01):
        number = abs(10.0**digits + change)
        assert texts(two_decimals(np.array([number])), 1) == one_by_one([number], 2)
        assert texts(two_decimals(np.array([0.5, number])), 2) == one_by_one([0.5, number], 2)


@given(st.lists(st.floats(0, 1) | st.integers(0, 20_000).map(lambda n: n / 20_000), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_probabilities_have_four_decimals(numbers: list[float]) -> None:
    """All are equally long, and are read as the rounded numbers."""
    written = four_decimals(np.array(numbers)).tolist()

    assert {len(text) for text in written} == {6}
    assert [json.loads(text) for text in written] == [float(np.round(number, 4)) for number in numbers]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_numbers_that_are_not_probabilities_are_written_too(numbers: list[float]) -> None:
    """Negative and large numbers fill rows of the same length and are read as the rounded numbers."""
    written = four_decimals(np.array(numbers).reshape(-1, 1))

    assert written.shape == (len(numbers), 1)
    assert len({len(text) for text in written.ravel().tolist()}) == 1
    assert [json.loads(text) for text in written.ravel().tolist()] == [
        float(np.round(number, 4)) for number in numbers
    ]


def test_columns_stand_side_by_side() -> None:
    """Shared text and columns of any width, also parts of wider arrays, are joined row by row."""
    table = np.array([[b"a", b"bb"], [b"ccc", b"d"]])

    assert lines(side_by_side(2, b"<", table[:, 0], b"|", table[:, 1], b">\n")) == [b"<a|bb>", b"<ccc|d>"]
    assert side_by_side(2, b"x", np.array([b"12345", b"67890"])).tolist() == [b"x12345", b"x67890"]
    assert lines(side_by_side(0, b"<", table[:0, 0], b"\n")) == []


@given(st.lists(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=9), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_rings_are_closed_and_each_is_written_as_if_alone(outlines: list[list[tuple[float, float]]]) -> None:
    """The text of a ring is that of its rounded vertices and of the first one again, whatever stands beside it."""
    offsets = np.cumsum([0, *(len(outline) for outline in outlines)])
    expected = [orjson.dumps((np.round([*outline, outline[0]], 2) + 0.0).tolist())[1:-1] for outline in outlines]

    assert closed_rings(np.concatenate([np.array(outline) for outline in outlines]), offsets) == expected
