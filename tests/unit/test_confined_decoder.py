"""Uploads are decoded in processes that may do nothing else, with the same pixels and the same sentences."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import odd_images
import proc
from slidecascade import logs, wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import NotReadyError, UndecodableImageError, UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.settings import Settings
from slidecascade.slides import confineddecoder, confinedprocess
from slidecascade.slides.canvas import UNWATCHED
from slidecascade.slides.confineddecoder import ConfinedDecoder
from slidecascade.slides.decoder import DirectDecoder
from slidecascade.slides.frame import decode_frame, pixels_of
from slidecascade.slides.source import Rgb
from slidecascade.slides.stack import DecodedParts, decode_strip, stack_in
from slidecascade.slides.upload import EncodedImage, open_image
from slidecascade.timing import Silent
from toy_channels import GREY, tiff, write_pipeline

HAS_FILTERS = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")

FORBIDDEN = """
import os, resource, socket, sys
from slidecascade.confinement import forbid_files, leave_network
from slidecascade.seccomp import filter_calls

def tries():
    yield "read a file", lambda: open("/etc/hostname").read()
    yield "write a file", lambda: open("written", "w")
    yield "list a folder", lambda: os.listdir("/")
    yield "open a socket", socket.socket
    yield "make a pair of sockets", socket.socketpair
    yield "start a process", os.fork
    yield "run a program", lambda: os.execv("/bin/true", ["true"])
    yield "signal another process", lambda: os.kill(os.getppid(), 0)
    yield "make memory with a name", lambda: os.memfd_create("x")
    yield "remove a file", lambda: os.unlink("kept")
    yield "raise a limit", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))
    yield "be scheduled before others", lambda: os.nice(-1)

steps = {"network": leave_network, "files": forbid_files, "calls": filter_calls}
names = sys.argv[1].split(",")
done = [steps[name]() for name in names]
print(all(done))
for name, attempt in tries():
    try:
        attempt()
        print(name)
    except (OSError, ValueError):
        pass
