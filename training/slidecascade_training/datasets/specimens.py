"""Slides and their annotation files, matched by name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from slidecascade.errors import (
    InvalidRequestError,
    MissingResolutionError,
    UndecodableImageError,
    UnreadableSlideError,
    UnusableDataError,
)
from slidecascade.geometry import Box, Mpp
from slidecascade.slides.region import resolve_mpp
from slidecascade.slides.slide import Slide, can_open
from slidecascade.slides.source import Source
from slidecascade.slides.upload import decode_image
from slidecascade.slides.view import SlideView
from slidecascade_evaluation import geojson
from slidecascade_evaluation.annotation import Annotation
from slidecascade_training.datasets import xmlfile

IMAGES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
SLIDES: Final = frozenset({".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm", ".czi"})
ANNOTATIONS: Final = (".geojson", ".json", ".xml", ".geojson.gz", ".json.gz")
Origin = Literal["slide", "bounds"]
MAX_ANNOTATION_BYTES: Final = 2**30
MAX_IMAGE_PX: Final = 400_000_000
"""Plain images are decoded as a whole; larger ones must be pyramids."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A slide or image, and its annotation file. `slide_id` is the slide's file name."""

    slide_path: Path
    annotation_path: Path

    @property
    def slide_id(self) -> str:
        return self.slide_path.name

    @contextmanager
    def view(self, mpp_if_unstated: Mpp | None) -> Iterator[SlideView]:
        """The whole slide, read as in the service.

        Raises:
            MissingResolutionError: no pixel size in the slide and none given.
            UnreadableSlideError, UndecodableImageError: damaged, or no slide.
        """
        try:
            with self._source() as source:
                if source.mpp is None and mpp_if_unstated is None:
                    raise MissingResolutionError(
                        f"{self.slide_id} does not state a usable pixel size: give --slide-mpp, the micrometres "
                        "per level-0 pixel of such slides."
                    )
                mpp = resolve_mpp(source, mpp_if_unstated if source.mpp is None else None)
                yield SlideView(source, mpp_l0=mpp)
        except (UnreadableSlideError, UndecodableImageError) as error:
            # There are many slides: the message must name this one.
            raise type(error)(f"{self.slide_id}: {error}") from error

    @contextmanager
    def _source(self) -> Iterator[Source]:
        if can_open(self.slide_path) or _is_slide(self.slide_path):  # damaged files may not be recognised
            slide = Slide.open(self.slide_path)
            try:
                yield slide
            finally:
                slide.close()
        else:
            yield decode_image(self._bytes(), max_px=MAX_IMAGE_PX)

    def _bytes(self) -> bytes:
        try:
            return self.slide_path.read_bytes()
        except OSError as error:
            raise UnreadableSlideError(
                f"the file cannot be read ({error.strerror}): check its permissions."
            ) from error

    def annotations(self) -> tuple[tuple[Annotation, ...], int]:
        """The annotations as the file has them, and how many objects were neither points nor polygons.

        Raises:
            UnusableDataError: the file is not one of the formats read here.
        """
        name = self.annotation_path.name
        data = _read(self.annotation_path)
        if not data.strip():
            raise UnusableDataError(f"{name} is empty: export the annotations again, or remove it.")
        return (xmlfile.parse if self._is_xml else geojson.parse)(data, name)

    def corner_l0(self, bounds_l0: Box | None, origin: Origin | None) -> tuple[int, int]:
        """The level-0 pixel that the annotations of a slide with these bounds count from.

        QuPath shows the part of a slide that was scanned and counts from its corner, so that GeoJSON does unless
        `origin`, or the file, says otherwise; ASAP and ImageScope count from level 0's.
        """
        if bounds_l0 is None:
            return 0, 0
        stated = origin or ("slide" if self._is_xml else geojson.stated_origin(_read(self.annotation_path)))
        return (0, 0) if stated == "slide" else (bounds_l0.x, bounds_l0.y)

    @property
    def _is_xml(self) -> bool:
        return self.annotation_path.name.lower().endswith(".xml")


def pair(slides_dir: Path, annotations_dir: Path) -> tuple[tuple[Specimen, ...], tuple[str, ...]]:
    """Every slide with an annotation file of its name, and the annotation files without a slide.

    ``liver.svs`` is annotated by ``liver.geojson`` or ``liver.svs.geojson``, likewise ``.json``, ``.xml`` and
    with ``.gz`` at the end of the first two.

    Raises:
        InvalidRequestError: a folder does not exist, nothing matches, or a slide is annotated twice.
    """
    for option, folder in (("--slides", slides_dir), ("--annotations", annotations_dir)):
        if not folder.is_dir():
            raise InvalidRequestError(f"There is no folder {folder}: give {option} one.")
    files = {path.name: path for path in sorted(annotations_dir.iterdir()) if _is_annotation(path)}
    specimens: list[Specimen] = []
    used: set[str] = set()
    for slide in slides_of(slides_dir):
        stems = {slide.name, slide.stem}
        names = [stem + ending for stem in sorted(stems) for ending in ANNOTATIONS if stem + ending in files]
        if len(names) > 1:
            raise InvalidRequestError(
                f"{slide.name} is annotated by {names[0]} and by {names[1]}: keep one of them."
            )
        if names:
            specimens.append(Specimen(slide, files[names[0]]))
            used.add(names[0])
    if not specimens:
        raise InvalidRequestError(
            f"No slide of {slides_dir} has an annotation file of its name in {annotations_dir}: "
            "liver.svs is annotated by liver.geojson, liver.json or liver.xml."
        )
    _require_distinct(specimens)
    return tuple(specimens), tuple(sorted(files.keys() - used))


def slides_of(folder: Path) -> Iterator[Path]:
    """The slides and images in `folder`, by name.

    Raises:
        InvalidRequestError: there is no such folder.
    """
    if not folder.is_dir():
        raise InvalidRequestError(f"There is no folder {folder}: give --slides one.")
    for path in sorted(folder.iterdir()):
        if path.is_file() and not _is_annotation(path) and (_is_image(path) or _is_slide(path) or can_open(path)):
            yield path


def _require_distinct(specimens: list[Specimen]) -> None:
    """Reject slides with the same stem, because an annotation file can belong to only one of them."""
    owners: dict[Path, Specimen] = {}
    for specimen in specimens:
        other = owners.setdefault(specimen.annotation_path, specimen)
        if other is not specimen:
            raise InvalidRequestError(
                f"{specimen.annotation_path.name} fits {other.slide_id} and {specimen.slide_id}: name it after "
                f"one of them, {other.slide_id}.geojson say."
            )


def _is_annotation(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ANNOTATIONS)


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in SLIDES


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES


def _read(path: Path) -> bytes:
    """The content of the file, decompressed if its name ends in .gz, of bounded size."""
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as packed:
                data = packed.read(MAX_ANNOTATION_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_ANNOTATION_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableDataError(f"{path.name} cannot be read: export the annotations again.") from error
    if len(data) > MAX_ANNOTATION_BYTES:
        raise UnusableDataError(f"{path.name} is larger than 1 GiB: export fewer annotations per file.")
    return data
