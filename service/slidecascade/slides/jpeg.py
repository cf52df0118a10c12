"""JPEG streams, decoded with the decoder's warnings heard. The only module that knows simplejpeg.

Where data is missing libjpeg fills with grey and only warns; Pillow, OpenCV and OpenSlide do not pass those
warnings on, so a scan that is cut and closed with an end marker looks whole to them. simplejpeg (libjpeg-turbo)
does, so here such a stream is damaged.

Not every warning is damage: an odd JFIF revision or scan parameter, and padding before the end marker, are found
in whole files. Not seen at all: a progressive image that was cut exactly between two scans, which is a valid
coarser image, and changed bytes that happen to be valid codes.
"""

from __future__ import annotations

import re
import struct

import simplejpeg

from slidecascade.geometry import Size
from slidecascade.slides.source import Rgb

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_SEQUENTIAL_FRAMES = (0xC0, 0xC1, 0xC9)
_APPLICATION_SEGMENTS = frozenset((*range(0xE0, 0xF0), 0xFE))
_USUAL_SAMPLINGS = frozenset({"444", "422", "420"})
_ADOBE_RGB = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, 0)
"""The segment that says that samples are red, green and blue (Adobe's technical note 5116)."""

_FEW_BYTES = 16
"""So many bytes before the end marker are padding, whatever they are: cameras write them."""

_DAMAGE = re.compile(r"Corrupt JPEG data|Premature end of JPEG")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_HARMLESS = re.compile(r"Invalid SOS parameters|unknown JFIF revision|Unknown Adobe color transform")


def encode(pixels: Rgb, *, quality: int) -> bytes:
    """``(H, W, 3)`` uint8 as a JPEG file with halved colour planes; `quality` from 1 to 100."""
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420"))


def decode(data: bytes) -> Rgb:
    """The pixels of a file that `encode` made."""
    pixels: Rgb = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return pixels


def decode_whole(data: bytes) -> tuple[Rgb | None, str | None]:
    """The pixels of a JPEG file and what is damaged in it, of which at least one is None.

    The pixels are those Pillow decodes. Both are None where this decoder cannot say more than that the stream is
    whole as far as it can follow it: CMYK, whose colours Pillow converts, and subsamplings it does not know.
    """
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("CMYK", "YCCK"):
            return simplejpeg.decode_jpeg(data, "RGB", strict=True), None
    except ValueError:
        pass  # of which `damage` makes sense
    return None, damage(data)


def decode_tile(data: bytes, size: Size, space: str) -> Rgb | None:
    """The pixels of a stream of `size` whose samples are ``RGB`` or ``YCbCr``, as `space` says.

    None where the stream is another one, or the decoder warns of anything.
    """
    try:
        if space == "RGB" and simplejpeg.decode_jpeg_header(data)[2] != space:
            data = data[:2] + _ADOBE_RGB + data[2:]  # slides say it in the TIFF's directory alone
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(data)
        if (width, height, colours) != (size.width, size.height, space) or sampling not in _USUAL_SAMPLINGS:
            return None
        pixels: Rgb = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None
    return pixels


def damage(data: bytes) -> str | None:
    """What the decoder says is damaged in a JPEG stream; None when it is whole, or cannot be judged.

    Decoded at an eighth of its size, which is about half the work: every code is still followed. A missing end
    marker is no damage when the scan before it is whole.
    """
    warning = _first_warning(data + _END)
    if warning is not None and _HARMLESS.search(warning):
        # The decoder names its first warning alone, and one that does not matter hides those that do.
        warning = _first_warning(_without_oddities(data) + _END)
    if warning is None or not _DAMAGE.search(warning) or _is_padding(data, warning):
        return None
    return warning.removeprefix("Corrupt JPEG data: ")


def with_tables(tables: bytes, abbreviated: bytes) -> bytes:
    """A stream that can be decoded alone, from an abbreviated one and the tables it shares (TIFF tag 347)."""
    if not tables.startswith(b"\xff\xd8"):
        return abbreviated
    return tables.removesuffix(_END) + abbreviated.removeprefix(b"\xff\xd8")


def _first_warning(data: bytes) -> str | None:
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        return str(error)
    return None


def _is_padding(data: bytes, warning: str) -> bool:
    """Whether the bytes before the end marker that belong to no code are filling: few, or all alike."""
    found = _EXTRANEOUS.search(warning)
    if found is None:
        return False
    count = int(found[1])
    end = data.find(_END, max(0, data.find(_SCAN)))
    return count <= _FEW_BYTES or len(set(data[max(0, end - count) : end])) <= 1


def _without_oddities(data: bytes) -> bytes:
    """The stream without application segments, its first scan with the parameters a sequential one has."""
    kept, position, sequential = [data[:2]], 2, False
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        segment = data[position : position + 2 + length]
        position += 2 + length
        sequential = sequential or marker in _SEQUENTIAL_FRAMES
        if marker == _SCAN[1]:
            kept.append(segment[:-3] + b"\x00\x3f\x00" if sequential else segment)
            break
        if marker not in _APPLICATION_SEGMENTS:
            kept.append(segment)
    return b"".join([*kept, data[position:]])
