"""How well a pipeline of areas covers what masks cover: pixels by slide and pooled, and areas as objects.

Each image ``x.png`` or ``x_image.png`` has a mask ``x_mask.png`` beside it, whose pixels are the numbers of
classes, counted from 1; for a pipeline of one class all that is not 0. Or it has ``x.geojson``, whose polygons,
in pixels of the image, name the pipeline's classes; for a pipeline of one class all polygons count. The slide of
an image is what ``index.csv`` says, as `slidecascade dataset` writes it; without, its name up to the first
underscore.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.flow import Progress, say_nothing
from slidecascade.areas.result import AreasResult
from slidecascade.cancellation import Control
from slidecascade.errors import InvalidRequestError
from slidecascade.geometry import Size
from slidecascade_evaluation.geojson import parse
from slidecascade_evaluation.matching import MatchCounts, count_matches, iou_matrix
from slidecascade_evaluation.rasters import filled

Bools = npt.NDArray[np.bool_]
_IMAGES: Final = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_IMAGE, _MASK, _POLYGONS = "_image", "_mask", ".geojson"
_IOU: Final = 0.5


@dataclass(frozen=True)
class MaskTally:
    """Pixels and areas of one class, found and true. Areas are matched at an IoU of 0.5."""

    both_px: int = 0
    found_px: int = 0
    true_px: int = 0
    objects: MatchCounts = field(default_factory=lambda: MatchCounts(0, 0, 0))

    def __add__(self, other: MaskTally) -> MaskTally:
        return MaskTally(
            self.both_px + other.both_px,
            self.found_px + other.found_px,
            self.true_px + other.true_px,
            self.objects + other.objects,
        )

    @property
    def figures(self) -> dict[str, float]:
        """Dice, IoU, precision and recall of pixels, F1 of areas.

        All are 1 where there was nothing and nothing found, and 0 where one of the two is empty.
        """
        empty = float(not self.found_px and not self.true_px)
        return {
            "dice": _ratio(2 * self.both_px, self.found_px + self.true_px, empty),
            "iou": _ratio(self.both_px, self.found_px + self.true_px - self.both_px, empty),
            "precision": _ratio(self.both_px, self.found_px, empty),
            "recall": _ratio(self.both_px, self.true_px, empty),
            "object_f1": self.objects.f1,
        }


@dataclass(frozen=True)
class MaskTrial:
    """What was found in all images, by class: in each image and slide, and in all together."""

    pipeline: str
    mpp: float
    thresholds: Mapping[str, float]
    images: Mapping[str, Mapping[str, MaskTally]]
    slide_of: Mapping[str, str]

    @property
    def slides(self) -> dict[str, dict[str, MaskTally]]:
        found: dict[str, dict[str, MaskTally]] = {}
        for stem, classes in self.images.items():
            slide = found.setdefault(self.slide_of[stem], {})
            for name, tally in classes.items():
                slide[name] = slide.get(name, MaskTally()) + tally
        return found

    @property
    def pooled(self) -> dict[str, MaskTally]:
        found: dict[str, MaskTally] = {}
        for classes in self.images.values():
            for name, tally in classes.items():
                found[name] = found.get(name, MaskTally()) + tally
        return found


def tally_of(true: Bools, found: Bools) -> MaskTally:
    """Two masks ``(H, W)`` compared; areas are pixels connected by sides.

    Raises:
        ValueError: the masks differ in shape.
    """
    if true.shape != found.shape:
        raise ValueError(f"Masks of shapes {true.shape} and {found.shape} cannot be compared.")
    labels = [cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1] for mask in (true, found)]
    objects = count_matches(iou_matrix(labels[0], labels[1]), _IOU)
    return MaskTally(int((true & found).sum()), int(found.sum()), int(true.sum()), objects)


@dataclass(frozen=True)
class Pair:
    """An image, the slide it is of, and its mask."""

    stem: str
    slide: str
    image: Path
    mask: Path


def find_pairs(folder: Path, split: str | None = None) -> tuple[Pair, ...]:
    """Every image in `folder` that has a mask; where ``index.csv`` names a split, those of `split` alone.

    Args:
        split: ``train``, ``validate`` or ``all``; default: ``validate``.

    Raises:
        InvalidRequestError: there is none.
    """
    masks = {path.stem.removesuffix(_IMAGE): path for path in sorted(folder.glob(f"*{_POLYGONS}"))}
    masks |= {path.stem.removesuffix(_MASK): path for path in sorted(folder.glob(f"*{_MASK}.*"))}
    index = _index(folder / "index.csv")
    wanted = split or "validate"
    pairs = []
    for path in sorted(folder.iterdir() if folder.is_dir() else []):
        stem = path.stem.removesuffix(_IMAGE)
        if path.suffix.lower() not in _IMAGES or path.stem.endswith(_MASK) or stem not in masks:
            continue
        slide, own_split = index.get(stem, (stem.split("_")[0], None))
        if wanted == "all" or own_split in (None, wanted):
            pairs.append(Pair(stem, slide, path, masks[stem]))
    if not pairs:
        part = f" in its split {wanted}" if index and wanted != "all" else ""
        raise InvalidRequestError(
            f"{folder} has no image with a mask{part}: give a folder of x.png or x_image.png with x_mask.png or "
            "x.geojson."
        )
    return tuple(pairs)


def _index(path: Path) -> dict[str, tuple[str, str | None]]:
    """Slide and split by stem, as `slidecascade dataset` writes them."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        return {row["stem"]: (row["slide"], row.get("split")) for row in csv.DictReader(lines)}


