"""Images with ground truth, in a folder.

Each image ``x.png`` has beside it either ``x_labels.png`` or ``x_inst.png`` (one channel, whole numbers, 0
background, a number per cell), with ``x_type.png`` (a class number per pixel, 0 for none) if classes are known;
or ``x.geojson`` with a polygon per cell. ``index.csv``, with columns ``stem`` and ``kind``, lists the
images to use and their kinds; its column ``split`` names the split of an image; without it the rule of
`slidecascade_evaluation.dsb2018` applies.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import InvalidRequestError, SlideCascadeError
from slidecascade.slides.imageheader import read_header
from slidecascade.slides.stack import stack_in
from slidecascade_evaluation import geojson
from slidecascade_evaluation.annotation import Points, area_of
from slidecascade_evaluation.dsb2018 import split_of
from slidecascade_evaluation.matching import Labels
from slidecascade_evaluation.rasters import labels_from_outlines

SPLITS = ("validate", "tune", "train", "all")
_IMAGES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")
_LABELS = tuple(end + suffix for end in ("_labels", "_inst") for suffix in (".png", ".tif", ".tiff"))
_HASHED = re.compile("[0-9a-f]{8}")
_TYPES = ("_type.png", "_type.tif", "_type.tiff")


@dataclass(frozen=True)
class Truth:
    """Known cells of an image.

    Attributes:
        labels: ``(H, W)`` int32, 0 is background.
        classes: the known classes by label; None when the data has no classes.
    """

    labels: Labels
    classes: Mapping[int, str] | None


@dataclass(frozen=True)
class Specimen:
    """An image file and the file that holds its truth; `kind` is None in a folder without an index."""

    stem: str
    kind: str | None
    image: Path
    truth: Path
    types: Path | None = None

    @property
    def bits(self) -> int:
        """Bits per sample, as the file states them; raises InvalidRequestError when it cannot be read."""
        return self._bits(_bytes(self.image))

    def _bits(self, data: bytes) -> int:
        try:
            stack = stack_in(data)
            return read_header(data).bits if stack is None else stack.bits
        except SlideCascadeError as error:
            raise InvalidRequestError(f"{self.image.name} cannot be used. {error.detail}") from error

    def read_image(self, *, by_channel: bool = False) -> bytes:
        """The encoded image, of at most 8 bits per sample unless it is read `by_channel`, scaled by percentiles.

        Raises:
            InvalidRequestError: when it cannot be read or has 16 bits.
        """
        data = _bytes(self.image)
        if self._bits(data) > 8 and not by_channel:
            raise InvalidRequestError(
                f"{self.image.name} has 16 bits per sample, and its display range is not known: save it "
                "with 8 bits, scaled like the images the pipeline will be used on."
            )
        return data

    def read_truth(self, *, height_px: int, width_px: int) -> Truth:
        """The cells of the image, which has `height_px` x `width_px` pixels.

        Raises:
            InvalidRequestError: when the truth cannot be read, or has another size.
        """
        if self.truth.suffix == ".geojson":
            features = geojson.read_features(_bytes(self.truth), self.truth.name)
            return _drawn(features, self.truth.name, height_px=height_px, width_px=width_px)
        labels = _read_labels(self.truth, height_px=height_px, width_px=width_px)
        if self.types is None:
            return Truth(labels, None)
        types = _read_numbers(self.types, height_px=height_px, width_px=width_px)
        return Truth(labels, _majority(labels, types))


_FARTHEST_PX: Final = 1e7


def _drawn(features: Sequence[geojson.Feature], name: str, *, height_px: int, width_px: int) -> Truth:
    """Feature ``i`` as the cell ``i + 1``: its filled outline without holes; of several polygons the largest.

    Raises:
        InvalidRequestError: when a feature is not a polygon, or has no pixel in the image.
    """
    rings = [_outline(feature) for feature in features]
    if any(ring is None for ring in rings):
        number = next(index for index, ring in enumerate(rings, start=1) if ring is None)
        raise InvalidRequestError(
            f"Cell {number} of {name} is not a polygon in pixels of the image: export detections or annotations "
            "with outlines."
        )
    offsets = np.cumsum([0, *(len(ring) for ring in rings if ring is not None)]).astype(np.int64)
    vertices = np.concatenate([np.zeros((0, 2)), *(ring for ring in rings if ring is not None)])
    labels = labels_from_outlines(vertices, offsets, height_px=height_px, width_px=width_px)
    drawn = np.bincount(labels.ravel(), minlength=len(offsets)) > 0
    if not drawn[1:].all():
        lost = int(np.flatnonzero(~drawn[1:])[0]) + 1
        raise InvalidRequestError(
            f"Cell {lost} of {name} has no pixel in its image of {width_px} x {height_px} pixels: "
            "coordinates are pixels of the image; correct or remove it."
        )
    classes = {
        number: item.class_name for number, item in enumerate(features, start=1) if item.class_name is not None
    }
    return Truth(labels, classes or None)


def _outline(feature: geojson.Feature) -> Points | None:
    """``(V, 2)`` of the largest polygon; None without a polygon, or if it extends beyond any image."""
    outlines = [item.rings_l0[0] for item in feature.annotations if item.is_polygon]
    if not outlines:
        return None
    largest = max(outlines, key=area_of)
    return largest if float(np.abs(largest).max()) < _FARTHEST_PX else None


def find_specimens(folder: Path, split: str | None) -> tuple[Specimen, ...]:
    """The images of a folder that have truth, by the index or by name; `split` is one of `SPLITS`.

    None: ``validate`` if the folder has splits, else all.

    Raises:
        InvalidRequestError: when the folder, the split or such images do not exist.
    """
    if not folder.is_dir():
        raise InvalidRequestError(f"There is no folder {folder}: give the folder of the images and their labels.")
    try:
        names = frozenset(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise InvalidRequestError(f"The folder {folder} cannot be read ({error.strerror}).") from error
    if "index.csv" in names:
        return _by_index(folder, names, split or "validate")
    if split not in (None, "all"):
        raise InvalidRequestError(f"{folder} has no index.csv and so no splits: omit --split to use every image.")
    truths = sorted(name for name in names if name.endswith((*_LABELS, ".geojson")))
    stems = dict.fromkeys(_stem(name) for name in truths)
    found = tuple(_specimen(folder, names, stem, None) for stem in stems)
    if not found:
        raise InvalidRequestError(
            f"{folder} has no image with truth: name the pairs x.png and x_labels.png, or x.png and x.geojson."
        )
    return found


def of_kind(specimens: Sequence[Specimen], kind: str | None) -> tuple[Specimen, ...]:
    """Those of a `kind`; None: all.

    Raises:
        InvalidRequestError: when there are none.
    """
    found = tuple(item for item in specimens if kind is None or item.kind == kind)
    if not found:
        kinds = ", ".join(sorted({item.kind for item in specimens if item.kind})) or "no kinds"
        raise InvalidRequestError(f"The data has no image of the kind {kind!r}, but {kinds}: correct --kind.")
    return found


def resolve_split(folder: Path, split: str | None) -> str:
    """The split that `find_specimens` uses for None."""
    return split or ("validate" if (folder / "index.csv").is_file() else "all")


def _by_index(folder: Path, names: frozenset[str], split: str) -> tuple[Specimen, ...]:
    try:
        text = _bytes(folder / "index.csv").decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequestError(f"The index.csv of {folder} is not a table in UTF-8: save it again.") from error
    if not rows or "stem" not in rows[0]:
        raise InvalidRequestError(
            f"The index.csv of {folder} has no column 'stem' or no rows: it needs the columns stem and kind."
        )
    chosen = [row for row in rows if split == "all" or _split(row) == split]
    if not chosen:
        raise InvalidRequestError(
            f"The index.csv of {folder} has no image in the split {split!r}: try --split all."
        )
    return tuple(_specimen(folder, names, row["stem"] or "", row.get("kind") or None) for row in chosen)


def _split(row: Mapping[str, str | None]) -> str:
    if "split" in row:
        return row["split"] or ""
    stem = row["stem"] or ""
    if not _HASHED.match(stem):
        raise InvalidRequestError(
            f"The split of {stem!r} is unknown, since its name does not begin with eight hexadecimal digits: "
            "add a column 'split' to index.csv, or use --split all."
        )
    return split_of(stem)


def _stem(name: str) -> str:
    return next((name.removesuffix(end) for end in _LABELS if name.endswith(end)), name.removesuffix(".geojson"))


def _specimen(folder: Path, names: frozenset[str], stem: str, kind: str | None) -> Specimen:
    image = _first(names, stem, _IMAGES)
    truth = _first(names, stem, (*_LABELS, ".geojson"))
    if image is None:
        raise InvalidRequestError(f"There is no image {stem}.png beside its truth in {folder}: add it.")
    if truth is None:
        raise InvalidRequestError(
            f"{image} in {folder} has neither {stem}_labels.png nor {stem}.geojson: add one of them."
        )
    types = _first(names, stem, _TYPES)
    return Specimen(stem, kind, folder / image, folder / truth, folder / types if types else None)


def _first(names: frozenset[str], stem: str, ends: Iterable[str]) -> str | None:
    return next((stem + end for end in ends if stem + end in names), None)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"The file {path} cannot be read ({error.strerror}).") from error


def _read_labels(path: Path, *, height_px: int, width_px: int) -> Labels:
    labels = _read_numbers(path, height_px=height_px, width_px=width_px)
    numbers = np.unique(labels[labels > 0])
    if numbers.tolist() in ([255], [65535]) and cv2.connectedComponents((labels > 0).astype(np.uint8))[0] > 2:
        raise InvalidRequestError(
            f"{path.name} is a foreground mask, which does not separate cells: give every cell its own number."
        )
    return labels


def _read_numbers(path: Path, *, height_px: int, width_px: int) -> Labels:
    """``(H, W)`` integers of one channel."""
    data = _bytes(path)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # failures are raised
    try:
        numbers = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        numbers = None
    if numbers is None:
        raise InvalidRequestError(f"{path.name} cannot be decoded: save it as PNG or TIFF.")
    if (pages := cv2.imcount(str(path), cv2.IMREAD_UNCHANGED)) > 1:
        raise InvalidRequestError(f"{path.name} has {pages} pages: save the labels as one.")
    if numbers.dtype == np.uint16 and len(np.unique(numbers)) >= _NUMBERS_OF_16_BITS:
        raise InvalidRequestError(
            f"{path.name} uses all {_NUMBERS_OF_16_BITS - 1} numbers that 16 bits hold, so that later cells may "
            "have the numbers of earlier ones: save it as a TIFF of 32 bits."
        )
    if numbers.ndim != 2 or numbers.dtype.kind not in "iu":
        what = f"{numbers.shape[2]} channels" if numbers.ndim == 3 else "fractions"
        raise InvalidRequestError(
            f"{path.name} has {what}: save one channel of 16 bits, in which every cell has its own number."
        )
    if numbers.shape != (height_px, width_px):
        raise InvalidRequestError(
            f"{path.name} has {numbers.shape[1]} x {numbers.shape[0]} pixels, its image {width_px} x {height_px}: "
            "they must show the same pixels."
        )
    if int(numbers.min()) < 0 or int(numbers.max()) > _MOST_LABEL:
        raise InvalidRequestError(
            f"{path.name} has numbers outside of 0 to {_MOST_LABEL}: number the cells from 1."
        )
    labels: Labels = numbers.astype(np.int32)
    return labels


_NUMBERS_OF_16_BITS = 2**16
_MOST_LABEL = 2**24
"""Maximum label; tables have one entry per number up to the maximum."""


def _majority(labels: Labels, types: npt.NDArray[np.int32]) -> dict[int, str]:
    """The majority class number of each label, as text; labels without one are omitted."""
    inside = (labels > 0) & (types > 0)
    pairs, counts = np.unique(np.stack([labels[inside], types[inside]]), axis=1, return_counts=True)
    order = np.argsort(counts, kind="stable")  # the most frequent is last and overwrites the others
    return {int(label): str(int(number)) for label, number in pairs[:, order].T}
