"""What PyTorch raises, as sentences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Final

from slidecascade.errors import ConversionError
from slidecascade_convert.sessions import first_line

# torch's own errors are RuntimeErrors; damaged files also cause other errors in its readers.
RAISED: Final = (
    RuntimeError,
    UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)
_OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc")


@contextmanager
def failing_as(sentence: str) -> Iterator[None]:
    """Run without output, and convert errors of torch to `sentence`, with their first line in brackets.

    Raises:
        MemoryError: when torch runs out of memory.
        ConversionError: it raises anything else.
    """
    with warnings.catch_warnings():
        # Deprecations and tracer warnings concern the network's author; their effects are measured.
        warnings.simplefilter("ignore")
        try:
            yield
        except RAISED as error:
            if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
                raise MemoryError from error
            # The message of weights_only advises to disable it.
            detail = (
                "" if isinstance(error, UnpicklingError) else f" ({type(error).__name__}: {first_line(error)})"
            )
            raise ConversionError(sentence + detail) from error
