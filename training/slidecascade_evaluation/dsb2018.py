"""Nuclei with instance truth: Data Science Bowl 2018 stage 1 (BBBC038), and NuCLS crops of the same form.

The folder holds ``<stem>.png`` (RGB), ``<stem>_labels.png`` (16-bit instance labels) and ``index.csv``.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Split = Literal["train", "tune", "validate"]

FLUORESCENCE = "fluorescence"
COLOUR = "brightfield-colour"
GREY = "brightfield-grey"
NUCLS = "nucls"
KINDS = (FLUORESCENCE, COLOUR, GREY)


@dataclass(frozen=True)
class NucleiImage:
    """An image ``(H, W, 3)`` uint8 RGB and its instance labels ``(H, W)`` int32, 0 being background."""

    stem: str
    kind: str
    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


def split_of(stem: str) -> Split:
    """The split of an image, by a fixed rule on its name.

    ``validate`` (one in five) is used for reporting only; ``tune`` (one in ten of the rest) for choosing
    thresholds.
    """
    if int(stem[:4], 16) % 5 == 0:
        return "validate"
    return "tune" if int(stem[4:8], 16) % 10 == 0 else "train"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of ``index.csv``: an image, its kind, and its size where the index states it (else 0)."""

    stem: str
    kind: str
    width_px: int
    height_px: int

    @property
    def split(self) -> Split:
        return split_of(self.stem)


def read_index(folder: Path) -> tuple[Entry, ...]:
    """The rows of ``index.csv``, in its order.

    Raises:
        ValueError: The folder holds no set of this form.
    """
    index = folder / "index.csv"
    if not index.is_file():
        raise ValueError(f"There is no index.csv in '{folder.name}': give the folder of the DSB 2018 set.")
    with index.open(newline="", encoding="utf-8") as lines:
        return tuple(
            Entry(row["stem"], row["kind"], int(row.get("width_px") or 0), int(row.get("height_px") or 0))
            for row in csv.DictReader(lines)
        )


def read_images(folder: Path, split: Split) -> Iterator[NucleiImage]:
    """Read the images of a split, in the order of the index.

    Raises:
        ValueError: The folder holds no set of this form, or an image cannot be read.
    """
    return read_entries(folder, [entry for entry in read_index(folder) if entry.split == split])


def read_entries(folder: Path, entries: Iterable[Entry]) -> Iterator[NucleiImage]:
    """Read images one by one.

    Raises:
        ValueError: An image cannot be read.
    """
    for entry in entries:
        stem = entry.stem
        yield _read(folder, stem, entry.kind, image_name=f"{stem}.png", labels_name=f"{stem}_labels.png")


def read_nucls(folder: Path) -> Iterator[NucleiImage]:
    """Read every NuCLS crop of a folder (``<stem>.png`` with ``<stem>_inst.png``), for training only."""
    for path in sorted(folder.glob("*_inst.png")):
        stem = path.name.removesuffix("_inst.png")
        yield _read(folder, stem, NUCLS, image_name=f"{stem}.png", labels_name=path.name)


def _read(folder: Path, stem: str, kind: str, *, image_name: str, labels_name: str) -> NucleiImage:
    image = cv2.imread(str(folder / image_name), cv2.IMREAD_COLOR)
    labels = cv2.imread(str(folder / labels_name), cv2.IMREAD_UNCHANGED)
    if image is None or labels is None:
        raise ValueError(f"Image '{image_name}' or its labels cannot be read; fetch the set again.")
    return NucleiImage(stem, kind, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), labels.astype(np.int32))
