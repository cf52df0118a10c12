"""Headers of image files: sizes known before decoding, and truncated files."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidecascade.errors import UndecodableImageError
from slidecascade.geometry import Size
from slidecascade.slides.imageheader import read_header
from unwritten_slide import write_unwritten

PIXELS = np.random.default_rng(7).integers(0, 256, (37, 53, 3), np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(stream, kind, **options)
    return stream.getvalue()


def encoded_tiff(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def huge_png(side: int) -> bytes:
    """A valid black PNG of `side` x `side` one-bit pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj()
    row = b"\0" * (1 + side // 8)
    data = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


FILES = {
    "png": encoded("PNG"),
    "png interlaced": encoded("PNG", Image.fromarray(PIXELS).convert("P")),
    "jpeg": encoded("JPEG"),
    "jpeg progressive": encoded("JPEG", progressive=True, exif=b"Exif\0\0junk"),
    "webp lossy": encoded("WEBP"),
    "webp lossless": encoded("WEBP", lossless=True),
    "webp extended": encoded("WEBP", icc_profile=b"profile", lossless=True),
    "tiff": encoded("TIFF"),
    "tiff lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff big-endian": encoded_tiff(PIXELS, photometric="rgb", byteorder=">"),
    "tiff big": encoded_tiff(PIXELS, photometric="rgb", bigtiff=True),
    "tiff tiled": encoded_tiff(PIXELS, photometric="rgb", tile=(16, 16), compression="zlib"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_read_from_the_header(name: str) -> None:
    """Format, size and depth of every kind of file are those of the image that was saved."""
    header = read_header(FILES[name])

    assert header.media_type == f"image/{name.partition(' ')[0]}"
    assert (header.size, header.bits, header.orientation) == (Size(53, 37), 8, 1)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused(name: str) -> None:
    """Wherever a file is cut inside its pixels, its header reader notices."""
    data = FILES[name]
    for length in range(0, len(data) - 1, 97):
        with pytest.raises(UndecodableImageError):
            read_header(data[:length])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_read_from_exif(kind: str, orientation: int) -> None:
    """EXIF orientations 1 to 8 are found in every format that leaves them to the reader."""
    exif = Image.Exif()
    exif[274] = orientation

    assert read_header(encoded(kind, exif=exif)).orientation == orientation


def test_a_nonsense_orientation_counts_as_upright() -> None:
    """EXIF blocks that are damaged or state an orientation of 9 do not get in the way."""
    exif = Image.Exif()
    exif[274] = 9

    assert read_header(encoded("PNG", exif=exif)).orientation == 1
    assert read_header(encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).orientation == 1


def test_a_huge_image_is_measured_in_milliseconds() -> None:
    """A PNG of 100 kB with 30,000 x 30,000 pixels is measured without being decoded."""
    data = huge_png(30_000)
    started = time.process_time()

    header = read_header(data)

    assert header.size == Size(30_000, 30_000)
    assert len(data) < 300_000
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no bytes"),
        (b"This is a letter to the editor.", "not a PNG"),
        (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0", "not a PNG"),
        (b"GIF89a\x01\0\x01\0", "not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8\xff\xe0\0\x02no marker here", "damaged in its header"),
        (b"II*\0", "truncated"),
        (b"II*\0\xff\xff\xff\xff", "truncated"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, "truncated"),
        (encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (53, 37))]), "animation"),
        (encoded_tiff(PIXELS[..., 0].astype(np.float32)), "8 or 16 bits"),
        (encoded_tiff(np.zeros((5, 37, 53), np.uint8), photometric="minisblack"), "stack of pages"),
        (encoded_tiff(PIXELS.astype(np.uint16), photometric="rgb", planarconfig="separate"), "16-bit TIFF"),
        (encoded_tiff(PIXELS[..., 0].astype(np.uint16), photometric="miniswhite"), "16-bit TIFF"),
    ],
)
def test_what_is_not_read_here_is_said_in_a_sentence(data: bytes, said: str) -> None:
    """Empty, foreign, damaged and unsupported files each get their own explanation."""
    with pytest.raises(UndecodableImageError, match=said):
        read_header(data)


