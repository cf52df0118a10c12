"""Slides are read in processes that may do nothing else, with the same pixels and the same sentences."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

import odd_slides
import proc
from cut_jpeg import cut_parts, tiled_jpeg_tiff
from plain_slide import write_slide
from slidecascade import logs
from slidecascade.errors import NotReadyError, UnreadableSlideError
from slidecascade.geometry import Box, Size
from slidecascade.slides import confinedslide, confinedslides
from slidecascade.slides.confinedprocess import EndedError
from slidecascade.slides.confinedslide import ConfinedSlide, SlideProcess, _Channel, receive
from slidecascade.slides.confinedslides import ConfinedSlides
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.openslides import DirectSlides, SlideOpener
from slidecascade.slides.slide import Slide
from slidecascade.slides.slideinfo import SlideInfo
from slidecascade.slides.slideprocess import _Reader
from slidecascade.slides.slidetask import ANSWER, Answer, Eighth, Look, Looked, Opened, Read
from slidecascade.slides.source import Rgb
from slidecascade.slides.store import SlideStore

HAS_LANDLOCK = sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) > 0
"""Whether the kernel states a version of it (landlock_create_ruleset)."""

HAS_FILTERS = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
ENDED = "the process that read it ended"
ORIGIN = Box(0, 0, 40, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, of which one is read without OpenSlide where boxes are large."""
    made = tmp_path_factory.mktemp("slides")
    noise = np.random.default_rng(3).integers(0, 256, (700, 900, 3), np.uint8)
    (made / "jpeg.tif").write_bytes(tiled_jpeg_tiff(noise, 128))
    tifffile.imwrite(made / "deflated.tif", noise, tile=(128, 128), photometric="rgb", compression="zlib")
    return made


