"""Builds a data set from slides and annotations; the only module that defines the order of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from slidecascade.errors import InvalidRequestError, UnusableDataError
from slidecascade.geometry import Mpp, Size
from slidecascade.models.spec import ModelClass
from slidecascade.slides.view import SlideView
from slidecascade.staging import staged_folder
from slidecascade_evaluation.annotation import Annotation
from slidecascade_training.datasets import labelling
from slidecascade_training.datasets.balance import Balance
from slidecascade_training.datasets.cropping import crops_at, is_glass
from slidecascade_training.datasets.folder import DatasetSpec, Example, Way, write_index, write_png
from slidecascade_training.datasets.labelling import Labelled
from slidecascade_training.datasets.masks import MaskTile, mask_tiles, pair_masks
from slidecascade_training.datasets.segmenting import cells_of
from slidecascade_training.datasets.specimens import Origin, Specimen, pair
from slidecascade_training.datasets.split import TRAIN, Split, require_slides, split_by_slide
from slidecascade_training.datasets.tiles import LabelledTile, labelled_tiles, stem_of
from slidecascade_training.datasets.vocabulary import PALETTE, Vocabulary, folder_of

_POINTS: Final = "points, which outline nothing"
_MOSTLY_GLASS: Final = 0.9
_EDGE_PX: Final = 1.0  # tolerance for annotations drawn along the edge of the slide


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """Which crops or tiles to extract from which slides.

    Attributes:
        mpp: pixel size of the crops, the model's.
        size_px: side of a crop or tile in pixels of `mpp`.
        way: ``points`` (marks and outlines), ``regions``, ``pipeline`` (cells of a segmentation, labelled by marks
            and regions), ``outlines`` (tiles with labels) or ``masks`` (tiles with masks; `annotations_dir` is a
            table of run lengths).
        pipeline: its name, for ``pipeline``.
        slide_mpp: micrometres per pixel of slides that do not state it; `slide_mpps`: of single ones by file name.
        validation: part of every class kept for validation; 0: none.
        stride_px: distance of crops within regions; default: `size_px`.
        within: class of polygons inside which everything is outlined, for ``outlines``.
        annotation_origin: what annotations count from; default: as `Specimen.corner_l0` says.
        outside_skipped: whether annotations outside the slide are skipped instead of rejected.
    """

    slides_dir: Path
    annotations_dir: Path
    out: Path
    mpp: Mpp
    size_px: int
    way: Way = "points"
    pipeline: str | None = None
    models_dir: Path | None = None
    slide_mpp: Mpp | None = None
    slide_mpps: Mapping[str, Mpp] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    validation: float = 0.2
    seed: int = 0
    stride_px: int | None = None
    within: str | None = None
    outside_skipped: bool = False
    annotation_origin: Origin | None = None

    def opened(self, specimen: Specimen) -> AbstractContextManager[SlideView]:
        """The slide of `specimen`, see `Specimen.view`."""
        return specimen.view(self.slide_mpps.get(specimen.slide_id, self.slide_mpp))


@dataclass(frozen=True, slots=True)
class Built:
    """A finished data set."""

    balance: Balance
    left_out: Mapping[str, int]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Annotated:
    """A slide with the selected annotations, and the areas within which everything is outlined."""

    specimen: Specimen
    annotations: tuple[Annotation, ...]
    areas: tuple[Annotation, ...]


def build(options: DatasetOptions, *, report: Callable[[str], object] = lambda _: None) -> Built:
    """Write the data set `options.out` atomically; `report` is called with a line for every slide.

    Raises:
        InvalidRequestError, UnusableDataError: invalid options, annotations or slides.
        UnwritableOutputError: a full disk.
        Errors of the production reading path: UnreadableSlideError, MissingResolutionError.
    """
    _require_sane(options)
    _require_absent(options.out)
    if options.way == "masks":
        return _build_masks(options, report)
    specimens, unmatched = pair(options.slides_dir, options.annotations_dir)
    _require_known(options, specimens)
    left_out: Counter[str] = Counter()
    annotated = [_read(specimen, options, left_out) for specimen in specimens]
    _require_shapes(annotated, options)
    found = {str(item.class_name) for slide in annotated for item in slide.annotations}
    classes = options.vocabulary.classes(found)
    require_slides(sum(bool(slide.annotations) for slide in annotated), share=options.validation)
    with staged_folder(options.out, is_durable=False) as folder:
        make = _tiles if options.way == "outlines" else _crops
        examples = make(folder, annotated, classes, options, left_out, report)
        counted = ("tiles",) if options.way == "outlines" else classes
        balance = Balance.of(counted, [(item.class_name or "tiles", item.slide, item.split) for item in examples])
        write_index(folder, _spec(options, classes, balance, left_out), examples)
    return Built(balance, dict(left_out), unmatched)


def _require_absent(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidRequestError(f"{folder} exists: remove it or choose another --out.")


def _require_sane(options: DatasetOptions) -> None:
    wrong = None
    if not (np.isfinite(options.mpp) and 0 < options.mpp <= 100):
        wrong = "--mpp must be a positive number of micrometres per pixel, at most 100."
    elif not 4 <= options.size_px <= 2048:
        wrong = "--size must be 4 to 2048 pixels."
    elif not 0 <= options.validation < 1:
        wrong = "--validation must be a part between 0 and 1, e.g. 0.2."
    elif options.way == "pipeline" and not options.pipeline:
        wrong = "Name the pipeline whose cells are to be cut out: --from pipeline NAME."
    elif not all(np.isfinite(mpp) and 0 < mpp <= 100 for mpp in _stated_mpps(options)):
        wrong = "--slide-mpp must be a positive number of micrometres per pixel, at most 100."
    elif options.seed < 0:
        wrong = "--seed must be at least 0."
    elif options.stride_px is not None and options.stride_px < 1:
        wrong = "--stride must be at least 1 pixel."
    if wrong:
        raise InvalidRequestError(wrong)


def _stated_mpps(options: DatasetOptions) -> tuple[Mpp, ...]:
    return (*options.slide_mpps.values(), *(() if options.slide_mpp is None else (options.slide_mpp,)))


def _require_known(options: DatasetOptions, specimens: Sequence[Specimen]) -> None:
    for name in options.slide_mpps.keys() - {specimen.slide_id for specimen in specimens}:
        raise InvalidRequestError(
            f"--slide-mpp names {name!r}, which is not an annotated slide: use its file name."
        )


def _read(specimen: Specimen, options: DatasetOptions, left_out: Counter[str]) -> _Annotated:
    """The annotations of a slide, checked against its size before any pixel is read."""
    name = specimen.annotation_path.name
    annotations, strange = specimen.annotations()
    areas = tuple(item for item in annotations if options.within and item.class_name == options.within)
    rest = tuple(item for item in annotations if not (options.within and item.class_name == options.within))
    if options.way == "outlines":
        # An outline is an instance regardless of its class.
        named = options.vocabulary.wanted[0] if options.vocabulary.wanted else "Nucleus"
        left_out[_POINTS] += sum(len(item.points_l0) for item in rest)
        rest = tuple(replace(item, class_name=item.class_name or named) for item in rest if item.is_polygon)
    counted = options.vocabulary.applied(rest, name)
    left_out["neither points nor polygons"] += strange
    left_out["without a class or of another one"] += len(rest) - len(counted)
    if options.way in ("outlines", "regions"):
        flat = sum(item.is_flat for item in counted)
        left_out["polygons without area"] += flat
        counted = tuple(item for item in counted if not item.is_flat) if flat else counted
    with options.opened(specimen) as view:
        corner = specimen.corner_l0(view.source.bounds_l0, options.annotation_origin)
        counted, areas = (tuple(item.shifted(*corner) for item in part) for part in (counted, areas))
        inside = _inside(counted, view.source.size_l0, specimen, options.outside_skipped)
    left_out["outside the slide"] += len(counted) - len(inside)
    return _Annotated(specimen, inside, areas)


def _require_shapes(annotated: Sequence[_Annotated], options: DatasetOptions) -> None:
    """Check, before reading pixels, that every class has annotations of the kind to extract."""
    found = [item for slide in annotated for item in slide.annotations]
    if options.way == "outlines" and not found:
        raise UnusableDataError(
            "No annotation is a polygon with an area, and --from outlines needs some: outline the cells."
        )
    if options.way == "regions":
        outlined = {item.class_name for item in found if item.is_polygon}
        for name in sorted({str(item.class_name) for item in found} - outlined):
            raise UnusableDataError(
                f"The class {name!r} has points only, and --from regions needs polygons: outline it, take --from "
                "points or pipeline, or leave the class out with --classes and --skip-others."
            )


def _inside(
    annotations: tuple[Annotation, ...], size: Size, specimen: Specimen, skipped: bool
) -> tuple[Annotation, ...]:
    """The annotations that lie on the slide."""
    centres = [item.centres_l0 for item in annotations]
    fits = [
        bool(((centre >= -_EDGE_PX) & (centre <= np.array([size.width, size.height]) + _EDGE_PX)).all())
        for centre in centres
    ]
    if not all(fits) and not skipped:
        first = centres[fits.index(False)][0]
        raise UnusableDataError(
            f"{fits.count(False)} of {len(fits)} annotations of {specimen.annotation_path.name} lie outside "
            f"{specimen.slide_id} of {size.width} x {size.height} level-0 pixels, the first at "
            f"({first[0]:.0f}, {first[1]:.0f}): they belong to another slide or magnification; leave them "
            "out with --skip-outside if you know why."
        )
    return tuple(item for item, fit in zip(annotations, fits, strict=True) if fit)


def _crops(
    folder: Path,
    annotated: Sequence[_Annotated],
    classes: tuple[str, ...],
    options: DatasetOptions,
    left_out: Counter[str],
    report: Callable[[str], object],
) -> list[Example]:
    for index, name in enumerate(classes):
        (folder / "crops" / folder_of(name, index)).mkdir(parents=True)
    counts: dict[str, list[int]] = {}
    glass: Counter[str] = Counter()
    written: list[tuple[str, int, str, float, float]] = []
    for slide, labelled, view in _labelled(annotated, classes, options, left_out):
        slide_id = slide.specimen.slide_id
        counts[slide_id] = np.bincount(labelled.classes, minlength=len(classes)).tolist()
        for rows, images in crops_at(view, labelled.centres_l0, mpp=options.mpp, size_px=options.size_px):
            for row, image in zip(rows.tolist(), images, strict=True):
                label = int(labelled.classes[row])
                file = f"crops/{folder_of(classes[label], label)}/{slide_id}-{row}.png"
                write_png(folder / file, image)
                glass[slide_id] += is_glass(image)
                x, y = labelled.centres_l0[row].tolist()
                written.append((file, label, slide_id, round(x, 2), round(y, 2)))
        report(f"{slide_id}: {len(labelled.classes)} crops{_glass_text(glass[slide_id])}")
    _require_tissue(glass.total(), len(written))
    _require_some({name: sum(row[index] for row in counts.values()) for index, name in enumerate(classes)})
    split = split_by_slide(_non_empty(counts), share=options.validation, seed=options.seed)
    return [Example(file, classes[label], slide, split[slide], x, y) for file, label, slide, x, y in written]


def _glass_text(count: int) -> str:
    return f", {count} of them nearly all glass: look at where they lie" if count else ""


def _require_tissue(glass: int, total: int) -> None:
    if total and glass >= _MOSTLY_GLASS * total:
        raise UnusableDataError(
            f"{glass} of {total} crops are nearly all glass: the annotations count from another corner or belong "
            "to other slides; say which with --annotation-origin slide or bounds."
        )


def _non_empty(counts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    return {slide: row for slide, row in counts.items() if sum(row)}


def _require_some(totals: Mapping[str, int]) -> None:
    for name, total in totals.items():
        if not total:
            raise UnusableDataError(
                f"No crop has the class {name!r}: no cell lies where it is annotated, or it has no marks of the "
                "kind that --from uses; annotate it in other places or use another --from."
            )


def _labelled(
    annotated: Sequence[_Annotated], classes: Sequence[str], options: DatasetOptions, left_out: Counter[str]
) -> Iterator[tuple[_Annotated, Labelled, SlideView]]:
    """Every slide with its labelled centres and access to its pixels."""
    for slide in annotated:
        with options.opened(slide.specimen) as view:
            labelled = _places(slide, view, classes, options, left_out)
            yield slide, labelled.inside(view.source.size_l0), view


def _places(
    slide: _Annotated, view: SlideView, classes: Sequence[str], options: DatasetOptions, left_out: Counter[str]
) -> Labelled:
    if options.way == "points":
        return labelling.at_marks(slide.annotations, classes)
    if options.way == "regions":
        stride_l0 = (options.stride_px or options.size_px) * options.mpp / view.mpp_l0
        size = view.source.size_l0
        return labelling.over_regions(slide.annotations, classes, stride_l0=stride_l0, size=size)
    cells = cells_of(
        slide.specimen, slide.annotations, view, pipeline=str(options.pipeline), models_dir=options.models_dir
    )
    found = labelling.of_cells(cells, slide.annotations, classes)
    left_out["cells with marks of two classes"] += found.conflicting
    left_out["marks that lie in no cell"] += found.marks_without_cell
    return found.labelled


def _tiles(
    folder: Path,
    annotated: Sequence[_Annotated],
    _classes: tuple[str, ...],
    options: DatasetOptions,
    _left_out: Counter[str],
    report: Callable[[str], object],
) -> list[Example]:
    counts = {slide.specimen.slide_id: [len(slide.annotations)] for slide in annotated if slide.annotations}
    split = split_by_slide(counts, share=options.validation, seed=options.seed)
    examples: list[Example] = []
    for slide in annotated:
        slide_id = slide.specimen.slide_id
        before = len(examples)
        with options.opened(slide.specimen) as view:
            for tile in labelled_tiles(
                view, slide.annotations, slide.areas, mpp=options.mpp, size_px=options.size_px, name=slide_id
            ):
                examples.append(_store_tile(folder, slide_id, tile, split.get(slide_id, TRAIN)))
        report(f"{slide_id}: {len(slide.annotations)} outlines in {len(examples) - before} tiles")
    if not examples:
        raise UnusableDataError(
            "No tile could be cut: the areas of --within are smaller than a tile, or nothing is outlined."
        )
    return examples


def _store_tile(folder: Path, slide_id: str, tile: LabelledTile, split: Split) -> Example:
    stem = stem_of(slide_id, tile.x_l0, tile.y_l0, split)
    write_png(folder / f"{stem}.png", tile.image)
    write_png(folder / f"{stem}_labels.png", tile.labels)
    return Example(f"{stem}.png", "", slide_id, split, round(tile.x_l0, 2), round(tile.y_l0, 2))


def _build_masks(options: DatasetOptions, report: Callable[[str], object]) -> Built:
    """Tiles with masks; the table of run lengths is in place of the folder of annotations."""
    pairs = pair_masks(options.slides_dir, options.annotations_dir)
    require_slides(len(pairs), share=options.validation)
    _require_known(options, [specimen for specimen, _ in pairs])
    counts: dict[str, list[int]] = {}
    with staged_folder(options.out, is_durable=False) as folder:
        split = split_by_slide(
            {specimen.slide_id: [len(text.split()) // 2] for specimen, text in pairs},
            share=options.validation,
            seed=options.seed,
        )
        examples: list[Example] = []
        for specimen, text in pairs:
            slide_id, before = specimen.slide_id, len(examples)
            with options.opened(specimen) as view:
                tiles = mask_tiles(
                    view, text, mpp=options.mpp, size_px=options.size_px, name=slide_id, seed=options.seed
                )
                examples += [_store_mask(folder, slide_id, tile, split[slide_id]) for tile in tiles]
            counts[slide_id] = [len(examples) - before]
            report(f"{slide_id}: {len(examples) - before} tiles")
        if not examples:
            raise UnusableDataError(
                "No tile shows an area: the run lengths are empty, or the areas are too small."
            )
        balance = Balance.of(("tiles",), [("tiles", item.slide, item.split) for item in examples])
        classes = options.vocabulary.wanted[:1] or ("Area",)
        write_index(folder, _spec(options, classes, balance, {}), examples)
    return Built(balance, {}, ())


def _store_mask(folder: Path, slide_id: str, tile: MaskTile, split: Split) -> Example:
    stem = stem_of(slide_id, tile.x_l0, tile.y_l0, split)
    write_png(folder / f"{stem}.png", tile.image)
    write_png(folder / f"{stem}_mask.png", tile.mask)
    write_png(folder / f"{stem}_labels.png", tile.labels)
    return Example(f"{stem}.png", "", slide_id, split, round(tile.x_l0, 2), round(tile.y_l0, 2))


def _spec(
    options: DatasetOptions, classes: tuple[str, ...], balance: Balance, left_out: Mapping[str, int]
) -> DatasetSpec:
    tiles = options.way in ("outlines", "masks")
    named = (classes if len(classes) == 1 else ("Cell",)) if tiles else classes
    return DatasetSpec(
        kind="tiles" if tiles else "crops",
        name=options.out.name,
        mpp=options.mpp,
        size_px=options.size_px,
        classes=tuple(
            ModelClass(name=name, color=PALETTE[index % len(PALETTE)]) for index, name in enumerate(named)
        ),
        made_from=options.way,
        pipeline=options.pipeline,
        seed=options.seed,
        balance=balance.as_json(),
        left_out={reason: count for reason, count in left_out.items() if count},
    )
