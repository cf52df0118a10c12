"""Tile results as Arrow IPC streams. The only module that imports pyarrow.

One record batch a tile, one row a cell, in level-0 pixels:

==================  ===============================  ==========================================================
column              type                             meaning
==================  ===============================  ==========================================================
centroid            fixed_size_list<double>[2]       x, y
area                double                           square pixels
score               float                            mean foreground probability
outline             large_list<...<double>[2]>       x, y of the vertices; the ring is not closed
owned, near_seam    bool                             see `TileResult`
probabilities_K     fixed_size_list<float>[C]        of classifier K, counted from 0; NaN where it did not look
measure_K           double                           measure K of the pipeline, counted from 0
==================  ===============================  ==========================================================

The schema's metadata holds the tile's index, core, unstored pixels, flaws and coverages (JSON) and tissue blocks
(bits in rows of whole bytes).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from slidecascade.cells.coverage import Coverage
from slidecascade.cells.instances import Instances
from slidecascade.cells.tile_result import TileResult
from slidecascade.geometry import Box
from slidecascade.slides.flaws import Flaws

FORMAT: Final = b"slidecascade-tile-1"
_PROBABILITIES: Final = "probabilities_"
_MEASURE: Final = "measure_"


def encode(result: TileResult) -> bytes:
    """The stream of `result`."""
    cells = result.cells
    columns: dict[str, pa.Array] = {
        "centroid": _lists(cells.centroids),
        "area": pa.array(cells.areas),
        "score": pa.array(cells.scores),
        "outline": pa.LargeListArray.from_arrays(pa.array(cells.offsets), _lists(cells.vertices)),
        "owned": pa.array(result.owned),
        "near_seam": pa.array(result.near_seam),
    }
    columns |= {f"{_PROBABILITIES}{k}": _lists(matrix) for k, matrix in enumerate(cells.probabilities)}
    columns |= {f"{_MEASURE}{k}": pa.array(column) for k, column in enumerate(cells.measures)}
    place = {
        "index": result.index,
        "core": result.core.as_tuple(),
        "tissue_shape": result.tissue.shape,
        "unstored_px": result.unstored_px,
        "flaws": asdict(result.flaws),
        "coverages": [asdict(item) for item in result.coverages],
    }
    metadata = {
        b"format": FORMAT,
        b"place": orjson.dumps(place),
        b"tissue": np.packbits(result.tissue, axis=1).tobytes(),
    }
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(stream: bytes) -> TileResult:
    """The result that `encode` wrote.

    Raises:
        ValueError: the stream is of another kind, truncated or damaged.
    """
    try:
        with pa.ipc.open_stream(stream) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowException, StopIteration) as error:
        raise ValueError("The stream of a tile's result is damaged; analyse the tile again.") from error
    metadata: dict[bytes, bytes] = batch.schema.metadata or {}
    if metadata.get(b"format") != FORMAT:
        raise ValueError("The stream holds no tile's result of this version; analyse the tile again.")
    place = orjson.loads(metadata[b"place"])
    rows, columns = place["tissue_shape"]
    bits = np.frombuffer(metadata[b"tissue"], np.uint8).reshape(rows, -1)
    outline = batch["outline"]
    stages = sum(name.startswith(_PROBABILITIES) for name in batch.schema.names)
    measures = sum(name.startswith(_MEASURE) for name in batch.schema.names)
    return TileResult(
        index=place["index"],
        core=Box(*place["core"]),
        tissue=np.unpackbits(bits, axis=1, count=columns).astype(np.bool_),
        cells=Instances(
            centroids=_matrix(batch["centroid"]),
            areas=batch["area"].to_numpy(),
            scores=batch["score"].to_numpy(),
            vertices=_matrix(outline.values),
            offsets=outline.offsets.to_numpy(),
            probabilities=tuple(_matrix(batch[f"{_PROBABILITIES}{k}"]) for k in range(stages)),
            measures=tuple(batch[f"{_MEASURE}{k}"].to_numpy() for k in range(measures)),
        ),
        owned=batch["owned"].to_numpy(zero_copy_only=False),
        near_seam=batch["near_seam"].to_numpy(zero_copy_only=False),
        unstored_px=place["unstored_px"],
        flaws=Flaws(**place["flaws"]),
        coverages=tuple(Coverage(**item) for item in place["coverages"]),
    )


def _lists(matrix: NDArray[Any]) -> pa.FixedSizeListArray:
    """``(N, C)`` as ``N`` lists of ``C``."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), matrix.shape[1])


def _matrix(lists: pa.FixedSizeListArray) -> NDArray[Any]:
    matrix: NDArray[Any] = lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
    return matrix
