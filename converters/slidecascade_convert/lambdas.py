"""Recognises Lambda layers without running them.

Keras 2 stores a Lambda's function as marshalled bytecode. Unmarshalling bytes that someone else wrote is unsafe
(and those of Python 3.6 cannot be read today at all), so the bytes are compared with a few exact patterns: the
whole body of a function that divides or multiplies its one argument by one constant. What matches is known to
rescale; others are rejected unless the caller states their function.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct

# Marshal writes each value as a type byte (with or without the high "shared" bit) and its content. A code object
# begins with 5 or 6 32-bit numbers (which depends on the Python version), then the instructions as a string, then
# the tuple of constants. The constants of a lambda are (None, its number).
_CODE = re.compile(
    rb"[\x63\xe3](?:.{20}|.{24})[\x73\xf3]"
    rb"(?:"
    # Python 3.6 to 3.10: LOAD_FAST 0, LOAD_CONST 1, BINARY_TRUE_DIVIDE or BINARY_MULTIPLY, RETURN_VALUE.
    rb"\x08\0\0\0\x7c\0\x64\x01(?P<old>[\x1b\x14])\0\x53\0"
    # Python 3.11: the same after RESUME, with BINARY_OP and its cache.
    rb"|\x0c\0\0\0\x97\0\x7c\0\x64\x01\x7a(?P<new>[\x0b\x05])\0\0\x53\0"
    rb")"
    rb"[\x29\xa9]\x02[\x4e\xce](?:[\x69\xe9](?P<whole>.{4})|[\x67\xe7](?P<real>.{8}))",
    re.DOTALL,
)
_DIVISIONS = (b"\x1b", b"\x0b")
# One argument and no others; the second number is 0 in every version (keyword-only or positional-only arguments).
_ONE_ARGUMENT = struct.pack("<ii", 1, 0)


def rescaling_of(encoded: str) -> float | None:
    """The factor by which a marshalled function multiplies its argument; None if it is not recognised.

    Args:
        encoded: the function as Keras 2 writes it, base64 of its marshalled code.
    """
    try:
        marshalled = base64.b64decode(encoded, validate=False)
    except (binascii.Error, ValueError):
        return None
    match = _CODE.match(marshalled)
    if match is None or marshalled[1:9] != _ONE_ARGUMENT:
        return None
    if match["whole"] is not None:
        number = float(struct.unpack("<i", match["whole"])[0])
    else:
        number = float(struct.unpack("<d", match["real"])[0])
    is_division = (match["old"] or match["new"]) in _DIVISIONS
    if number == 0 or not math.isfinite(number):
        return None
    return 1 / number if is_division else number
