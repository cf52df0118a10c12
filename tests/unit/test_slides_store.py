"""Slides by id: what a listing names, what an id may reach, and how handles live."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plain_slide import first_pixel, write_slide
from slidecascade.errors import NotReadyError, SettingsError, UnknownSlideError, UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.openslides import DirectSlides, SlideOpener
from slidecascade.slides.shortage import is_gone
from slidecascade.slides.slideid import id_of, path_of
from slidecascade.slides.store import SlideStore
from slidecascade.slides.visible import Visible


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two slides, and a slide outside it."""
    write_slide(tmp_path / "outside" / "secret.tif")
    write_slide(tmp_path / "root" / "a.tif", 10)
    write_slide(tmp_path / "root" / "case 7" / "b.tif", 20)
    return tmp_path / "root"


@pytest.fixture
def store(root: Path, slide_opener: SlideOpener) -> Iterator[SlideStore]:
    store = SlideStore([root], handles=2, max_listing=100, opener=slide_opener)
    yield store
    store.close()


def test_ids_are_paths_below_the_root(store: SlideStore) -> None:
    """Slides are listed sorted by relative path and open by it."""
    assert store.list_ids() == (("a.tif", "case 7/b.tif"), False)
    assert (first_pixel(store, "a.tif"), first_pixel(store, "case 7/b.tif")) == (10, 20)


def test_only_slides_are_listed(store: SlideStore, root: Path) -> None:
    """Other files, files with a slide's name and links that leave the root are left out."""
    (root / "notes.txt").write_text("hello")
    (root / "fake.svs").write_text("hello")
    (root / "leaves.tif").symlink_to(root.parent / "outside" / "secret.tif")
    (root / "linked").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to(root)

    assert store.list_ids() == (("a.tif", "case 7/b.tif"), False)


NAMES = {
    b"line\nfeed.tif": "line%0Afeed.tif",
    b"back\\slash.tif": "back%5Cslash.tif",
    b"F\xe4rbung.tif": "F%E4rbung.tif",
    "F\xe4rbung.tif".encode(): "F\xe4rbung.tif",
    b"tab\t50%.tif": "tab%0950%25.tif",
    b"50%.tif": "50%.tif",
    b"a%20b.tif": "a%20b.tif",
    b"back%5Cslash.tif": "back%255Cslash.tif",
    b"folder\x7f\n/b.tif": "folder%7F%0A/b.tif",
}


def test_every_slide_is_listed_whatever_its_name(store: SlideStore, root: Path) -> None:
    """Names that JSON or a URL cannot carry are percent-encoded; each id is Unicode and opens its own file."""
    for side, name in enumerate(NAMES, start=40):
        path = root / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        write_slide(path, side)

    ids, truncated = store.list_ids()

    assert not truncated
    assert set(ids) == {"a.tif", "case 7/b.tif", *NAMES.values()}
    assert json.loads(json.dumps(ids).encode()) == list(ids)
    assert [first_pixel(store, slide_id) for slide_id in NAMES.values()] == list(range(40, 40 + len(NAMES)))


@pytest.mark.parametrize("name", [name for name in NAMES if name.isascii() and b"%" not in name])
def test_a_name_has_one_id(store: SlideStore, root: Path, name: bytes) -> None:
    """The name itself, lower-case digits or needless escapes are not ids: a log and a cache know one."""
    path = root / name.decode()
    path.parent.mkdir(exist_ok=True)
    write_slide(path, 50)
    slide_id = NAMES[name]
    for other in (name.decode(), slide_id.lower(), slide_id.replace("f", "%66"), slide_id.replace("b", "%62")):
        if other != slide_id:
            with pytest.raises(UnknownSlideError):
                first_pixel(store, other)


