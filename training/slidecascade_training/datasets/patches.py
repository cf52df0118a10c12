"""Contexts of patches from slides with masks, for classifiers of pipelines of the kind ``patches``.

A square of the lattice is positive when it holds any positive pixel of the mask; only squares that hold tissue are
taken. A context is cut as the service cuts it: the whole pixel nearest to half the difference before its square,
white beyond the slide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from slidecascade.errors import InvalidRequestError, UnusableDataError
from slidecascade.geometry import Box, Grid, Mpp
from slidecascade.models.spec import ModelClass
from slidecascade.slides.tissue import BLOCK_PX, tissue_blocks
from slidecascade.slides.view import SlideView
from slidecascade.staging import staged_folder
from slidecascade_evaluation.lattice import MaskedSlide, find_masked, positive_squares
from slidecascade_training.datasets.balance import Balance
from slidecascade_training.datasets.folder import DatasetSpec, Example, write_index, write_png
from slidecascade_training.datasets.specimens import Specimen
from slidecascade_training.datasets.split import require_slides, split_by_slide
from slidecascade_training.datasets.vocabulary import folder_of

Sampling = Literal["all", "reference"]
SAMPLINGS: Final[tuple[Sampling, ...]] = ("all", "reference")
GLASS: Final = 255
CLASSES: Final = ("Normal", "Tumour")
_COLORS: Final = ((0, 158, 115), (213, 94, 0))
_BLOCK_SQUARES: Final = 16
"""Squares each way that are read together."""

_NEARLY_NEGATIVE: Final = 0.01
"""Most positive squares, as part of those with tissue, of a slide that is nearly negative."""

Squares = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchOptions:
    """Which contexts to extract from which slides.

    Attributes:
        masks_dir: folder of the masks; default: `slides_dir`.
        mpp: pixel size of the contexts; `slide_mpp`, `slide_mpps`: of slides that do not state theirs.
        context_px, stride_px: as in a pipeline file.
        sampling: ``all`` squares, or as the reference samples: a third of the positives, half as many negatives of
            the same slide, and as many again evenly from slides that are nearly negative.
        above: grey level above which a pixel of a mask is positive.
        polygons: class of the polygons that count, where there are polygons in place of a mask; default: all.
        class_names: of negative and positive squares.
    """

    slides_dir: Path
    out: Path
    mpp: Mpp
    context_px: int
    stride_px: int
    masks_dir: Path | None = None
    slide_mpp: Mpp | None = None
    slide_mpps: Mapping[str, Mpp] = field(default_factory=dict)
    sampling: Sampling = "all"
    above: int = 0
    polygons: str | None = None
    class_names: tuple[str, ...] = CLASSES
    validation: float = 0.2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Column and row ``(N, 2)`` of the squares of a slide, by class: negative, positive."""

    negative: Squares
    positive: Squares

    @property
    def is_nearly_negative(self) -> bool:
        return len(self.positive) < _NEARLY_NEGATIVE * (len(self.positive) + len(self.negative))


def build_patches(options: PatchOptions, *, report: Callable[[str], object] = lambda _: None) -> Balance:
    """Write the data set `options.out` atomically; `report` is called with a line for every slide.

    Raises:
        InvalidRequestError, UnusableDataError: invalid options, masks or slides.
        UnwritableOutputError: a full disk.
        Errors of the production reading path: UnreadableSlideError, MissingResolutionError.
    """
    _require_sane(options)
    slides = find_masked(options.slides_dir, options.masks_dir)
    require_slides(len(slides), share=options.validation)
    squares: dict[str, Sampled] = {}
    for slide in slides:
        with _opened(slide, options) as view:
            squares[slide.name] = _squares(view, slide, options)
        found = squares[slide.name]
        report(f"{slide.name}: {len(found.positive)} positive and {len(found.negative)} negative squares")
    if options.sampling == "reference":
        squares = as_the_reference_samples(squares, seed=options.seed)
    if not any(len(item.positive) for item in squares.values()):
        raise UnusableDataError(
            "No square with tissue holds a positive pixel: check the masks, --mask-above and --mask-class."
        )
    counts = {name: (len(item.negative), len(item.positive)) for name, item in squares.items()}
    split = split_by_slide(counts, share=options.validation, seed=options.seed)
    examples: list[Example] = []
    with staged_folder(options.out, is_durable=False) as folder:
        for slide in slides:
            with _opened(slide, options) as view:
                for example, image in _examples(view, slide.name, squares[slide.name], options):
                    path = folder / example.file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_png(path, image)
                    examples.append(Example(*example.place, split[slide.name], *example.centre_l0))
        rows = [(item.class_name, item.slide, item.split) for item in examples]
        balance = Balance.of(options.class_names, rows)
        write_index(folder, _spec(options, balance), examples)
    return balance


