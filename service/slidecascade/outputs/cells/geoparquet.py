"""Cells as GeoParquet 1.1, which pyarrow, geopandas, DuckDB and QGIS read as it is.

One row a cell, in level-0 pixels (pixels of the upload for an image), y downwards:

=====================  ================  ====================================================================
column                 type              meaning
=====================  ================  ====================================================================
id                     string            the id the cell has in GeoJSON
geometry               binary            WKB polygon, its ring closed
bbox                   struct<double>    xmin, ymin, xmax, ymax of the outline
class                  dictionary        the class the cell ends in
score                  float             mean foreground probability
area_um2               double            square micrometres; null where the size of pixels is not known
area_px                double            square level-0 pixels
centroid_x, _y         double
MODEL CLASS prob...    float             ``nash-cell Hepatocyte probability``; null where the model did not look
MEASURE                double            what else the pipeline measures: ``Spots``, ``Spot intensity``
=====================  ================  ====================================================================

The file's metadata hold ``geo`` (GeoParquet; no coordinate reference system: these are pixels) and, where the
writer gives it, ``slidecascade``, the provenance that GeoJSON carries too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.outputs.cells.geojson import cell_ids, refuse_non_finite
from slidecascade.pipelines.classes import JOINT

COMPRESSION: Final = "zstd"
_HEADER: Final = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4")])
_POINT_BYTES: Final = 16
_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_GEO: Final = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None,
            "edges": "planar",
            "covering": {"bbox": {corner: ["bbox", corner] for corner in _CORNERS}},
        }
    },
}

Table: TypeAlias = Any  # pyarrow has no types
"""Rows of cells, see above."""


def table(analysis: Analysis) -> Table:
    """The cells of `analysis`.

    Raises:
        ModelFailedError: a coordinate, area or score is not a finite number.
    """
    refuse_non_finite(analysis)
    cells = analysis.instances
    is_physical = analysis.physical_mpp is not None
    names = np.array([end.name for end in analysis.classes.ends])
    columns: dict[str, pa.Array] = {
        "id": pa.array(cell_ids(analysis).astype("U36").tolist(), pa.string()),
        "geometry": _polygons(cells),
        "bbox": _boxes(cells),
        "class": pa.DictionaryArray.from_arrays(pa.array(analysis.class_index.astype(np.int32)), names.tolist()),
        "score": pa.array(cells.scores),
        "area_um2": pa.array(cells.areas * analysis.mpp**2, mask=np.full(len(cells), not is_physical)),
        "area_px": pa.array(cells.areas),
        "centroid_x": pa.array(np.ascontiguousarray(cells.centroids[:, 0])),
        "centroid_y": pa.array(np.ascontiguousarray(cells.centroids[:, 1])),
    }
    for name, (stage, place) in _probability_columns(analysis).items():
        values = np.ascontiguousarray(cells.probabilities[stage][:, place])
        columns[name] = pa.array(values, mask=np.isnan(values))
    columns |= {name: pa.array(column) for name, column in zip(analysis.measures, cells.measures, strict=True)}
    return pa.table(columns).replace_schema_metadata({b"geo": orjson.dumps(_GEO)})


def cells_of(rows: Table, analysis: Analysis) -> tuple[Instances, NDArray[np.int64]]:
    """The cells of a table that `table` made of an analysis like `analysis`, and the class each ends in.

    `analysis` says which models and classes there are; its own cells do not matter.
    """
    vertices, offsets = _rings(rows["geometry"].combine_chunks())
    probabilities = [
        np.full((rows.num_rows, len(model.classes)), np.nan, np.float32) for model in analysis.classifiers
    ]
    for name, (stage, place) in _probability_columns(analysis).items():
        probabilities[stage][:, place] = _floats(rows, name)
    instances = Instances(
        centroids=np.column_stack([_floats(rows, "centroid_x"), _floats(rows, "centroid_y")]),
        areas=_floats(rows, "area_px"),
        scores=_floats(rows, "score"),
        vertices=vertices,
        offsets=offsets,
        probabilities=tuple(probabilities),
        measures=tuple(_floats(rows, name) for name in analysis.measures),
    )
    return instances, class_index(rows, analysis)


def ids_of(rows: Table) -> NDArray[np.bytes_]:
    """``(N,)``: the ids as ASCII characters."""
    found: NDArray[np.bytes_] = rows["id"].to_numpy().astype("S36")
    return found


def class_index(rows: Table, analysis: Analysis) -> NDArray[np.int64]:
    """``(N,)``: the place of each cell's class in ``analysis.classes.ends``."""
    places = {end.name: index for index, end in enumerate(analysis.classes.ends)}
    column = rows["class"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # without rows there are no chunks
        return np.zeros(0, np.int64)
    translated = np.array([places[name] for name in column.dictionary.to_pylist()], np.int64)
    found: NDArray[np.int64] = translated[column.indices.to_numpy()]
    return found


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn of the rows of a file, without the analysis they come from.

    Attributes:
        classes: names of the classes that the file knows.
        vertices, offsets: open outlines end to end, and where each begins; level-0 pixels.
        class_index: ``(N,)`` index of `classes`.
        probability: ``(N,)`` of the class by the last network that looked, else the score.
    """

    classes: tuple[str, ...]
    vertices: NDArray[np.float64]
    offsets: NDArray[np.int64]
    class_index: NDArray[np.int64]
    probability: NDArray[np.float32]


def drawn(rows: Table) -> Drawn:
    """The outlines, classes and probabilities of `rows`."""
    column = rows["class"].combine_chunks()
    is_empty = isinstance(column, pa.ChunkedArray)  # without rows there are no chunks
    names = () if is_empty else tuple(column.dictionary.to_pylist())
    places = np.zeros(0, np.int64) if is_empty else column.indices.to_numpy().astype(np.int64)
    vertices, offsets = _rings(rows["geometry"].combine_chunks())
    probability = _floats(rows, "score").astype(np.float32)
    for place, name in enumerate(names):
        suffix = f" {name.rpartition(JOINT)[2]} probability"
        for title in rows.column_names:
            if title.endswith(suffix):
                values = _floats(rows, title)
                chosen = (places == place) & ~np.isnan(values)
                probability[chosen] = values[chosen]
    return Drawn(names, vertices, offsets, places, probability)


def centroids_and_areas(rows: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(N, 2)`` level-0 pixels, and ``(N,)`` square level-0 pixels."""
    centroids = np.column_stack([_floats(rows, "centroid_x"), _floats(rows, "centroid_y")])
    return centroids, _floats(rows, "area_px")


def with_flags(rows: Table, name: str, flags: NDArray[np.bool_]) -> Table:
    """`rows` with one more column of booleans."""
    return rows.append_column(name, pa.array(flags))


def flags_of(rows: Table, name: str) -> NDArray[np.bool_]:
    """A column that `with_flags` added."""
    flags: NDArray[np.bool_] = rows[name].to_numpy().astype(np.bool_)
    return flags


def select(rows: Table, keep: NDArray[np.bool_]) -> Table:
    """The rows where `keep` is set."""
    return rows.filter(pa.array(keep))


def without(rows: Table, name: str) -> Table:
    """`rows` less one column."""
    return rows.drop_columns([name])


def encode(rows: Table) -> bytes:
    """`rows` as a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression=COMPRESSION)
    return bytes(sink.getvalue())


def read(path: Path, columns: list[str] | None = None) -> Table:
    """The rows of a file, or some columns of it.

    Raises:
        ValueError: the file is missing, truncated or damaged.
    """
    try:
        return pq.read_table(path, columns=columns, memory_map=False, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ValueError("The file is missing, truncated or damaged.") from error


def within(path: Path, x: float, y: float, right: float, bottom: float) -> Iterator[Table]:
    """The rows whose bbox meets a box, given in level-0 pixels, row group by row group; others are not read.

    Raises:
        ValueError: the file is missing, truncated or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if _may_meet(file.metadata.row_group(group), x, y, right, bottom):
                    # A thread for each column saves no time here, and costs 20 to 30 MB of heaps.
                    rows = file.read_row_group(group, use_threads=False)
                    xmin, ymin, xmax, ymax = (side.to_numpy() for side in rows["bbox"].combine_chunks().flatten())
                    meets = (xmin < right) & (xmax > x) & (ymin < bottom) & (ymax > y)
                    yield rows if meets.all() else select(rows, meets)
    except (pa.ArrowException, OSError) as error:
        raise ValueError("The file is missing, truncated or damaged.") from error


def _may_meet(group: Any, x: float, y: float, right: float, bottom: float) -> bool:
    """Whether the statistics of a row group leave room for a row that meets the box."""
    ends = {}
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema.startswith("bbox.") and column.is_stats_set:
            ends[column.path_in_schema.removeprefix("bbox.")] = column.statistics
    if len(ends) < len(_CORNERS):
        return True
    return bool(
        ends["xmin"].min < right and ends["xmax"].max > x and ends["ymin"].min < bottom and ends["ymax"].max > y
    )


def stream(portions: Iterable[Table], first: Table, *, provenance: bytes) -> Iterator[bytes]:
    """A file of all `portions`, in pieces, each portion a row group; `first` is a table of the same columns.

    `provenance` is JSON, for the file's metadata. One portion is in memory at a time.
    """
    schema = first.schema.with_metadata({b"geo": orjson.dumps(_GEO), b"slidecascade": provenance})
    outbox = _Outbox()
    with pq.ParquetWriter(pa.PythonFile(outbox, mode="w"), schema, compression=COMPRESSION) as writer:
        for rows in portions:
            if rows.num_rows:
                writer.write_table(rows.cast(schema))
            yield outbox.take()
    yield outbox.take()


def stream_for_spatialdata(path: Path) -> Iterator[bytes]:
    """A file's rows as SpatialData's shapes and table need them, a row group in memory at a time: column names of
    letters, digits, ``_``, ``.`` and ``-``, the id as ``instance_id``, and in ``region`` the name of the shapes.

    Raises:
        ValueError: the file is missing, truncated or damaged, or two columns have the same name then.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError("The file is missing, truncated or damaged.") from error
    portions = map(_for_spatialdata, within(path, -np.inf, -np.inf, np.inf, np.inf))
    provenance = (schema.metadata or {}).get(b"slidecascade", b"{}")
    return stream(portions, _for_spatialdata(schema.empty_table()), provenance=provenance)


def _for_spatialdata(rows: Table) -> Table:
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "_", name) for name in rows.column_names]
    names[names.index("id")] = "instance_id"
    if len(set(names)) < len(names):
        raise ValueError("Two columns have the same name in SpatialData: rename a class.")
    region = pa.array(["cells"] * rows.num_rows, pa.string()).dictionary_encode()
    return rows.rename_columns(names).append_column("region", region)


class _Outbox:
    """Where a writer that only appends writes to."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def write(self, data: bytes, /) -> int:
        self._pieces.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _probability_columns(analysis: Analysis) -> dict[str, tuple[int, int]]:
    """The stage and the class of every column of probabilities, by its name."""
    return {
        f"{model.name} {name} probability": (stage, place)
        for stage, model in enumerate(analysis.classifiers)
        for place, name in enumerate(model.classes)
    }


def _polygons(cells: Instances) -> pa.Array:
    """The closed rings of all outlines as WKB."""
    counts = np.diff(cells.offsets) + 1
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(_HEADER.itemsize + _POINT_BYTES * counts, out=starts[1:])
    headers = np.zeros(len(counts), _HEADER)
    headers["order"], headers["kind"], headers["rings"], headers["points"] = 1, 3, 1, counts
    octets = np.empty(starts[-1], np.uint8)
    is_header = _header_places(starts)
    octets[is_header] = headers.view(np.uint8)
    rings = np.insert(cells.vertices, cells.offsets[1:], cells.vertices[cells.offsets[:-1]], axis=0)
    octets[~is_header] = np.ascontiguousarray(rings, "<f8").view(np.uint8).ravel()
    buffers = [None, pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(octets)]
    return pa.Array.from_buffers(pa.binary(), len(counts), buffers)


def _rings(polygons: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The vertices of open rings end to end, and the offsets of the rings."""
    if not len(polygons):
        return np.zeros((0, 2)), np.zeros(1, np.int64)
    _, raw_starts, raw_octets = polygons.buffers()
    starts = np.frombuffer(raw_starts, np.int32)[polygons.offset : polygons.offset + len(polygons) + 1]
    octets = np.frombuffer(raw_octets, np.uint8)[starts[0] : starts[-1]]
    starts = starts.astype(np.int64) - starts[0]
    points = octets[~_header_places(starts)].view("<f8").reshape(-1, 2).astype(np.float64, copy=False)
    counts = (np.diff(starts) - _HEADER.itemsize) // _POINT_BYTES
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts - 1, out=offsets[1:])
    return np.delete(points, np.cumsum(counts) - 1, axis=0), offsets


def _header_places(starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which bytes are those of a polygon's head; `starts` are the polygons' offsets."""
    places = np.zeros(starts[-1], np.bool_)
    places[(starts[:-1, None] + np.arange(_HEADER.itemsize)).ravel()] = True
    return places


def _boxes(cells: Instances) -> pa.Array:
    if len(cells):
        least = np.minimum.reduceat(cells.vertices, cells.offsets[:-1])
        most = np.maximum.reduceat(cells.vertices, cells.offsets[:-1])
        corners = np.column_stack([least, most])
    else:
        corners = np.zeros((0, 4))
    return pa.StructArray.from_arrays([pa.array(np.ascontiguousarray(side)) for side in corners.T], _CORNERS)


def _floats(rows: Table, name: str) -> NDArray[Any]:
    """A column of numbers, NaN where it is null."""
    values: NDArray[Any] = rows[name].to_numpy()
    return values