@given(st.binary(min_size=1, max_size=12).map(os.fsdecode))
def test_an_id_leads_back_to_its_name(name: str) -> None:
    """Whatever bytes a name holds, its id is text without control characters, and no other name has it."""
    slide_id = id_of(name)
    assert slide_id.encode().decode() == slide_id
    assert not set(slide_id) & {"\\", "\n", "\0"}
    assert path_of(slide_id) in {name, None}
    assert (path_of(slide_id) is None) == (PurePosixPath(name).as_posix() != name or not is_safe(name))


def is_safe(name: str) -> bool:
    return "\0" not in name and not name.startswith("/") and ".." not in name.split("/")


def test_a_long_listing_is_cut_and_says_so(root: Path) -> None:
    """No more slides are named than allowed, and a folder of other files does not hold the listing up."""
    assert SlideStore([root], handles=1, max_listing=1).list_ids() == (("a.tif",), True)
    assert SlideStore([root], handles=1, max_listing=2).list_ids() == (("a.tif", "case 7/b.tif"), False)
    for number in range(150):
        (root / f"Z{number}.txt").touch()
    assert SlideStore([root], handles=1, max_listing=1).list_ids() == ((), True)


def test_the_first_root_wins(root: Path, tmp_path: Path) -> None:
    """An id that two roots know is the first one's slide, listed once."""
    write_slide(tmp_path / "second" / "a.tif", 99)
    write_slide(tmp_path / "second" / "c.tif", 30)
    store = SlideStore([root, tmp_path / "second"], handles=2, max_listing=100)

    assert store.list_ids() == (("a.tif", "c.tif", "case 7/b.tif"), False)
    assert (first_pixel(store, "a.tif"), first_pixel(store, "c.tif")) == (10, 30)


def test_who_sees_a_folder_sees_its_slides_only(root: Path, tmp_path: Path) -> None:
    """Others are unknown as one that does not exist, also by a link, a companion folder and another root's id."""
    for link, target in (("case 7/link.tif", root / "a.tif"), ("case 7/x", root / "other")):
        target.mkdir(exist_ok=True) if target.name == "other" else None
        (root / link).symlink_to(target)
    write_slide(root / "case 7" / "x.tif")
    write_slide(root / "case 70" / "c.tif")
    second = write_slide(tmp_path / "second" / "a.tif", 99).parent
    write_slide(second / "d.tif", 30)
    store = SlideStore([root, second], handles=2, max_listing=100)
    hidden = ("a.tif", "case 7/link.tif", "case 7/x.tif", "case 70/c.tif", "no.tif")
    cases = {
        root / "case 7": {"case 7/b.tif"},
        second: {"d.tif"},  # its a.tif is hidden by the first root's, which is not seen
        tmp_path / "nowhere": set(),
        root / "case 7" / "..": set(store.list_ids()[0]) - {"d.tif"},
    }
    for folder, seen in cases.items():
        visible = Visible((str(folder),))
        assert store.list_ids(visible) == (tuple(sorted(seen)), False)
        for slide_id in {*hidden, "case 7/b.tif", "d.tif"} - seen:
            with pytest.raises(UnknownSlideError) as caught, store.open(slide_id, visible=visible):
                pass
            assert caught.value.detail == f"There is no slide {slide_id!r}: GET /v1/slides lists the ids."
        for slide_id in seen:
            with store.open(slide_id, visible=visible):
                pass
    assert Visible(("dicomweb:pacs",)).has_server("dicomweb:pacs/1.2/3.4")
    assert not Visible(("dicomweb:pacs",)).has_server("dicomweb:pacs2/1.2/3.4")
    assert not Visible((str(root),)).has_server("dicomweb:pacs/1.2/3.4")


def test_a_root_that_is_not_a_folder_is_reported_at_start(root: Path) -> None:
    """A wrong setting is found before the first request."""
    for wrong in (root / "a.tif", root / "missing"):
        with pytest.raises(SettingsError, match=wrong.name):
            SlideStore([wrong], handles=1, max_listing=1)


