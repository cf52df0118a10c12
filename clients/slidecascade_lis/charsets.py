"""Character sets by MSH-18 (HL7 table 0211)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from slidecascade_lis.er7 import Delimiters, read_delimiters
from slidecascade_lis.rejection import DATA_TYPE, NOT_IN_TABLE, Place, RejectedMessageError, rejected

CODECS: Final = MappingProxyType(
    {
        "": "utf-8",
        "ASCII": "ascii",
        "UNICODE UTF-8": "utf-8",
        "UTF-8": "utf-8",
        "8859/1": "latin-1",
        "ISO-8859-1": "latin-1",
    }
)
"""Python's codecs by the value of MSH-18."""


def decoded(frame: bytes) -> str:
    """The text of a frame.

    Raises:
        RejectedMessageError: MSH-18 names another character set, or the bytes are not of the one it names.
    """
    name = declared(frame)
    codec = CODECS.get(name.upper())
    if codec is None:
        raise rejected(
            NOT_IN_TABLE,
            f"The character set {name[:40]!r} is not supported: send UNICODE UTF-8 or 8859/1.",
            Place("MSH", 1, 18),
        )
    try:
        return frame.decode(codec)
    except UnicodeDecodeError as error:
        text = f"Byte {error.start} of the message is not of the character set {name or 'UNICODE UTF-8'}."
        raise rejected(DATA_TYPE, text, Place("MSH", 1, 18)) from None


def encoded(text: str) -> bytes:
    """A message of this package in the character set of its MSH-18; letters not in it become question marks."""
    codec = CODECS.get(declared(text.encode("utf-8")).upper(), "utf-8")
    return text.encode(codec, "replace")


def declared(frame: bytes) -> str:
    """MSH-18 of the first message of a frame, or an empty text."""
    for line in frame[:65_536].replace(b"\n", b"\r").split(b"\r"):
        if line.startswith(b"MSH"):
            header = line.decode("latin-1")
            try:
                delimiters = read_delimiters(header, "MSH")
            except RejectedMessageError:
                return ""
            return _field(header, 18, delimiters)
    return ""


def _field(header: str, number: int, delimiters: Delimiters) -> str:
    fields = header.split(delimiters.field)
    content = fields[number - 1] if number <= len(fields) else ""
    return content.split(delimiters.repetition, 1)[0].strip()
