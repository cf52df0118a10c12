"""Ids of slides: paths below a slide folder, percent-encoded where JSON, a URL or a log cannot carry a name."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes


def id_of(relative_path: str) -> str:
    """The id of the slide at `relative_path`, a name as the system decodes it (PEP 383).

    Most names are their own id. In one that holds a control character, a backslash or bytes that are not UTF-8,
    each such byte and each percent sign is written as ``%`` and two hexadecimal digits: ``a%0Ab.svs``. So is each
    percent sign of a name that looks like such an id, for no two slides have the same.
    """
    if any(map(_is_special, relative_path)) or _decoded(relative_path) is not None:
        return _encoded(relative_path)
    return relative_path


def path_of(slide_id: str) -> str | None:
    """The path of this id; None for an id with a path outside the folder."""
    if any(map(_is_special, slide_id)):
        return None
    decoded = _decoded(slide_id)
    path = slide_id if decoded is None else decoded
    return path if _is_downward(path) else None


def _decoded(slide_id: str) -> str | None:
    """What `slide_id` is the encoded form of, or None."""
    if "%" not in slide_id:
        return None
    name = os.fsdecode(unquote_to_bytes(slide_id))
    if name == slide_id or _encoded(name) != slide_id:
        return None
    return name if any(map(_is_special, name)) or _decoded(name) is not None else None


def _encoded(name: str) -> str:
    return "".join(
        "".join(f"%{byte:02X}" for byte in os.fsencode(character))
        if character == "%" or _is_special(character)
        else character
        for character in name
    )


def _is_downward(relative_path: str) -> bool:
    """Whether it is a relative path in its shortest form that goes down only."""
    path = PurePosixPath(relative_path)
    in_shortest_form = relative_path == path.as_posix() and "\0" not in relative_path
    return in_shortest_form and not path.is_absolute() and ".." not in path.parts


def _is_special(character: str) -> bool:
    return character < " " or character in "\\\x7f" or "\ud800" <= character <= "\udfff"