@pytest.mark.parametrize(
    "slide_id",
    [
        "missing.tif",
        "",
        ".",
        "..",
        "/",
        "case 7",
        "case 7/",
        "case 7/../a.tif",
        "case 7/%2E%2E/a.tif",
        "%2E%2E%5C/outside/secret.tif",
        "..%0A/../../outside/secret.tif",
        "./a.tif",
        "case 7//b.tif",
        "../outside/secret.tif",
        "../../etc/passwd",
        "/etc/passwd",
        "..\\outside\\secret.tif",
        "a.tif\0",
        "a.tif/b",
        "\udcff.tif",
        "\ud800",
        "leaves.tif",
        "linked/secret.tif",
        "case 7/leaves.tif",
        "loop",
        "dangling",
        "x" * 1000,
        "x/" * 3000 + "x",
    ],
)
def test_an_id_never_leaves_the_root(store: SlideStore, root: Path, slide_id: str) -> None:
    """Whatever the trick, the answer is the one for a slide that does not exist."""
    outside = root.parent / "outside"
    (root / "leaves.tif").symlink_to(outside / "secret.tif")
    (root / "case 7" / "leaves.tif").symlink_to(Path("..", "..", "outside", "secret.tif"))
    (root / "linked").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(root / "nowhere")

    with pytest.raises(UnknownSlideError) as caught, store.open(slide_id):
        pass
    assert str(caught.value) == f"There is no slide {slide_id[:200]!r}: GET /v1/slides lists the ids."


def test_a_mirax_companion_folder_may_not_leave_the_root(store: SlideStore, root: Path) -> None:
    """OpenSlide would follow the folder beside an .mrxs file, so it must be inside too."""
    write_slide(root / "x.mrxs")
    assert first_pixel(store, "x.mrxs") == 200
    (root / "x").symlink_to(root.parent / "outside")

    with pytest.raises(UnknownSlideError), store.open("x.mrxs"):
        pass


def test_links_inside_the_root_are_followed(store: SlideStore, root: Path) -> None:
    """A link that stays inside is one more name of the same slide."""
    (root / "alias.tif").symlink_to(root / "a.tif")

    assert first_pixel(store, "alias.tif") == 10
    assert "alias.tif" in store.list_ids()[0]
    with store.open("alias.tif") as one, store.open("a.tif") as other:
        assert one is other


def test_a_handle_is_shared_and_kept(store: SlideStore) -> None:
    """Readers of a slide share one handle, which stays open for the next."""
    with store.open("a.tif") as one, store.open("a.tif") as other:
        assert one is other
    with store.open("a.tif") as later:
        assert later is one


def test_only_idle_handles_are_closed_to_make_room(store: SlideStore, root: Path) -> None:
    """With room for two, the least recently used idle slide is closed, never one that is being read."""
    for name in ("c.tif", "d.tif", "e.tif"):
        write_slide(root / name)
    with store.open("a.tif") as first:
        for name in ("c.tif", "d.tif", "e.tif"):
            first_pixel(store, name)
        assert first.read_level(0, Box(0, 0, 1, 1))[0, 0, 0] == 10
        with store.open("c.tif") as again, store.open("d.tif"), store.open("e.tif"):
            assert again.read_level(0, Box(0, 0, 1, 1)).shape == (1, 1, 3)
    first_pixel(store, "d.tif")
    first_pixel(store, "e.tif")
    with store.open("a.tif") as reopened:
        assert reopened is not first


def test_a_file_that_was_replaced_is_opened_again(store: SlideStore, root: Path) -> None:
    """New content under the same id is read through a new handle, even while the old one has a reader."""
    with store.open("a.tif") as old:
        write_slide(root / "new.tif", 77, side=96).replace(root / "a.tif")
        with store.open("a.tif") as new:
            assert new is not old
            assert (old.size_l0.width, new.size_l0.width) == (64, 96)
    assert first_pixel(store, "a.tif") == 77


