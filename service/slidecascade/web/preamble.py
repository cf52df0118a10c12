"""What may stand before the first boundary of a multipart form (RFC 2046, section 5.1.1)."""

from __future__ import annotations

import re
from typing import Final

from slidecascade.errors import MalformedRequestError

MAX_BYTES: Final = 2**16
"""Longest preamble: mail programs write one sentence."""


class Preamble:
    """Takes the preamble away from the beginning of a form while its body arrives."""

    def __init__(self, boundary: bytes) -> None:
        # A delimiter begins a line, and nothing but the end of the line, or of the form, follows it.
        self._delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(?=\r\n|--)")
        self._longest = len(boundary) + len(b"\r\n--\r\n")
        self._held = b""
        self.ended = False

    def without(self, chunk: bytes) -> bytes:
        """What of `chunk`, and of chunks held back before, belongs to the form.

        Raises:
            MalformedRequestError: when `MAX_BYTES` hold no delimiter.
        """
        if self.ended:
            return chunk
        held = self._held + chunk
        found = self._delimiter.search(held, max(0, len(self._held) - self._longest))
        if found is None:
            if len(held) > MAX_BYTES:
                raise MalformedRequestError("The body is not a multipart form with that boundary.")
            self._held = held
            return b""
        self.ended, self._held = True, b""
        return held[held.index(b"--", found.start()) :]
