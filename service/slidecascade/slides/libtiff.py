"""libtiff as Pillow brings it, which writes to stderr, between the lines of the log, what it thinks of a file."""

from __future__ import annotations

import ctypes
import functools
from contextlib import suppress

from PIL import _imaging


@functools.cache
def silence() -> None:
    """Let libtiff's messages go nowhere, once for the process: Pillow raises on what matters, and names it not.

    Pillow has no setting for it. The handlers are looked up through Pillow's own library, so it is the copy that
    Pillow uses, wherever that comes from; where it is not a shared one, its messages stay.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