def as_the_reference_samples(squares: Mapping[str, Sampled], *, seed: int) -> dict[str, Sampled]:
    """A third of the positives of each slide, half as many negatives of it, and as many again from elsewhere.

    "Elsewhere" are the slides that are nearly negative, each with the same share; where there are none, or they
    have too few squares, there are fewer negatives.
    """
    generator = np.random.default_rng([seed, 31])
    chosen: dict[str, Sampled] = {}
    wanted = 0
    for name, item in squares.items():
        positive = _some(item.positive, -(-len(item.positive) // 3), generator)
        same = _some(item.negative, len(positive) // 2, generator)
        wanted += len(positive) - len(positive) // 2
        chosen[name] = Sampled(same, positive)
    elsewhere = [name for name, item in squares.items() if item.is_nearly_negative]
    for index, name in enumerate(elsewhere):
        share = wanted // len(elsewhere) + (index < wanted % len(elsewhere))
        kept = chosen[name]
        rest = _without(squares[name].negative, kept.negative)
        more = np.concatenate([kept.negative, _some(rest, share, generator)])
        chosen[name] = Sampled(more, kept.positive)
    return chosen


def _some(squares: Squares, count: int, generator: np.random.Generator) -> Squares:
    """At most `count` of `squares`, in their order."""
    picked = generator.permutation(len(squares))[:count]
    return squares[np.sort(picked)]


def _without(squares: Squares, taken: Squares) -> Squares:
    known = {tuple(place) for place in taken.tolist()}
    return squares[[tuple(place) not in known for place in squares.tolist()]]


def _require_sane(options: PatchOptions) -> None:
    wrong = None
    if options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir())):
        wrong = f"{options.out} exists: remove it or choose another --out."
    elif not (np.isfinite(options.mpp) and 0 < options.mpp <= 100):
        wrong = "--mpp must be a positive number of micrometres per pixel, at most 100."
    elif options.stride_px < BLOCK_PX or options.stride_px % BLOCK_PX:
        wrong = f"--stride must be a multiple of {BLOCK_PX} pixels."
    elif options.context_px < options.stride_px:
        wrong = "--stride is larger than --size: a context has to hold the square it is labelled by."
    elif len(options.class_names) != len(CLASSES):
        wrong = "--classes must name two classes for patches: the negative one, then the positive one."
    elif not 0 <= options.validation < 1:
        wrong = "--validation must be a part between 0 and 1, e.g. 0.2."
    if wrong:
        raise InvalidRequestError(wrong)


def _opened(slide: MaskedSlide, options: PatchOptions) -> AbstractContextManager[SlideView]:
    return Specimen(slide.path, slide.mask).view(options.slide_mpps.get(slide.name, options.slide_mpp))


def _squares(view: SlideView, slide: MaskedSlide, options: PatchOptions) -> Sampled:
    """The squares that hold tissue, by what the mask says."""
    grid, stride = view.grid(options.mpp), options.stride_px
    columns, rows = grid.size.width // stride, grid.size.height // stride
    if not (columns and rows):
        raise UnusableDataError(f"{slide.name} is smaller than a square: use a smaller --stride.")
    side_l0 = stride * grid.downsample
    positive = positive_squares(
        slide.mask,
        view.source.size_l0,
        [step * side_l0 for step in range(columns + 1)],
        [step * side_l0 for step in range(rows + 1)],
        above=options.above,
        class_name=options.polygons,
        bounds_l0=view.source.bounds_l0,
    )
    tissue = np.zeros((rows, columns), np.bool_)
    each = stride // BLOCK_PX
    for top in range(0, rows, _BLOCK_SQUARES):
        for left in range(0, columns, _BLOCK_SQUARES):
            height, width = min(_BLOCK_SQUARES, rows - top), min(_BLOCK_SQUARES, columns - left)
            pixels = view.read(grid, Box(left * stride, top * stride, width * stride, height * stride))
            blocks = tissue_blocks(pixels, dark_field=False).reshape(height, each, width, each)
            tissue[top : top + height, left : left + width] = blocks.any(axis=(1, 3))
    return Sampled(np.argwhere(tissue & ~positive)[:, ::-1], np.argwhere(tissue & positive)[:, ::-1])


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a context is stored, and what it is of."""

    file: str
    class_name: str
    slide: str
    centre_l0: tuple[float, float]

    @property
    def place(self) -> tuple[str, str, str]:
        return self.file, self.class_name, self.slide


def _examples(
    view: SlideView, name: str, squares: Sampled, options: PatchOptions
) -> Iterator[tuple[_Cut, npt.NDArray[np.uint8]]]:
    grid = view.grid(options.mpp)
    for index, places in enumerate((squares.negative, squares.positive)):
        class_name = options.class_names[index]
        for number, (column, row) in enumerate(places.tolist()):
            middle = np.array([[column + 0.5, row + 0.5]]) * options.stride_px
            x, y = grid.l0_from_grid(middle)[0].round(2).tolist()
            file = f"crops/{folder_of(class_name, index)}/{Path(name).stem}-{number}.png"
            image = context(view, grid, column, row, context_px=options.context_px, stride_px=options.stride_px)
            yield _Cut(file, class_name, name, (x, y)), image


def context(
    view: SlideView, grid: Grid, column: int, row: int, *, context_px: int, stride_px: int
) -> npt.NDArray[np.uint8]:
    """The context ``(context_px, context_px, 3)`` of a square, uint8 RGB, white beyond the slide."""
    start = math.floor((stride_px - context_px) / 2 + 0.5)
    box = Box(column * stride_px + start, row * stride_px + start, context_px, context_px)
    image = np.full((context_px, context_px, 3), GLASS, np.uint8)
    inside = box.clipped(grid.extent)
    here = inside.shifted(-box.x, -box.y)
    image[here.y : here.bottom, here.x : here.right] = view.read(grid, inside)
    return image


def _spec(options: PatchOptions, balance: Balance) -> DatasetSpec:
    return DatasetSpec(
        kind="crops",
        name=options.out.name,
        mpp=options.mpp,
        size_px=options.context_px,
        classes=tuple(
            ModelClass(name=name, color=color) for name, color in zip(options.class_names, _COLORS, strict=True)
        ),
        made_from="patches",
        seed=options.seed,
        balance=balance.as_json(),
    )
