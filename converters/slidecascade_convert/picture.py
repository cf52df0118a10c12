"""What a conversion ends with: a picture of what the package finds beside the source network, and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import InvalidRequestError
from slidecascade.models.spec import ModelClass
from slidecascade.outputs.comparison import Comparison, Panel, fitted, page
from slidecascade.slides.slide import Slide, can_open
from slidecascade.slides.source import Source
from slidecascade.slides.upload import decode_image
from slidecascade.slides.view import SlideView
from slidecascade_convert.agreement import overlapping
from slidecascade_convert.tiles import RENDERED_MPP
from slidecascade_convert.trial import CALIBRATION, GIVEN, RENDERED, SYNTHESIZED, Subject, Trial

Rgb = npt.NDArray[np.uint8]

MOST_SIDE_PX: Final = 2048
"""Of an image, the middle of at most so many pixels at the network's resolution is tried."""

LEAST_SIDE_PX: Final = 32
MAX_IMAGE_PX: Final = 2**28
_SEGMENTER_PX, _CLASSIFIER_PX = 384, 236
_COLUMNS: Final = 4
_FRAME_PX: Final = 7
_ALIKE: Final = 1e-3
OUTLINE: Final = (255, 214, 10)
"""Yellow, which is seen on stained nuclei, on pale tissue and on black."""

_ORIGINS: Final = {
    RENDERED: "rendered liver tissue",
    SYNTHESIZED: "synthesized, the same in each channel",
    CALIBRATION: "from the images of --calibrate",
    GIVEN: "from the image of --try",
}


def read(path: Path, *, mpp: float) -> Rgb:
    """The middle of an image or a slide at `mpp`, uint8 RGB with no side above `MOST_SIDE_PX`.

    A file that states no pixel size is taken to have that of the network.

    Raises:
        InvalidRequestError: there is no such file, or it is too small.
        UndecodableImageError, RegionTooLargeError, UnreadableSlideError: it cannot be read.
    """
    if not path.is_file():
        raise InvalidRequestError(f"The image {path} given to --try does not exist: give the path of an image.")
    if not can_open(path):
        return _middle(decode_image(path.read_bytes(), max_px=MAX_IMAGE_PX), mpp)
    slide = Slide.open(path)
    try:
        return _middle(slide, mpp)
    finally:
        slide.close()


