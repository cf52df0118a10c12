"""The preamble before the first boundary of a multipart form (RFC 2046, section 5.1.1)."""

from __future__ import annotations

import re
from typing import Final

from slidecascade.errors import MalformedRequestError

MAX_BYTES: Final = 2**16
"""Maximum length of a preamble; mail programs write one sentence."""


class Preamble:
    """Removes the preamble of a form while its body arrives."""

    def __init__(self, boundary: bytes) -> None:
        # A delimiter is a line of its own; the last one is followed by the end of the form.
        self._delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(?=\r\n|--)")
        self._longest = len(boundary) + len(b"\r\n--\r\n")
        self._held = b""
        self.ended = False

    def without(self, chunk: bytes) -> bytes:
        """The part of `chunk`, and of chunks buffered before, that belongs to the form.

        Raises:
            MalformedRequestError: when the first `MAX_BYTES` contain no delimiter.
        """
        if self.ended:
            return chunk
        held = self._held + chunk
        found = self._delimiter.search(held, max(0, len(self._held) - self._longest))
        if found is None:
            if len(held) > MAX_BYTES:
                raise MalformedRequestError(
                    "The body is not a multipart form with the stated boundary: correct Content-Type or the body."
                )
            self._held = held
            return b""
        self.ended, self._held = True, b""
        return held[held.index(b"--", found.start()) :]