class Deaths:
    """Counts processes that have ended."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def slides(deaths: Deaths) -> Iterator[ConfinedSlides]:
    opener = ConfinedSlides(retry_after_s=1, died=deaths)
    yield opener
    opener.close()


def opened(opener: SlideOpener, path: Path) -> FileSlide:
    file = HeldFile.below(path.parent, path)
    try:
        return opener.open(file, path)
    finally:
        file.close()


def outcome(read: Callable[[], object]) -> object:
    """What `read` returns, or the sentence of what it raises."""
    try:
        return read()
    except UnreadableSlideError as error:
        return error.detail


def require_same(opener: SlideOpener, path: Path) -> None:
    """All that is asked of a slide is answered alike by both ways to read it."""
    file = HeldFile.below(path.parent, path)
    ours = outcome(lambda: DirectSlides().open(file, path))
    theirs = outcome(lambda: opener.open(file, path))
    try:
        if not isinstance(ours, FileSlide) or not isinstance(theirs, FileSlide):
            assert ours == theirs
            return
        assert theirs.info == ours.info
        assert (theirs.content_id, theirs.dicom_base) == (ours.content_id, ours.dicom_base)
        answers = [list(answers_of(slide)) for slide in (ours, theirs)]
        assert all(is_same(*pair) for pair in zip(*answers, strict=True))
        assert theirs.failed == ours.failed
    finally:
        for slide in (ours, theirs):
            if isinstance(slide, FileSlide):
                slide.close()
        file.close()


def answers_of(slide: FileSlide) -> Iterator[object]:
    """All that can be read, or the sentences."""
    for level, size in enumerate(slide.level_sizes):
        for box in boxes_of(size):
            yield outcome(partial(slide.read_level, level, box))
            yield outcome(partial(slide.unstored_share, level, box))
    yield outcome(slide.read_eighth)


def is_same(ours: object, theirs: object) -> bool:
    if isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray):
        return np.array_equal(ours, theirs)
    return type(ours) is type(theirs) and ours == theirs


def boxes_of(size: Size) -> list[Box]:
    """A small box inside, and one of all that is not very large."""
    whole = Box(0, 0, min(size.width, 700), min(size.height, 700))
    return [Box(size.width // 3, size.height // 3, -(-size.width // 9), -(-size.height // 7)), whole]


SLIDES: dict[str, odd_slides.Write] = {
    **odd_slides.READ,
    **odd_slides.PARTLY,
    **{name: write for name, (write, _) in odd_slides.REFUSED.items()},
}


@pytest.mark.parametrize("name", SLIDES)
def test_all_is_as_in_this_process(confined_slides: ConfinedSlides, tmp_path: Path, name: str) -> None:
    """Bit for bit, however oddly a slide is stored, and for damage in the same words."""
    path = tmp_path / Path(name).name
    SLIDES[name](path)
    if not path.is_symlink():
        require_same(confined_slides, path)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("is_cut", [False, True])
def test_tiles_in_jpeg_are_as_in_this_process(
    confined_slides: ConfinedSlides, tmp_path: Path, planar: bool, is_cut: bool
) -> None:
    """Decoded by OpenSlide and without it, whole and damaged."""
    data = tiled_jpeg_tiff(odd_slides.PIXELS, 128, planar=planar)
    (tmp_path / "a.tif").write_bytes(cut_parts(data, 3) if is_cut else data)
    require_same(confined_slides, tmp_path / "a.tif")


def test_real_slides_are_as_in_this_process(confined_slides: ConfinedSlides, shared_data: Path) -> None:
    """Those of scanners, some of them of several files, and files that are no slides."""
    paths = [path for path in sorted((shared_data / "slides").iterdir()) if path.is_file()]
    assert paths
    for path in paths:
        require_same(confined_slides, path)
    with confined_slides.looking([shared_data / "slides"]) as ours, DirectSlides().looking([]) as theirs:
        assert [ours(path) for path in paths] == [theirs(path) for path in paths]


def test_threads_read_at_the_same_time(confined_slides: ConfinedSlides, folder: Path) -> None:
    """Small and large boxes, more threads than there are channels, and each gets its own pixels."""
    slide, direct = opened(confined_slides, folder / "jpeg.tif"), Slide.open(folder / "jpeg.tif")
    boxes = [Box(7 * index, 5 * index, 30 + 20 * (index % 5), 200 - index) for index in range(64)]
    with ThreadPoolExecutor(24) as threads:
        found = list(threads.map(lambda box: slide.read_level(0, box), boxes))
    assert all(np.array_equal(pixels, direct.read_level(0, box)) for box, pixels in zip(boxes, found, strict=True))
    slide.close()
    direct.close()


def test_pixels_stay_when_others_are_read(confined_slides: ConfinedSlides, folder: Path) -> None:
    """The memory that is shared with the process is not what the caller gets."""
    slide = opened(confined_slides, folder / "jpeg.tif")
    first = slide.read_level(0, ORIGIN)
    kept = first.copy()
    slide.read_level(0, ORIGIN.shifted(100, 100))
    slide.close()
    assert np.array_equal(first, kept)


def confined(slide: FileSlide) -> ConfinedSlide:
    assert isinstance(slide, ConfinedSlide)
    return slide


def wait_for(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def test_a_process_that_is_killed_takes_its_slide_with_it(
    slides: ConfinedSlides, deaths: Deaths, folder: Path
) -> None:
    """All who read it get a sentence; the store then opens it anew, in another process."""
    store = SlideStore([folder], handles=2, max_listing=9, opener=slides)
    with store.open("jpeg.tif") as slide, store.open("deflated.tif") as other:
        first = confined(slide)  # type: ignore[arg-type]
        os.kill(first.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(12) as threads:
            reads = [threads.submit(outcome, lambda: first.read_level(0, ORIGIN)) for _ in range(12)]
            os.kill(first.pid, signal.SIGKILL)
            assert all(ENDED in str(read.result(60)) for read in reads)
        assert (first.failed, deaths.count) == (True, 1)
        with pytest.raises(UnreadableSlideError, match=ENDED):
            first.unstored_share(0, ORIGIN)
        assert other.read_level(0, ORIGIN).shape == (30, 40, 3)
    with store.open("jpeg.tif") as slide:
        assert slide.read_level(0, ORIGIN).shape == (30, 40, 3)
        assert confined(slide).pid != first.pid  # type: ignore[arg-type]
    assert deaths.count == 1
    store.close()


def test_a_process_that_hangs_is_ended(
    slides: ConfinedSlides, deaths: Deaths, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that an answer may take."""
    slide = confined(opened(slides, folder / "jpeg.tif"))
    slide.read_level(0, ORIGIN)
    monkeypatch.setattr(confinedslide, "LONGEST_S", 0.3)
    os.kill(slide.pid, signal.SIGSTOP)
    with pytest.raises(UnreadableSlideError, match=ENDED):
        slide.read_level(0, ORIGIN)
    assert (slide.failed, deaths.count) == (True, 1)
    wait_for(lambda: not Path(f"/proc/{slide.pid}").exists())
    slide.close()