def run_masks(
    analyser: Analyser,
    pipeline: str,
    folder: Path,
    *,
    mpp: float | None = None,
    split: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    progress: Progress = say_nothing,
) -> MaskTrial:
    """Analyse every image of `folder` as an upload and compare; without `mpp` at the network's own resolution.

    Raises:
        InvalidRequestError: the pipeline finds no areas, there is no image with a mask, or a mask is of another
            size than its image.
        SlideCascadeError: the analysis failed.
    """
    info = analyser.pipeline(pipeline)
    if info.segmenter is None or info.kind != "areas":
        raise InvalidRequestError(f"The pipeline {pipeline!r} finds no areas: choose one of the kind areas.")
    own = analyser.model(info.segmenter).mpp if mpp is None else mpp
    request = wire.parse_request({"pipeline": pipeline, "mpp": own, "thresholds": dict(thresholds or {})})
    pairs = find_pairs(folder, split)
    images: dict[str, dict[str, MaskTally]] = {}
    for number, pair in enumerate(pairs):
        result = analyser.analyse(request, pair.image.read_bytes(), Control()).analysis
        assert isinstance(result, AreasResult)  # noqa: S101 - of a pipeline of this kind
        images[pair.stem] = _compared(result, pair.mask)
        progress(number + 1, len(pairs))
    return MaskTrial(pipeline, own, dict(result.thresholds), images, {pair.stem: pair.slide for pair in pairs})


def document(trial: MaskTrial) -> dict[str, Any]:
    """The trial as JSON values, in order: pooled, by slide, the images with the lowest Dice."""
    worst = sorted(trial.images, key=lambda stem: min(_dice_of(trial.images[stem].values()), default=1.0))
    return {
        "research_use_only": wire.RESEARCH_USE_ONLY,
        "pipeline": trial.pipeline,
        "mpp": trial.mpp,
        "thresholds": dict(trial.thresholds),
        "images": len(trial.images),
        "pooled": _figures(trial.pooled),
        "slides": {slide: _figures(classes) for slide, classes in trial.slides.items()},
        "worst": {stem: _figures(trial.images[stem]) for stem in worst[:6]},
    }


def table(trial: MaskTrial) -> str:
    """The trial as text."""
    names = list(MaskTally().figures)
    lines = ["".join([f"{'':<24}{'class':<20}", *(f"{name:>11}" for name in names)])]
    for where, classes in {"pooled": trial.pooled, **trial.slides}.items():
        for name, tally in classes.items():
            numbers = "".join(f"{value:>11.4f}" for value in tally.figures.values())
            lines.append(f"{where:<24}{name:<20}{numbers}")
    return "\n".join([*lines, wire.RESEARCH_USE_ONLY, ""])


def _compared(result: AreasResult, path: Path) -> dict[str, MaskTally]:
    region = result.region_l0
    names = [end.name for end in result.classes.ends]
    read = _polygons if path.suffix == _POLYGONS else _mask
    truth = read(path, names, Size(region.width, region.height))
    size = (region.width, region.height)
    tallies = {}
    for index, end in enumerate(result.classes.ends):
        found = result.of_class(index).painted(result.box).astype(np.uint8)
        enlarged = cv2.resize(found, size, interpolation=cv2.INTER_NEAREST) if found.size else np.zeros(size[::-1])
        tallies[end.name] = tally_of(truth[index], np.asarray(enlarged > 0))
    return tallies


def _mask(path: Path, names: Sequence[str], size: Size) -> list[Bools]:
    """The pixels ``(H, W)`` of each class in a mask."""
    truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if truth is None:
        raise InvalidRequestError(f"The mask {path.name} cannot be read: write it as PNG.")
    if truth.ndim != 2 or truth.shape != (size.height, size.width):
        channels = 1 if truth.ndim == 2 else truth.shape[2]
        raise InvalidRequestError(
            f"The mask {path.name} has {truth.shape[1]} x {truth.shape[0]} px and {channels} channels, and its "
            f"image {size.width} x {size.height} px: write it as a grey image of that size."
        )
    if len(names) == 1:
        return [np.asarray(truth > 0)]
    return [np.asarray(truth == index + 1) for index in range(len(names))]


def _polygons(path: Path, names: Sequence[str], size: Size) -> list[Bools]:
    """The pixels ``(H, W)`` whose middles lie in polygons of each class."""
    found = [item for item in parse(path.read_bytes(), path.name)[0] if item.is_polygon]
    unknown = sorted({str(item.class_name) for item in found if item.class_name not in names})
    if len(names) > 1 and unknown:
        raise InvalidRequestError(
            f"{path.name} has polygons of {unknown[0]!r}, and the pipeline finds {', '.join(names)}: rename the "
            "class."
        )
    return [
        filled(
            [item.rings_l0 for item in found if len(names) == 1 or item.class_name == name],
            height_px=size.height,
            width_px=size.width,
        )
        for name in names
    ]


def _figures(classes: Mapping[str, MaskTally]) -> dict[str, dict[str, float]]:
    return {
        name: {figure: round(value, 4) for figure, value in tally.figures.items()}
        for name, tally in classes.items()
    }


def _dice_of(tallies: Sequence[MaskTally] | Any) -> list[float]:
    return [tally.figures["dice"] for tally in tallies]


def _ratio(part: int, whole: int, otherwise: float) -> float:
    return part / whole if whole else otherwise