def test_a_file_that_was_removed_is_unknown(store: SlideStore, root: Path) -> None:
    """A cached handle does not outlive its file."""
    first_pixel(store, "a.tif")
    (root / "a.tif").unlink()

    with pytest.raises(UnknownSlideError), store.open("a.tif"):
        pass


class Failing(DirectSlides):
    """Opens nothing: the system says why, by a number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def open(self, file: HeldFile, path: Path) -> FileSlide:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
@pytest.mark.parametrize("private", [True, False])
def test_a_slide_that_cannot_be_opened_now_is_not_unknown(root: Path, number: int, private: bool) -> None:
    """A lack of descriptors, or a disk that does not answer: jobs wait for that, and requests come back."""
    store = SlideStore([root], handles=2, max_listing=100, opener=Failing(number))
    for opening in (store.open("a.tif", private=private), store.open_file(root / "a.tif", private=private)):
        with pytest.raises(NotReadyError) as caught, opening:
            pass
        assert os.strerror(number) in caught.value.detail
    store.close()


def test_a_share_that_does_not_answer_is_not_an_unknown_slide(
    store: SlideStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the path of the slide cannot be followed; other slides are listed all the same."""
    resolve = Path.resolve

    def stale(path: Path, strict: bool = False) -> Path:
        if path.name == "a.tif":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return resolve(path, strict)

    monkeypatch.setattr(Path, "resolve", stale)
    with pytest.raises(NotReadyError), store.open("a.tif"):
        pass
    assert store.list_ids() == (("case 7/b.tif",), False)


def test_what_is_not_there_or_may_not_be_read_is_gone() -> None:
    """By the error's number, and where the service has raised it without one."""
    gone = [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG]
    assert all(is_gone(OSError(number, "")) for number in gone)
    assert is_gone(FileNotFoundError("replaced"))
    assert not is_gone(OSError("unknown"))


@pytest.mark.parametrize("name", ["unopenable.tiff", "truncated.svs"])
def test_a_slide_that_does_not_open_is_unreadable(
    store: SlideStore, root: Path, shared_data: Path, name: str
) -> None:
    """The file is there but no slide: that is not the same as unknown, and it can be repaired in place."""
    shutil.copy(shared_data / "slides" / "broken" / name, root / name)
    with pytest.raises(UnreadableSlideError), store.open(name):
        pass

    write_slide(root / name, 55)
    assert first_pixel(store, name) == 55


def test_a_handle_that_failed_is_dropped(store: SlideStore, root: Path, shared_data: Path) -> None:
    """OpenSlide errors latch, so the next reader gets a fresh handle."""
    shutil.copy(shared_data / "slides" / "broken" / "unreadable.svs", root / "u.svs")
    handles = []
    for _ in range(2):
        with store.open("u.svs") as slide:
            handles.append(slide)
            with pytest.raises(UnreadableSlideError):
                slide.read_level(0, Box(0, 0, 16, 16))

    assert handles[0] is not handles[1]
    assert first_pixel(store, "a.tif") == 10


def test_many_threads_open_and_read(root: Path) -> None:
    """Under contention, with fewer handles than slides, no thread reads a closed slide."""
    for number in range(5):
        write_slide(root / f"{number}.tif", 100 + number)
    store = SlideStore([root], handles=1, max_listing=10)
    start = threading.Barrier(4)

    def work(seed: int) -> bool:
        start.wait()
        numbers = np.random.default_rng(seed).integers(0, 5, 60)
        return all(first_pixel(store, f"{number}.tif") == 100 + number for number in numbers)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    store.close()


def test_closing_waits_for_no_reader(store: SlideStore) -> None:
    """A slide being read when the store closes is closed by its reader."""
    with store.open("a.tif") as slide:
        store.close()
        assert slide.read_level(0, Box(0, 0, 1, 1))[0, 0, 0] == 10
