"""Detects external data in a serialised ONNX graph, without the onnx package.

ONNX Runtime loads external data from the working directory when a graph is given as bytes, so the sha256 of the
graph does not cover those weights. The field numbers are those of ``onnx.proto`` (ONNX IR version 14); the wire
format is that of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterator

_NESTED: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
"""Message types that contain tensors, and their fields of such types by number."""

_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def has_external_data(graph: bytes) -> bool:
    """Whether any tensor of a serialised ``ModelProto``, including nested graphs, refers to external data.

    Raises:
        ValueError: when `graph` is not a serialised protocol buffer.
    """
    # ONNX Runtime reads data with this mark as its own format, which can have external data too.
    if graph[4:8] == b"ORTM":
        raise ValueError("the graph is in ONNX Runtime's own format")
    # A stack instead of recursion: graphs can be nested deeper than Python's recursion limit.
    pending = [("Model", 0, len(graph))]
    while pending:
        kind, start, end = pending.pop()
        for field, wire_type, value, stop in _fields(graph, start, end):
            if wire_type == _BYTES and field in _NESTED[kind]:
                pending.append((_NESTED[kind][field], value, stop))
            if kind == "Tensor" and wire_type == _BYTES and field == _EXTERNAL_DATA:
                return True
            # Enum values are truncated to 32 bits.
            located = kind == "Tensor" and wire_type == _VARINT and field == _DATA_LOCATION
            if located and value & 0xFFFFFFFF == _EXTERNAL:
                return True
    return False


def _fields(graph: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, value, end) of each field of a message; for bytes `value` is their start."""
    position = start
    while position < end:
        key, position = _varint(graph, position, end)
        field, wire_type, value = key >> 3, key & 7, 0
        if wire_type == _VARINT:
            value, position = _varint(graph, position, end)
        elif wire_type == _BYTES:
            length, value = _varint(graph, position, end)
            position = value + length
        elif wire_type in (_FIXED32, _FIXED64):
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position > end or key >> 32 or field == 0:
            raise ValueError(f"field {field} at byte {position} is invalid")
        yield field, wire_type, value, position


def _varint(graph: bytes, position: int, end: int) -> tuple[int, int]:
    """The varint at `position`, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = graph[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError(f"unterminated varint at byte {position}")
