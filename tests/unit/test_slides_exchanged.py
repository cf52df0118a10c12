"""Slides that are exchanged while they are opened, and hard links: what is served is what was checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from plain_slide import first_pixel, write_slide
from slidecascade.errors import UnknownSlideError, UnreadableSlideError
from slidecascade.geometry import Box
from slidecascade.slides import store as store_module
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.openslides import SlideOpener
from slidecascade.slides.store import SlideStore
from slidecascade.slides.visible import Visible

INSIDE: Final = 10
OUTSIDE: Final = 200


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a slide in a folder, beside a folder with a slide of the same name."""
    write_slide(tmp_path / "outside" / "a.tif", OUTSIDE)
    write_slide(tmp_path / "root" / "case" / "a.tif", INSIDE)
    return tmp_path / "root"


@pytest.fixture
def store(root: Path, slide_opener: SlideOpener) -> Iterator[SlideStore]:
    store = SlideStore([root], handles=2, max_listing=100, opener=slide_opener)
    yield store
    store.close()


def _to_a_link(root: Path) -> None:
    (root / "case" / "a.tif").unlink()
    (root / "case" / "a.tif").symlink_to(root.parent / "outside" / "a.tif")


def _to_a_linked_folder(root: Path) -> None:
    (root / "case").rename(root / "moved")
    (root / "case").symlink_to(root.parent / "outside")


def _to_a_pipe(root: Path) -> None:
    (root / "case" / "a.tif").unlink()
    os.mkfifo(root / "case" / "a.tif")


def _to_a_folder(root: Path) -> None:
    (root / "case" / "a.tif").unlink()
    (root / "case" / "a.tif").mkdir()


def _to_nothing(root: Path) -> None:
    (root / "case" / "a.tif").unlink()


def _to_another_slide(root: Path) -> None:
    write_slide(root / "new.tif", 77, side=96).replace(root / "case" / "a.tif")


EXCHANGES: Final = [_to_a_link, _to_a_linked_folder, _to_a_pipe, _to_a_folder, _to_nothing]


class Meddler:
    """Opens files as the store does, and exchanges them right before, or right after."""

    def __init__(self, root: Path, exchange: Callable[[Path], None], *, after: bool) -> None:
        self._root, self._exchange, self._after = root, exchange, after

    def below(self, folder: Path, path: Path) -> HeldFile:
        if not self._after:
            self._exchange(self._root)
        held = HeldFile.below(folder, path)
        if self._after:
            self._exchange(self._root)
        return held


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_is_put_in_its_place_before_the_opening_is_not_followed(
    store: SlideStore,
    root: Path,
    exchange: Callable[[Path], None],
    private: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A link, a linked folder, a pipe or a folder is answered as a slide that does not exist, without waiting."""
    monkeypatch.setattr(store_module, "HeldFile", Meddler(root, exchange, after=False))
    with pytest.raises(UnknownSlideError), store.open("case/a.tif", private=private):
        pass


@pytest.mark.parametrize("exchange", [*EXCHANGES, _to_another_slide])
def test_what_is_put_in_its_place_after_the_opening_is_not_read(
    store: SlideStore, root: Path, exchange: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels and content id are those of the file that was opened, whatever its path leads to since."""
    with SlideStore([root], handles=1, max_listing=1).open("case/a.tif") as before:
        content_id = before.content_id
    monkeypatch.setattr(store_module, "HeldFile", Meddler(root, exchange, after=True))
    with store.open("case/a.tif") as slide:
        assert int(slide.read_level(0, Box(0, 0, 1, 1))[0, 0, 0]) == INSIDE
        assert slide.content_id == content_id


def test_a_slide_put_in_its_place_before_the_opening_is_that_slide(
    store: SlideStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scanner that replaces a file is no attack: the new one is opened, once, and known by its own state."""
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "HeldFile", Meddler(root, _to_another_slide, after=False))
        with store.open("case/a.tif") as new:
            assert new.size_l0.width == 96
    with store.open("case/a.tif") as later:
        assert later is new


def test_a_slide_of_several_files_that_is_exchanged_is_not_served(
    store: SlideStore, root: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSlide opens it by its name, so the place is looked at again afterwards."""
    dicom = (shared_data / "slides" / "dicom_jpeg.dcm").read_bytes()
    (root.parent / "outside" / "b.dcm").write_bytes(dicom)
    (root / "case" / "b.dcm").write_bytes(dicom)

    def link(root: Path) -> None:
        (root / "case" / "b.dcm").unlink()
        (root / "case" / "b.dcm").symlink_to(root.parent / "outside" / "b.dcm")

    with store.open("case/b.dcm", private=True):
        pass
    monkeypatch.setattr(store_module, "HeldFile", Meddler(root, link, after=True))
    with pytest.raises(UnknownSlideError), store.open("case/b.dcm"):
        pass


def test_descriptors_go_with_their_slides(root: Path, slide_opener: SlideOpener) -> None:
    """Opening, failing and closing leave no file open."""
    (root / "text.tif").write_text("no slide")
    descriptors = Path("/proc/self/fd")
    with slide_opener.looking([root]) as recognises:  # starts what is started once
        assert recognises(root / "case" / "a.tif")
    before = len(list(descriptors.iterdir()))
    store = SlideStore([root], handles=1, max_listing=1, opener=slide_opener)
    for _ in range(3):
        assert first_pixel(store, "case/a.tif") == INSIDE
        with store.open("case/a.tif", private=True):
            pass
        with pytest.raises(UnreadableSlideError), store.open("text.tif"):
            pass
    store.close()
    assert len(list(descriptors.iterdir())) == before


def test_a_hard_link_is_a_slide_where_it_lies(store: SlideStore, root: Path) -> None:
    """It is served to who sees its folder; the folder of its other name is shown to nobody because of it."""
    write_slide(root / "hidden" / "b.tif", 30)
    os.link(root / "hidden" / "b.tif", root / "case" / "b.tif")
    os.link(root.parent / "outside" / "a.tif", root / "case" / "outside.tif")
    of_case = Visible((str(root / "case"),))
    assert store.list_ids(of_case)[0] == ("case/a.tif", "case/b.tif", "case/outside.tif")
    assert first_pixel(store, "case/outside.tif") == OUTSIDE
    with store.open("case/b.tif", visible=of_case):
        pass
    with pytest.raises(UnknownSlideError), store.open("hidden/b.tif", visible=of_case):
        pass


def test_a_hard_link_to_a_file_that_is_no_slide_shows_nothing_of_it(store: SlideStore, root: Path) -> None:
    """Neither in the listing nor in the error."""
    (root.parent / "secrets.txt").write_text("password: hunter2")
    os.link(root.parent / "secrets.txt", root / "secrets.svs")
    assert store.list_ids()[0] == ("case/a.tif",)
    with pytest.raises(UnreadableSlideError) as caught, store.open("secrets.svs"):
        pass
    assert "hunter2" not in caught.value.detail
