"""Results of tiles written as Arrow streams and read again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_analysis import make_instances
from slidecascade.cells import arrow
from slidecascade.cells.instances import Instances
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box


def made(seed: int, cells: int, classes: list[int], rows: int = 3, columns: int = 11) -> TileResult:
    rng = np.random.default_rng(seed)
    found = make_instances(rng.uniform(0, 900, (cells, 2)), rng.uniform(3, 9, cells), vertices=7, seed=seed)
    stages = [rng.random((cells, count)).astype(np.float32) for count in classes]
    for matrix in stages:
        matrix[rng.random(cells) < 0.3] = np.nan
    return TileResult(
        index=seed,
        core=Box(seed, 8, 512, 96),
        tissue=rng.random((rows, columns)) < 0.5,
        cells=found.with_probabilities(*stages),
        owned=rng.random(cells) < 0.5,
        near_seam=rng.random(cells) < 0.5,
        unstored_px=float(rng.uniform(0, 99)),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cells=st.integers(0, 40),
    classes=st.lists(st.integers(1, 5), max_size=3),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
)
def test_a_result_read_again_is_the_same_bit_for_bit(
    seed: int, cells: int, classes: list[int], rows: int, columns: int
) -> None:
    """Place, tissue, outlines, masks and probabilities, rows of NaN too; also without cells or without stages."""
    result = made(seed, cells, classes, rows, columns)

    again = arrow.decode(arrow.encode(result))

    assert (again.index, again.core, again.is_background) == (result.index, result.core, result.is_background)
    assert again.unstored_px == result.unstored_px
    for name in ("tissue", "owned", "near_seam"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name), strict=True)
    for name in ("centroids", "areas", "scores", "vertices", "offsets"):
        np.testing.assert_array_equal(getattr(again.cells, name), getattr(result.cells, name), strict=True)
    assert len(again.cells.probabilities) == len(classes)
    for one, other in zip(again.cells.probabilities, result.cells.probabilities, strict=True):
        assert one.tobytes() == other.tobytes()
        assert one.shape == other.shape


def test_cells_cut_out_of_others_are_written_whole() -> None:
    """Arrays that are views of larger ones are no trouble."""
    result = made(5, 30, [3])
    some = replace(
        result,
        cells=result.cells.take(np.arange(3, 20)),
        owned=result.owned[3:20],
        near_seam=result.near_seam[3:20],
    )
    assert arrow.decode(arrow.encode(some)).cells.vertices.tobytes() == some.cells.vertices.tobytes()


def test_any_reader_of_arrow_understands_the_columns() -> None:
    """The stream is plain Arrow: a row a cell, names and types as documented."""
    result = made(1, 4, [3, 2])
    table = pa.ipc.open_stream(arrow.encode(result)).read_all()
    assert table.num_rows == 4
    assert table.column_names == [
        "centroid", "area", "score", "outline", "owned", "near_seam", "probabilities_0", "probabilities_1",
    ]  # fmt: skip
    assert table["outline"][2].as_py() == result.cells.vertices[14:21].tolist()


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_truncated_stream_is_an_error(kept: int) -> None:
    """A truncated part is not read as a tile without cells."""
    stream = arrow.encode(made(1, 50, [3]))
    with pytest.raises(ValueError, match="damaged"):
        arrow.decode(stream[:kept])


def test_another_stream_is_an_error() -> None:
    """Arrow files of other programs are rejected by name."""
    batch = pa.RecordBatch.from_pydict({"a": pa.array([1])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ValueError, match="no tile's result"):
        arrow.decode(bytes(sink.getvalue()))


def test_no_cells_at_all_is_a_result() -> None:
    """A background tile has a stream too."""
    nothing = np.zeros(0, np.bool_)
    empty = TileResult(
        0, Box(0, 0, 8, 8), np.zeros((1, 1), np.bool_), Instances.empty([3]), nothing, nothing, unstored_px=0.5
    )
    assert len(arrow.decode(arrow.encode(empty)).cells) == 0