def _middle(source: Source, mpp: float) -> Rgb:
    view = SlideView(source, mpp_l0=source.mpp or mpp)
    grid = view.grid(mpp)
    box = grid.extent
    if min(box.width, box.height) < LEAST_SIDE_PX:
        raise InvalidRequestError(
            f"The image given to --try is {box.width} x {box.height} px at {mpp:g} um per pixel: give one of "
            f"{LEAST_SIDE_PX} px or more."
        )
    inset_x, inset_y = (max(0, length - MOST_SIDE_PX) // 2 for length in (box.width, box.height))
    middle = type(box)(
        box.x + inset_x, box.y + inset_y, min(box.width, MOST_SIDE_PX), min(box.height, MOST_SIDE_PX)
    )
    return np.ascontiguousarray(view.read(grid, middle))


def drawn(trial: Trial, subject: Subject, classes: Sequence[ModelClass]) -> bytes:
    """PNG of the tiles with what the source network and the package find."""
    is_segmenter = subject.task == "segment"
    colors = [OUTLINE if is_segmenter else each.color for each in classes]
    shown = Comparison(
        title=subject.name,
        subtitle=f"{_tiles(trial)}, {_ORIGINS[trial.origin]}; {subject.mpp:g} um per pixel",
        sentence=sentence(trial, subject),
        headings=("Tile", "Source network", "Package") if is_segmenter else (),
        rows=_outlined_rows(trial) if is_segmenter else _classified_rows(trial, classes),
        counts=tuple(zip(subject.classes, colors, _counts(trial, subject), strict=True)),
        um_per_px=_um_per_px(trial, subject),
    )
    return page(shown)


def sentence(trial: Trial, subject: Subject) -> str:
    """Whether anything was found, and whether the source network finds the same."""
    if subject.task == "segment":
        return _of_objects(trial, subject)
    return _of_classes(trial, subject)


def _of_objects(trial: Trial, subject: Subject) -> str:
    name = subject.classes[0]
    found, expected = (int(each.max(axis=(1, 2)).sum()) for each in (trial.served, trial.source))
    where, all_px = f"in {_tiles(trial)}", trial.served.size
    if not found:
        theirs = f", although the source network finds {expected} objects" if expected else ""
        return (
            f"Nothing was found {where} ({trial.origin}){theirs}: {subject.check} like those that the network was "
            "trained on."
        )
    objects = f"{found:,} objects of the class {name} were" if found > 1 else f"1 object of the class {name} was"
    if np.array_equal(trial.source, trial.served):
        return f"{objects} found {where}; the source network gives the same outlines."
    pairs = sum(overlapping(*each) for each in zip(trial.source, trial.served, strict=True))
    if pairs == found == expected:
        differing = int(np.count_nonzero(trial.source != trial.served))
        theirs = f"the source network finds the same objects; pixels that differ: {differing:,} of {all_px:,}"
    else:
        theirs = (
            f"the source network finds {expected:,}, of which {pairs:,} overlap one of these by more than half"
        )
    return f"{objects} found {where}; {theirs}."


def _of_classes(trial: Trial, subject: Subject) -> str:
    names = subject.classes
    numbers = np.bincount(trial.served.argmax(axis=1), minlength=len(names))
    order = np.argsort(-numbers, kind="stable")[:6].tolist()
    each = ", ".join(f"{names[index]} {numbers[index]}" for index in order if numbers[index])
    apart = float(np.abs(trial.source - trial.served).max())
    moved = int((trial.source.argmax(axis=1) != trial.served.argmax(axis=1)).sum())
    same = "the same classes" if not moved else f"another class to {moved}"
    close = f"probabilities at most {apart:.2g} apart" if apart else "the same probabilities"
    were = "was" if len(trial.tiles) == 1 else "were"
    text = f"{_tiles(trial)} {were} classified: {each}; the source network gives {same}, with {close}."
    if len(trial.tiles) > 1 and float(np.ptp(trial.served, axis=0).max()) < _ALIKE:
        text += f" All tiles have the same probabilities, so that nothing was recognised: {subject.check}."
    return text


def _tiles(trial: Trial) -> str:
    return "1 tile" if len(trial.tiles) == 1 else f"{len(trial.tiles)} tiles"


def _counts(trial: Trial, subject: Subject) -> list[int]:
    if subject.task == "segment":
        return [int(trial.served.max(axis=(1, 2)).sum())]
    return [int(number) for number in np.bincount(trial.served.argmax(axis=1), minlength=len(subject.classes))]


def _um_per_px(trial: Trial, subject: Subject) -> float | None:
    """Of the panels; None for tissue that was rendered at another pixel size than the network's."""
    if trial.origin == RENDERED and not RENDERED_MPP[0] <= subject.mpp <= RENDERED_MPP[1]:
        return None
    if subject.task == "segment":
        return subject.mpp * int(trial.tiles.shape[1]) / _SEGMENTER_PX
    crop_px = subject.crop_px or int(trial.tiles.shape[1])
    return subject.mpp * crop_px / _CLASSIFIER_PX


def _outlined_rows(trial: Trial) -> tuple[tuple[Panel, ...], ...]:
    rows = []
    for tile, source, served in zip(trial.tiles, trial.source, trial.served, strict=True):
        picture, _ = fitted(tile, _SEGMENTER_PX)
        found = [
            Panel(_outlined(picture, labels), (f"{int(labels.max()):,} objects",)) for labels in (source, served)
        ]
        rows.append((Panel(picture), *found))
    return tuple(rows)


def _outlined(picture: Rgb, labels: npt.NDArray[Any]) -> Rgb:
    """`picture` with the pixels of objects that touch another object or the background in `OUTLINE`."""
    size = (picture.shape[1], picture.shape[0])
    large = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    edge = np.zeros(large.shape, np.bool_)
    for axis in (0, 1):
        differs = np.diff(large, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= differs
        edge[tuple(after)] |= differs
    outlined = picture.copy()
    outlined[edge & (large > 0)] = OUTLINE
    return outlined


def _classified_rows(trial: Trial, classes: Sequence[ModelClass]) -> tuple[tuple[Panel, ...], ...]:
    panels = [
        _classified(tile, source, served, classes)
        for tile, source, served in zip(trial.tiles, trial.source, trial.served, strict=True)
    ]
    return tuple(tuple(panels[start : start + _COLUMNS]) for start in range(0, len(panels), _COLUMNS))


def _classified(
    tile: Rgb, source: npt.NDArray[Any], served: npt.NDArray[Any], classes: Sequence[ModelClass]
) -> Panel:
    """The tile in a frame of the package's class."""
    picture, _ = fitted(tile, _CLASSIFIER_PX)
    color = classes[int(served.argmax())].color
    framed = picture.copy()
    cv2.rectangle(framed, (0, 0), (framed.shape[1] - 1, framed.shape[0] - 1), color, _FRAME_PX)
    lines = tuple(
        f"{whose}: {classes[int(each.argmax())].name} {each.max():.3f}"
        for whose, each in (("package", served), ("source", source))
    )
    return Panel(framed, lines)