def test_a_png_of_zero_width_is_refused() -> None:
    """A header that states zero pixels never reaches a decoder."""
    data = bytearray(FILES["png"])
    data[16:20] = bytes(4)

    with pytest.raises(UndecodableImageError, match="zero pixels"):
        read_header(bytes(data))


def test_a_pyramid_is_read_by_its_first_image() -> None:
    """A TIFF whose later pages are smaller is no stack: its first page counts."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(PIXELS, photometric="rgb")
        writer.write(PIXELS[::2, ::2], photometric="rgb")

    assert read_header(stream.getvalue()).size == Size(53, 37)


def png_of_chunks(count: int) -> bytes:
    """A PNG with `count` empty chunks before its pixels."""
    plain = encoded("PNG")
    empty = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return plain[:33] + empty * count + plain[33:]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    plain = encoded("JPEG", progressive=True)
    scan = plain[plain.rfind(b"\xff\xda") : -2]
    return plain[:-2] + scan * (count - plain.count(b"\xff\xda")) + plain[-2:]


@pytest.mark.parametrize(
    "data",
    [
        png_of_chunks(2_000_000),
        encoded("JPEG")[:2] + b"\xff\xfe\0\2" * 2_000_000 + encoded("JPEG")[2:],
        encoded("JPEG")[:-2] + b"\xff\xfe\0\2" * 2_000_000 + encoded("JPEG")[-2:],
    ],
    ids=["png", "jpeg header", "jpeg scan"],
)
def test_a_file_of_millions_of_parts_is_refused(data: bytes) -> None:
    """No file keeps the reader busy with parts that hold nothing."""
    started = time.process_time()
    with pytest.raises(UndecodableImageError, match="far more parts"):
        read_header(data)
    assert time.process_time() - started < 1.0


def test_a_long_run_of_fill_bytes_is_passed_in_one_step() -> None:
    """Fill bytes before a marker are allowed in any number and cost nothing."""
    plain = encoded("JPEG")
    started = time.process_time()
    assert read_header(plain[:2] + b"\xff" * 5_000_000 + plain[2:]).size == Size(53, 37)
    with pytest.raises(UndecodableImageError):
        read_header(plain[:2] + b"\xff" * 5_000_000 + b"\0" * 100)
    assert time.process_time() - started < 1.0


def test_a_jpeg_has_at_most_100_scans() -> None:
    """Each scan is a pass over the whole image: more than any encoder writes are refused with a sentence."""
    assert read_header(jpeg_of_scans(100)).size == Size(53, 37)
    with pytest.raises(UndecodableImageError, match="101 scans, at most 100"):
        read_header(jpeg_of_scans(101))


def test_scans_after_a_false_end_are_counted() -> None:
    """An end marker inside a comment is not the end, and what looks like scans in a comment is none."""
    data = jpeg_of_scans(101)
    second = data.rfind(b"\xff\xda")
    hidden = data[:second] + b"\xff\xfe\0\4\xff\xd9" + data[second:]
    with pytest.raises(UndecodableImageError, match="101 scans"):
        read_header(hidden)
    plain = encoded("JPEG")
    comment = b"\xff\xda" * 300
    assert read_header(plain[:2] + b"\xff\xfe" + struct.pack(">H", 602) + comment + plain[2:]).size.width == 53


def test_only_the_tags_in_use_are_kept() -> None:
    """Thousands of tags that all claim the whole file as their values cost no memory."""
    entries = b"".join(struct.pack("<HHII", 40_000 + index, 1, 1_000_000, 0) for index in range(4_000))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 4_000) + entries + bytes(1_000_004)
    tracemalloc.start()
    with pytest.raises(UndecodableImageError):
        read_header(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_strips_without_bytes_are_named(tmp_path: Path) -> None:
    """What a writer leaves that died after the directory: an upload of it is refused with the reason."""
    write_unwritten(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), tile_px=32, unwritten=3)

    with pytest.raises(UndecodableImageError, match="no stored pixels in 3 of its 4 strips or tiles"):
        read_header((tmp_path / "a.tif").read_bytes())
