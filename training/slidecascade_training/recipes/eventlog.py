"""Curves for TensorBoard, written without it: an event file is records of small protocol buffers.

Record: length (uint64), masked CRC-32C of the length, the bytes, their masked CRC-32C (TFRecord). Event: 1
wall_time (double), 2 step (int64), 3 file_version (text), 5 summary; summary: 1 value; value: 1 tag (text), 2
simple_value (float).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from slidecascade_training.staging import unwritable


class EventLog:
    """Appends to one event file in `folder`, a new one for each time a run starts or resumes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"events.out.tfevents.{time.time_ns() // 1000}.slidecascade"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        self._append(_event(step=0, rest=_text(3, "brain.Event:2")))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve.

        Raises:
            UnwritableOutputError: the disk is full.
        """
        summary = b"".join(
            _bytes(1, _text(1, tag) + _key(2, 5) + struct.pack("<f", value)) for tag, value in values.items()
        )
        self._append(_event(step=step, rest=_bytes(5, summary)))

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        record = length + _masked(length) + event + _masked(event)
        try:
            with self._path.open("ab") as file:
                file.write(record)
        except OSError as error:
            raise unwritable(self._folder, error) from error


def _event(*, step: int, rest: bytes) -> bytes:
    return _key(1, 1) + struct.pack("<d", time.time()) + _key(2, 0) + _varint(step) + rest


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _bytes(number: int, content: bytes) -> bytes:
    return _key(number, 2) + _varint(len(content)) + content


def _text(number: int, content: str) -> bytes:
    return _bytes(number, content.encode())


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    table = _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli), reflected."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - shifted out bit by bit
        table.append(value)
    return tuple(table)