"""


class Recorder:
    """Keeps what it is notified of, and does `then` at each row."""

    def __init__(self, then: Callable[[int], None] = lambda _rows: None) -> None:
        self.rows: list[int] = []
        self.place: Rgb | None = None
        self._then = then

    def begun(self, rgb: Rgb) -> None:
        self.place = rgb

    def reached(self, rows: int) -> None:
        self.rows.append(rows)
        self._then(rows)


class Killer(Recorder):
    """Kills a process as soon as it has been given an image."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    def begun(self, rgb: Rgb) -> None:
        os.kill(self._pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def decoder() -> Iterator[ConfinedDecoder]:
    made = ConfinedDecoder(1, retry_after_s=1, died=lambda: None)
    yield made
    made.close()


def image(data: bytes) -> EncodedImage:
    return open_image(data, max_px=10**9)


def large() -> EncodedImage:
    """Of many bands."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1500, 3), np.uint8)
    return image(odd_images.saved("PNG", Image.fromarray(noise)))


@pytest.mark.parametrize("name", [*odd_images.READ, *odd_images.TURNED])
def test_the_pixels_are_those_decoded_in_this_process(decoder: ConfinedDecoder, name: str) -> None:
    """Bit for bit, in every format and however oddly it is stored."""
    encoded = image({**odd_images.READ, **odd_images.TURNED}[name])
    if encoded.stack is None:
        assert np.array_equal(decoder.pixels(encoded), encoded.decode_watched(UNWATCHED))


@pytest.mark.parametrize("name", odd_images.REFUSED)
def test_damage_is_refused_in_the_same_words(decoder: ConfinedDecoder, name: str) -> None:
    """The sentence of the decoder, which stays alive."""
    data, words = odd_images.REFUSED[name]
    with pytest.raises(UndecodableImageError) as found:
        decoder.pixels(image(data))
    assert words in found.value.detail
    assert "the decoder ended" not in found.value.detail


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_numbers_of_a_mask_are_those_stored(decoder: ConfinedDecoder, dtype: str) -> None:
    """Of 8 and of 16 bits, in a process as in this one; colours and damage are refused in the same words."""
    labels = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (700, 900)).astype(dtype)
    whole = odd_images.saved("PNG", Image.fromarray(labels))
    for way in (decoder, DirectDecoder()):
        assert np.array_equal(way.mask(image(whole)), labels)
    coloured = odd_images.saved("PNG", Image.fromarray(np.zeros((4, 4, 3), np.uint8)))
    cut = whole[:200] + bytes(200) + whole[400:]
    for wrong, words in ((coloured, "not a grey image"), (cut, "damaged")):
        for way in (decoder, DirectDecoder()):
            with pytest.raises(UndecodableImageError, match=words):
                way.mask(image(wrong))


def test_rows_are_reported_while_the_rest_is_decoded(decoder: ConfinedDecoder) -> None:
    """In the array that is returned, which cannot be written to."""
    seen: list[bool] = []
    encoded = large()
    whole = encoded.decode_watched(UNWATCHED)
    watch = Recorder(lambda rows: seen.append(np.array_equal(watch.place[:rows], whole[:rows])))  # type: ignore[index]
    pixels = decoder.pixels(encoded, watch)
    assert pixels is watch.place
    assert not pixels.flags.writeable
    assert watch.rows == sorted(watch.rows)
    assert len(watch.rows) > 3
    assert watch.rows[-1] == 2000
    assert all(seen)


def test_a_killed_process_takes_one_image_with_it() -> None:
    """The image gets a sentence, the next one is decoded by another process."""
    deaths: list[int] = []
    decoder = ConfinedDecoder(1, retry_after_s=1, died=lambda: deaths.append(1))
    try:
        first = _pid(decoder, large())
        os.kill(first, signal.SIGSTOP)  # so that it is not faster
        with pytest.raises(UndecodableImageError, match="the decoder ended on it"):
            decoder.pixels(large(), Killer(first))
        assert deaths == [1]
        assert _pid(decoder, large()) != first
        assert deaths == [1]
    finally:
        decoder.close()


def test_a_decoder_that_cannot_be_started_anew_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """While descriptors lack, images are to be sent again; none of the processes is lost."""

    def fail(*_arguments: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    decoder = ConfinedDecoder(1, retry_after_s=1, died=lambda: None)
    try:
        first = _pid(decoder, large())
        with monkeypatch.context() as patched:
            patched.setattr(confineddecoder, "shared_memory", fail)
            with pytest.raises(NotReadyError, match="Too many open files"):
                decoder.pixels(large())
        assert _pid(decoder, large()) == first
        os.kill(first, signal.SIGSTOP)
        with monkeypatch.context() as patched:
            patched.setattr(confinedprocess, "_start", fail)
            with pytest.raises(UndecodableImageError, match="the decoder ended on it"):
                decoder.pixels(large(), Killer(first))
            for _ in range(2):
                with pytest.raises(NotReadyError):
                    decoder.pixels(large())
        assert _pid(decoder, large()) != first
    finally:
        decoder.close()


STACKS: dict[str, dict[str, Any]] = {
    "one strip each": {"compression": "zlib", "rowsperstrip": 70},
    "deflate and differences": {"compression": "zlib", "predictor": True},
    "tiles": {"compression": "zlib", "tile": (32, 32)},
    "samples of a pixel": {"compression": "zlib", "planarconfig": "contig"},
}


def stack_of(dtype: str, options: dict[str, Any]) -> bytes:
    counts = np.random.default_rng(7).integers(0, 250, (3, 70, 50)).astype(dtype)
    if options.get("planarconfig"):
        return tiff(np.moveaxis(counts, 0, 2), **GREY, **options)
    return tiff(counts, **GREY, **options)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("name", STACKS)
def test_strips_of_a_stack_are_decoded_as_in_this_process(decoder: ConfinedDecoder, name: str, dtype: str) -> None:
    """With the same counts, and for damage with the same sentence."""
    data = stack_of(dtype, STACKS[name])
    direct = stack_in(data)
    assert direct is not None
    confined = replace(direct, decode_strip=decoder.strip, decoded=DecodedParts())
    whole = Box(0, 0, direct.level_sizes[0].width, direct.level_sizes[0].height)
    assert np.array_equal(confined.read(0, whole, (0, 1, 2)), direct.read(0, whole, (0, 1, 2)))
    for way in (decode_strip, decoder.strip):
        with pytest.raises(UndecodableImageError, match="cannot be decoded: it is damaged or compressed"):
            way(b"II*\0" + data[4:90], direct.level_sizes[0], dtype)


@pytest.mark.parametrize("form", ["JPEG", "JPEG2000"])
def test_frames_are_decoded_as_in_this_process(decoder: ConfinedDecoder, form: str) -> None:
    """With the same pixels, and for damage and other sizes with the same sentence."""
    pixels = np.random.default_rng(5).integers(0, 256, (48, 64, 3), np.uint8)
    data, size = odd_images.saved(form, Image.fromarray(pixels)), Size(64, 48)
    assert np.array_equal(decoder.frame(data, size), decode_frame(data, size))
    for broken, stated in ((data[:100], size), (data, Size(48, 64))):
        with pytest.raises(UndecodableImageError) as ours:
            decode_frame(broken, stated)
        with pytest.raises(UndecodableImageError) as theirs:
            decoder.frame(broken, stated)
        assert theirs.value.detail == ours.value.detail


def test_an_exception_while_decoding_is_logged_by_its_place(
    decoder: ConfinedDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    """By its type and the place in the code: messages may hold what the file says."""
    encoded = image(odd_images.saved("PNG", Image.new("L", (8, 8))))
    other = replace(encoded, header=replace(encoded.header, size=Size(5, 3)))
    with pytest.raises(UndecodableImageError, match="the decoder ended on it"):
        decoder.mask(other)
    (record,) = (each for each in caplog.records if each.message == "decoder ended")
    line = json.loads(logs.JsonFormatter().format(record))
    assert line["reason"] == "an exception was raised"
    assert line["raised"][0]["type"] == "ValueError"
    assert line["raised"][0]["frames"][-1].startswith("slides/maskpng.py:")
    assert "broadcast" not in json.dumps(line)


def test_frames_of_a_server_are_given_to_the_decoder() -> None:
    """What is compressed alone: plain pixels are copied."""
    given: list[bytes] = []

    def decode(data: bytes, size: Size) -> Rgb:
        given.append(data)
        return np.zeros((size.height, size.width, 3), np.uint8)

    compressed = odd_images.saved("JPEG", Image.new("RGB", (8, 8)))
    assert pixels_of(compressed, Size(8, 8), decode).shape == (8, 8, 3)
    assert (pixels_of(b"\1" * 192, Size(8, 8), decode) == 1).all()
    assert given == [compressed]


@pytest.mark.parametrize("first", [b"\xff\xd8\xe6", b"\xff\x4f\xff\x51\0\0"])
def test_a_frame_of_plain_pixels_may_begin_as_a_compressed_one(decoder: ConfinedDecoder, first: bytes) -> None:
    """What has the length of its pixels is plain unless it can be decoded; another length is damage."""
    plain = (first * 64 * 64)[: 3 * 64 * 64]
    for decode in (decode_frame, decoder.frame):
        pixels = pixels_of(plain + b"\0", Size(64, 64), decode)
        assert (pixels.shape, pixels.tobytes()) == ((64, 64, 3), plain)
        with pytest.raises(UndecodableImageError):
            pixels_of(plain[:-1], Size(64, 64), decode)


def test_a_stack_and_a_slide_of_channels_are_given_to_the_decoder(tmp_path: Path) -> None:
    """A decoder that ends on a strip ends the request, with the sentence for it, whoever sent the stack."""

    class Ending(DirectDecoder):
        def strip(self, data: bytes, size: Size, dtype: str) -> NDArray[Any]:
            raise UndecodableImageError(f"the decoder ended on {len(data) > 0} {size} {dtype}")

    write_pipeline(tmp_path, "toy-nuclear", ["nuclear"])
    (tmp_path / "slides").mkdir()
    data = stack_of("uint16", STACKS["tiles"])
    (tmp_path / "slides" / "a.tif").write_bytes(data)
    settings = Settings(
        models_dir=tmp_path / "models", pipelines_dir=tmp_path / "pipelines", slide_roots=(tmp_path / "slides",)
    )
    analyser = Analyser(settings, observer=Silent(), decoder=Ending())
    fields: dict[str, Any] = {"pipeline": "toy-nuclear", "mpp": 0.5, "channels": {"nuclear": 0}}
    try:
        for slide, image in ((None, data), ("a.tif", None)):
            request = wire.parse_request(fields if slide is None else fields | {"slide": slide})
            with pytest.raises(UnreadableSlideError, match="the decoder ended on True"):
                analyser.analyse(request, image, Control())
            with (
                analyser.prepare(request, image, Control()).open_source() as source,
                pytest.raises(UnreadableSlideError, match="the decoder ended on True"),
            ):
                source.read_channels(0, Box(0, 0, 8, 8), (0,))
    finally:
        analyser.close()


def test_an_image_that_is_not_wanted_any_more_is_left(decoder: ConfinedDecoder) -> None:
    """What the watch raises is raised, and the process is used again."""
    before = _pid(decoder, large())

    def leave(_rows: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        decoder.pixels(large(), Recorder(leave))
    assert _pid(decoder, large()) == before


@pytest.mark.skipif(not HAS_FILTERS, reason="seccomp's table is for x86-64 and Arm on Linux")
@pytest.mark.parametrize("steps", ["network,files,calls", "files,calls", "calls"])
def test_a_confined_process_cannot(tmp_path: Path, steps: str) -> None:
    """Open files or sockets, start programs, signal others or raise limits, by system calls alone already."""
    (tmp_path / "kept").touch()
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, steps],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    applied, *succeeded = done.stdout.splitlines()
    if applied != "True":
        pytest.skip(f"this kernel lacks one of {steps}")
    assert succeeded == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.skipif(not HAS_FILTERS, reason="seccomp's table is for x86-64 and Arm on Linux")
def test_a_decoder_is_confined(decoder: ConfinedDecoder) -> None:
    """Seen from outside: filtered, without new rights, with limits for the image it decoded last."""
    status, lowest = proc.confinement(_pid(decoder, large()))
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert lowest["Max file size"] == lowest["Max core file size"] == "0"
    assert int(lowest["Max data size"]) < 2**30
    assert int(lowest["Max cpu time"]) < 1000


def test_more_memory_than_the_header_says_ends_the_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the process is that of the header."""
    monkeypatch.setattr(confineddecoder, "_SPARE_BYTES", 0)
    decoder = ConfinedDecoder(1, retry_after_s=1, died=lambda: None)
    try:
        with pytest.raises(UndecodableImageError, match="the decoder ended on it"):
            decoder.pixels(large())
    finally:
        decoder.close()


@pytest.mark.parametrize(
    "answer",
    [
        b'{"kind": "reached", "rows": 1000000}',
        b'{"kind": "reached", "rows": -1}',
        b'{"kind": "ended", "damage": "' + b"x" * 3000 + b'"}',
        b'{"kind": "confined", "network": true, "files": true, "calls": true}',
        b"not json",
        b"\xff" * 100,
    ],
)
def test_a_process_that_lies_is_replaced(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """What it says is validated, and ends in the sentence."""
    monkeypatch.setattr(confineddecoder, "_PROGRAM", "lying_decoder")
    decoder = ConfinedDecoder(1, retry_after_s=1, died=lambda: None)
    try:
        with pytest.raises(UndecodableImageError, match="the decoder ended on it"):
            decoder.pixels(image(odd_images.saved("PNG") + b"ANSWER" + answer))
    finally:
        decoder.close()


def test_what_a_decoder_says_of_damage_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters would reach logs and terminals."""
    monkeypatch.setattr(confineddecoder, "_PROGRAM", "lying_decoder")
    decoder = ConfinedDecoder(1, retry_after_s=1, died=lambda: None)
    try:
        with pytest.raises(UndecodableImageError) as found:
            decoder.pixels(image(odd_images.saved("PNG") + rb'ANSWER{"kind": "ended", "damage": "a\n\u001b[2Jb"}'))
        assert found.value.detail == "a[2Jb"
    finally:
        decoder.close()


def test_a_decoder_that_cannot_start_asks_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is no fault of the image."""
    monkeypatch.setattr(confineddecoder, "_PROGRAM", "slidecascade.no_such_module")
    decoder = ConfinedDecoder(1, retry_after_s=7, died=lambda: None)
    try:
        with pytest.raises(NotReadyError) as found:
            decoder.pixels(image(odd_images.saved("PNG")))
        assert found.value.retry_after_s == 7
    finally:
        decoder.close()


def _pid(decoder: ConfinedDecoder, encoded: EncodedImage) -> int:
    """The process that decodes an image, of a decoder with one."""
    decoder.pixels(encoded)
    (pid,) = decoder.pids
    return pid


def test_limits_are_lowered_only() -> None:
    """A limit that is lower already stays."""
    code = (
        "import resource; from slidecascade.confinement import limit\n"
        "limit(resource.RLIMIT_CORE, 0); limit(resource.RLIMIT_CORE, 9)\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 0)"