def test_a_template_that_dies_is_started_anew(slides: ConfinedSlides, deaths: Deaths, folder: Path) -> None:
    """Slides that are open stay so, and it counts as no death of a decoder."""
    slide, template = opened(slides, folder / "jpeg.tif"), slides.pid
    os.kill(template, signal.SIGKILL)
    opened(slides, folder / "deflated.tif").close()
    assert slides.pid != template
    assert slide.read_level(0, ORIGIN).shape == (30, 40, 3)
    slide.close()
    assert deaths.count == 0


def test_a_template_that_cannot_start_asks_to_come_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is no fault of the slide."""
    monkeypatch.setattr(confinedslides, "_PROGRAM", "slidecascade.no_such_module")
    opener = ConfinedSlides(retry_after_s=7, died=lambda: None)
    with pytest.raises(NotReadyError) as found:
        opened(opener, folder / "jpeg.tif")
    assert found.value.retry_after_s == 7
    opener.close()


def test_a_read_of_all_of_a_slide_has_time_for_all_of_it(
    slides: ConfinedSlides, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many boxes were read before; meanwhile short reads do not shorten its CPU time."""
    given: list[tuple[str, float]] = []
    allowed: list[float] = []
    ask, allow = _Channel.ask, SlideProcess.allow

    def noted_ask(channel: _Channel, task: Read | Eighth, size: int, seconds: float) -> tuple[Answer, Rgb | None]:
        given.append((task.kind, seconds))
        if task.kind == "eighth":
            slide.read_level(0, ORIGIN)
        return ask(channel, task, size, seconds)

    def noted_allow(process: SlideProcess, memory: int, seconds: float) -> None:
        allowed.append(seconds)
        allow(process, memory, seconds)

    monkeypatch.setattr(confinedslide, "_PX_PER_S", 100)
    slide = confined(opened(slides, folder / "jpeg.tif"))
    whole_s = confinedslide.LONGEST_S + slide.size_l0.area / 100
    monkeypatch.setattr(_Channel, "ask", noted_ask)
    monkeypatch.setattr(SlideProcess, "allow", noted_allow)
    slide.read_level(0, ORIGIN)
    slide.read_level(0, ORIGIN)
    slide.read_eighth()
    slide.read_level(0, ORIGIN)
    short_s = confinedslide.LONGEST_S
    assert given == [
        ("read", whole_s),
        ("read", short_s),
        ("eighth", whole_s),
        ("read", short_s),
        ("read", short_s),
    ]
    assert allowed == [whole_s, short_s, whole_s, whole_s, short_s]
    slide.close()


class Telling:
    """A slide whose errors name a patient."""

    failed = False

    def read_level(self, level: int, box: Box) -> Rgb:
        try:
            ANSWER.validate_python({"kind": "SMITH^JOHN"}) if level else int("SMITH^JOHN")
        except ValueError as error:
            raise RuntimeError("read of SMITH^JOHN") from error
        raise AssertionError


