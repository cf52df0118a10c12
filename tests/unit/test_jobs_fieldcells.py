"""The binary of a field: read as it was written, by the service and by the client's own decoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slidecascade_client
from slidecascade.jobs.fieldcells import UNITS, FieldCells


def made(seed: int, cells: int, *, reach_px: float) -> FieldCells:
    """Outlines of 3 to 40 vertices anywhere on a large slide."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 41, cells)
    offsets = np.zeros(cells + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    centres = rng.uniform(0, 120_000, (cells, 2))
    vertices = np.repeat(centres, counts, axis=0) + rng.uniform(-reach_px, reach_px, (int(offsets[-1]), 2))
    return FieldCells(
        index=seed,
        classes=("Leber: groß", "Immune", "Other"),
        vertices=vertices,
        offsets=offsets,
        class_index=rng.integers(0, 3, cells),
        probability=rng.uniform(0, 1, cells).astype(np.float32),
        is_final=bool(seed % 2),
    )


@given(seed=st.integers(0, 1000), cells=st.integers(0, 30), reach_px=st.sampled_from([0.3, 12.0, 900.0, 30_000.0]))
def test_what_is_written_is_read(seed: int, cells: int, reach_px: float) -> None:
    """By both decoders: outlines to half a unit, everything else exactly; wide steps take four bytes."""
    field = made(seed, cells, reach_px=reach_px)
    data = field.encode()
    assert data[6] == (4 if cells and reach_px > 2048 else data[6])
    ours = FieldCells.decode(data)
    theirs = slidecascade_client.FieldCells.read(data)
    assert np.abs(ours.vertices - field.vertices).max(initial=0) <= 0.5 / UNITS
    assert np.array_equal(ours.offsets, field.offsets)
    for reported in (ours, theirs):
        assert (reported.index, reported.classes, reported.is_final) == (
            field.index,
            field.classes,
            field.is_final,
        )
        assert np.array_equal(reported.class_index, field.class_index)
        assert np.array_equal(reported.probability, field.probability)
    assert len(theirs.outlines) == cells
    for outline, start, end in zip(theirs.outlines, field.offsets, field.offsets[1:], strict=False):
        assert np.array_equal(outline, ours.vertices[start:end])


def test_a_field_is_compact() -> None:
    """Four bytes a vertex and thirteen a cell."""
    field = made(1, 1000, reach_px=12)
    assert len(field.encode()) <= 4 * len(field.vertices) + 13 * 1000 + 64


@pytest.mark.parametrize("data", [b"", b"SCFC", b"SCFC\x02" + bytes(40), bytes(64)])
def test_something_else_is_refused(data: bytes) -> None:
    """Neither decoder guesses."""
    with pytest.raises(ValueError, match="version 1"):
        FieldCells.decode(data)
    with pytest.raises(ValueError, match="version 1"):
        slidecascade_client.FieldCells.read(data)


def test_a_truncated_field_is_refused() -> None:
    """At any length."""
    data = made(3, 5, reach_px=12).encode()
    for length in range(40, len(data) - 1, 37):
        with pytest.raises(ValueError, match=r"buffer|reshape|split|sequence|size"):
            FieldCells.decode(data[:length])
        with pytest.raises(ValueError, match=r"buffer|reshape|split|sequence|size"):
            slidecascade_client.FieldCells.read(data[:length])