@pytest.mark.parametrize("level", [0, 1])
def test_what_a_file_says_is_not_logged(caplog: pytest.LogCaptureFixture, level: int) -> None:
    """Of an exception in a process the log has types and places, none of its messages."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        reader = _Reader(theirs, None, 1)
        reader._slide = Telling()  # type: ignore[assignment]  # as far as it is used
        theirs.send(reader._outcome(Read(level=level, box=(0, 0, 1, 1)), None).encoded())
        with pytest.raises(EndedError) as ended:
            receive(ours, 30)
        SlideProcess(ours, 0, None, lambda: None).fail(ended.value)
    (record,) = caplog.records
    line = logs.JsonFormatter().format(record)
    assert "SMITH" not in line
    raised = json.loads(line)["raised"]
    assert raised[0]["type"] == "RuntimeError"
    assert len(raised) == 2
    assert all(re.fullmatch(r"\S+\.py:\d+ \w+", frame) for error in raised for frame in error["frames"])
    assert raised[0]["frames"][-1].endswith("read_level")


def test_an_exception_in_a_process_is_logged_by_its_place(
    slides: ConfinedSlides, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A confined one, which can still say where it was."""
    slide = confined(opened(slides, folder / "jpeg.tif"))
    with pytest.raises(UnreadableSlideError, match=ENDED):
        slide.read_level(99, ORIGIN)
    (record,) = (each for each in caplog.records if each.message == "decoder ended")
    raised = json.loads(logs.JsonFormatter().format(record))["raised"]
    assert raised[-1]["type"] == "IndexError"
    assert any("slides/slide.py:" in frame for frame in raised[-1]["frames"])
    slide.close()


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "fault", "fault": "SMITH^JOHN"},
        {"kind": "fault", "fault": "an exception was raised", "raised": [{"type": "SMITH^JOHN", "frames": []}]},
        {"kind": "fault", "fault": "an exception was raised", "raised": [{"type": "X", "frames": ["SMITH^JOHN"]}]},
        {"kind": "fault", "fault": "an exception was raised", "raised": [{"type": "X", "frames": []}] * 99},
    ],
)
def test_what_a_process_says_of_itself_is_validated(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ANSWER.validate_python(said)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no descriptors of processes")
def test_limits_are_not_set_of_another_process_with_its_number() -> None:
    """A number is used again when a process is gone; its descriptor is not."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as gone:
        descriptor = os.pidfd_open(gone.pid)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as other:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = SlideProcess(ours, other.pid, descriptor, lambda: None)
        process.allow(2**40, 60)
        assert resource.prlimit(other.pid, resource.RLIMIT_DATA) == before
        process.close()
        process.allow(2**40, 60)
        assert resource.prlimit(other.pid, resource.RLIMIT_DATA) == before
        theirs.close()


def no_descriptors(*_arguments: object, **_named: object) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_lack_of_descriptors_is_no_fault_of_a_slide(
    slides: ConfinedSlides, deaths: Deaths, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening and reading ask to come back; the slide that is open is read as soon as there are some."""
    slide = opened(slides, folder / "jpeg.tif")
    for module, name in ((socket, "socketpair"), (confinedslide, "shared_memory")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, no_descriptors)
            with pytest.raises(NotReadyError, match="Too many open files"):
                slide.read_level(0, ORIGIN)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", no_descriptors)
        with pytest.raises(NotReadyError):
            opened(slides, folder / "jpeg.tif")
    assert slide.read_level(0, ORIGIN).shape == (30, 40, 3)
    slide.close()
    assert deaths.count == 0


def test_processes_end_with_their_slides(slides: ConfinedSlides, folder: Path) -> None:
    """And those that only look at files with the looking; the template when nothing is opened any more."""
    slide = confined(opened(slides, folder / "jpeg.tif"))
    assert proc.children(slides.pid) == [slide.pid]
    slide.close()
    wait_for(lambda: proc.children(slides.pid) == [])
    with slides.looking([folder]) as recognises:
        assert recognises(folder / "jpeg.tif")
        assert not recognises(folder / "nothing.tif")
        assert len(proc.children(slides.pid)) == 1
    wait_for(lambda: proc.children(slides.pid) == [])
    template = slides.pid
    slides.close()
    assert not Path(f"/proc/{template}").exists()
    with pytest.raises(NotReadyError):
        opened(slides, folder / "jpeg.tif")


def test_a_file_that_ends_the_process_that_looks_at_it_is_no_slide(
    slides: ConfinedSlides, deaths: Deaths, folder: Path
) -> None:
    """The next one is looked at by another."""
    with slides.looking([folder]) as recognises:
        assert recognises(folder / "jpeg.tif")
        (looker,) = proc.children(slides.pid)
        os.kill(looker, signal.SIGKILL)
        assert not recognises(folder / "deflated.tif")
        assert recognises(folder / "deflated.tif")
    assert deaths.count == 1


@pytest.mark.skipif(not HAS_FILTERS, reason="seccomp's table is for x86-64 and Arm on Linux")
def test_a_slide_is_read_by_a_confined_process(confined_slides: ConfinedSlides, folder: Path) -> None:
    """Seen from outside: filtered, without new rights, with limits, and with nothing open but its slide."""
    slide = confined(opened(confined_slides, folder / "jpeg.tif"))
    slide.read_level(0, ORIGIN)
    status, lowest = proc.confinement(slide.pid)
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert lowest["Max file size"] == lowest["Max core file size"] == "0"
    assert int(lowest["Max data size"]) < 2**31
    assert int(lowest["Max cpu time"]) < 10_000
    names = set(proc.open_files(slide.pid))
    assert all(name.startswith(("/dev/null", "socket:", "/memfd:", str(folder / "jpeg.tif"))) for name in names), (
        names
    )
    slide.close()


@pytest.mark.skipif(not HAS_LANDLOCK, reason="this kernel has no Landlock")
def test_a_process_opens_no_files_but_those_of_its_slide(
    confined_slides: ConfinedSlides, folder: Path, tmp_path: Path
) -> None:
    """A slide that is held is the only one; a process that looks at files has those below its folders."""
    slide = confined(opened(confined_slides, folder / "jpeg.tif"))
    asked = [slide._process.ask(Look(path=bytes(folder / f"{name}.tif"))) for name in ("jpeg", "deflated")]
    slide.close()
    assert asked == [Looked(is_slide=True), Looked(is_slide=False)]
    write_slide(tmp_path / "other.tif")
    with confined_slides.looking([folder]) as recognises:
        assert [recognises(path) for path in (folder / "deflated.tif", tmp_path / "other.tif")] == [True, False]


READING = """
import os, pathlib, socket, sys
from slidecascade.confinement import forbid_files, leave_network
from slidecascade.seccomp import filter_calls

def tries():
    yield "read its file", lambda: open("kept").read()
    yield "read another file", lambda: open("other").read()
    yield "write its file", lambda: open("kept", "r+b")
    yield "append to its file", lambda: open("kept", "ab")
    yield "empty its file", lambda: os.open("kept", os.O_RDONLY | os.O_TRUNC)
    yield "make a file", lambda: open("made", "w")
    yield "make a file without a name", lambda: os.open(".", os.O_TMPFILE | os.O_RDWR)
    yield "make a folder", lambda: os.mkdir("folder")
    yield "rename a file", lambda: os.rename("kept", "renamed")
    yield "remove a file", lambda: os.unlink("kept")
    yield "change a mode", lambda: os.chmod("kept", 0o777)
    yield "list a folder", lambda: os.listdir("/")
    yield "open a socket", socket.socket
    yield "start a process", os.fork
    yield "run a program", lambda: os.execv("/bin/true", ["true"])
    yield "signal another process", lambda: os.kill(os.getppid(), 0)

held = os.open("kept", os.O_RDONLY)
print(leave_network() and forbid_files([held]) and filter_calls(reads_files=True))
for name, attempt in tries():
    try:
        attempt()
        print(name)
    except OSError:
        pass
"""


@pytest.mark.skipif(not HAS_FILTERS, reason="seccomp's table is for x86-64 and Arm on Linux")
def test_a_process_that_reads_files_cannot_do_anything_else_to_them(tmp_path: Path) -> None:
    """It reads its own, and writes, makes, removes, renames and lists none; nor opens it sockets or programs."""
    for name in ("kept", "other"):
        (tmp_path / name).write_text(name)
    done = subprocess.run(
        [sys.executable, "-c", READING],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    applied, *succeeded = done.stdout.splitlines()
    if applied != "True":
        pytest.skip("this kernel lacks a part of the confinement")
    assert succeeded == ["read its file"]
    assert (tmp_path / "kept").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "other"]


@pytest.mark.parametrize(
    "change",
    [
        {"level_sizes": (Size(900, 700), Size(0x80000001, 1))},
        {"level_downsamples": (float("inf"),)},
        {"level_downsamples": (1.0, 2.0)},
        {"mpp": -1.0},
        {"vendor": "a\x1b[2J"},
        {"bounds_l0": Box(-5, 0, 10, 10)},
        {"size_l0": Size(1, 1)},
        {"channels": ("red",)},
    ],
)
def test_what_no_slide_states_is_not_believed(change: dict[str, Any]) -> None:
    """A process that was taken over cannot make the service work with impossible sizes."""
    stated: dict[str, Any] = {
        "size_l0": Size(900, 700),
        "mpp": None,
        "objective_power": 20.0,
        "vendor": "generic-tiff",
        "level_sizes": (Size(900, 700),),
        "level_downsamples": (1.0,),
    }
    assert ANSWER.validate_json(Opened(info=SlideInfo(**stated)).encoded()) == Opened(info=SlideInfo(**stated))
    lie = dataclasses.asdict(SlideInfo(**stated | change))
    with pytest.raises(ValidationError):
        ANSWER.validate_json(json.dumps({"kind": "opened", "info": lie}))
