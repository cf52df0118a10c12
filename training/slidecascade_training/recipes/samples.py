"""Batches for training and validation, drawn from a data set's files."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import UnusableDataError
from slidecascade_training.datasets.folder import DatasetSpec, Example, read_index
from slidecascade_training.datasets.split import TRAIN, VALIDATE
from slidecascade_training.recipes.augment import Augmentation, Image, view_of
from slidecascade_training.recipes.table import Recipe

Floats = npt.NDArray[np.float32]
Batch = tuple[Floats, Floats, Floats] | tuple[Floats, Floats]

_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_RGB, _GREY = 2, 0


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A data set checked for a recipe, with its two parts."""

    folder: Path
    spec: DatasetSpec
    train: tuple[Example, ...]
    validate: tuple[Example, ...]

    @classmethod
    def read(cls, folder: Path, recipe: Recipe) -> TrainingSet:
        """Read the index and the header of every image.

        Raises:
            UnusableDataError: of another kind than the recipe wants, a class without examples for training, or an
                image that is not 8-bit RGB of the stated size.
        """
        spec, examples = read_index(folder)
        wanted = "crops" if recipe.task == "classify" else "tiles"
        if spec.kind != wanted:
            raise UnusableDataError(
                f"The recipe {recipe.name} learns from {wanted}, and the data set holds {spec.kind}: make one "
                + ("with --from points, regions or pipeline." if wanted == "crops" else "with --from outlines.")
            )
        parts = {split: tuple(item for item in examples if item.split == split) for split in (TRAIN, VALIDATE)}
        found = cls(folder, spec, parts[TRAIN], parts[VALIDATE])
        found._require_learnable(recipe)
        for example in examples:
            found._require_image(example.file, _RGB, 8)
            if wanted == "tiles":
                found._require_image(labels_of(example.file), _GREY, 16)
        return found

    def _require_learnable(self, recipe: Recipe) -> None:
        if not self.train:
            raise UnusableDataError(
                "The data set has no examples for training: every slide is kept for validation."
            )
        if self.spec.kind == "tiles" and self.spec.size_px % recipe.multiple_of:
            raise UnusableDataError(
                f"The recipe {recipe.name} needs tiles with a multiple of {recipe.multiple_of} pixels a side, not "
                f"{self.spec.size_px}: make the data set with another --size."
            )
        if recipe.task == "classify":
            if len(self.spec.classes) < 2:
                raise UnusableDataError("A classifier needs two classes at least: annotate another one.")
            there = {item.class_name for item in self.train}
            for name in self.spec.class_names:
                if name not in there:
                    raise UnusableDataError(
                        f"The class {name!r} has no examples for training: annotate it on more slides, or make "
                        "the data set without it."
                    )

    def _require_image(self, file: str, colour: int, bits: int) -> None:
        """From the header alone: a hundred thousand files are checked in seconds."""
        try:
            with (self.folder / file).open("rb") as opened:
                head = opened.read(26)
        except OSError as error:
            raise UnusableDataError(
                f"{file} is in index.csv but cannot be read: make the data set again."
            ) from error
        if head[:8] != _PNG_START or len(head) < 26:
            raise UnusableDataError(f"{file} is not a PNG image: make the data set again.")
        width, height, depth, kind = struct.unpack(">IIBB", head[16:26])
        if (depth, kind) != (bits, colour):
            wanted = "8-bit RGB without transparency" if colour == _RGB else "16-bit grey"
            raise UnusableDataError(f"{file} is not {wanted}: convert it, or make the data set again.")
        size = self.spec.size_px
        if (width, height) != (size, size):
            raise UnusableDataError(
                f"{file} has {width} x {height} pixels, and the data set's images have {size} x {size}: remove it "
                "from index.csv, or make the data set again."
            )

    @property
    def class_weights(self) -> Floats:
        """For each class what makes all classes weigh the same, 1 on average over the examples."""
        counts = np.bincount(self.class_numbers(self.train), minlength=len(self.spec.classes))
        weights: Floats = (counts.sum() / (len(counts) * np.maximum(counts, 1))).astype(np.float32)
        return weights

    def class_numbers(self, examples: Sequence[Example]) -> npt.NDArray[np.int64]:
        numbers = {name: index for index, name in enumerate(self.spec.class_names)}
        return np.array([numbers[item.class_name] for item in examples], np.int64)

    def image(self, example: Example, size_px: int) -> Image:
        """RGB ``(size_px, size_px, 3)``, resized as the service resizes crops."""
        image = _decoded(self.folder / example.file, cv2.IMREAD_COLOR)[..., ::-1]
        if image.shape[0] == size_px:
            return np.ascontiguousarray(image)
        resized = cv2.resize(np.ascontiguousarray(image), (size_px, size_px), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.uint8)

    def labels(self, example: Example) -> npt.NDArray[np.int32]:
        """Instance labels ``(S, S)`` of a tile."""
        return _decoded(self.folder / labels_of(example.file), cv2.IMREAD_UNCHANGED).astype(np.int32)


def labels_of(file: str) -> str:
    return file.removesuffix(".png") + "_labels.png"


def _decoded(path: Path, how: int) -> npt.NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), how)
    except OSError as error:
        raise UnusableDataError(
            f"{path.name} can no longer be read: leave the data set alone meanwhile."
        ) from error
    if image is None:
        raise UnusableDataError(f"{path.name} is damaged: make the data set again.")
    return np.asarray(image)


class Draw(Protocol):
    """Makes the network's input ``(P, P, 3)`` uint8, its target and its weight from one example."""

    def __call__(
        self, example: Example, generator: np.random.Generator | None
    ) -> tuple[Image, npt.NDArray[Any], float]: ...


@dataclass(frozen=True, slots=True)
class DrawCrop:
    """A crop with a one-hot target and its class's weight."""

    data: TrainingSet
    recipe: Recipe
    weights: Floats

    def __call__(
        self, example: Example, generator: np.random.Generator | None
    ) -> tuple[Image, npt.NDArray[Any], float]:
        image = self.data.image(example, self.recipe.input_px)
        if generator is not None:
            image, _ = view_of(image, generator, self.recipe.augmentation)
        number = self.data.spec.class_names.index(example.class_name)
        return image, np.eye(len(self.weights), dtype=np.float32)[number], float(self.weights[number])


@dataclass(frozen=True, slots=True)
class DrawTile:
    """A tile with its foreground and interior maps."""

    data: TrainingSet
    recipe: Recipe

    def __call__(
        self, example: Example, generator: np.random.Generator | None
    ) -> tuple[Image, npt.NDArray[Any], float]:
        image = self.data.image(example, self.data.spec.size_px)
        maps = target_maps(self.data.labels(example))
        if generator is not None:
            augmentation: Augmentation = self.recipe.augmentation
            image, bent = view_of(image, generator, augmentation, labels=maps)
            maps = maps if bent is None else bent
        return image, maps.astype(np.float32) / 255.0, 1.0


INTERIOR_FROM: Final = 0.4
"""A pixel is interior when its distance to the rim exceeds this part of the greatest one in its instance."""


def target_maps(labels: npt.NDArray[np.int32]) -> Image:
    """Foreground and interior as 0 or 255: uint8 ``(H, W, 2)`` from labels ``(H, W)``."""
    as_float = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    is_cell = labels > 0
    is_rim = is_cell & ((cv2.dilate(as_float, square) != labels) | (cv2.erode(as_float, square) != labels))
    distance = cv2.distanceTransform((is_cell & ~is_rim).astype(np.uint8), cv2.DIST_L2, 5)
    greatest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(greatest, labels.ravel(), distance.ravel())
    interior = is_cell & (distance > INTERIOR_FROM * greatest[labels])
    maps: Image = np.stack([is_cell, interior], axis=-1).astype(np.uint8) * np.uint8(255)
    return maps


def batches(
    examples: Sequence[Example],
    draw: Draw,
    recipe: Recipe,
    *,
    batch: int,
    seed: int | None,
    first_epoch: int = 0,
    workers: int = 1,
) -> Any:
    """A ``keras.utils.PyDataset``. With a `seed` shuffled and augmented; without, the examples as they are.

    An example's view is a function of the seed, the epoch and its place alone, so that a resumed run sees what an
    unbroken one would have seen, however many `workers` draw. They draw the examples of a batch together: Keras's
    own workers would draw ahead into the next epoch before it has begun, with the number of the last one.
    """
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
        def __init__(self) -> None:
            super().__init__(workers=1, use_multiprocessing=False)
            self.epoch = first_epoch
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="draw")

        def __len__(self) -> int:
            return math.ceil(len(examples) / batch)

        def __getitem__(self, index: int) -> Batch:
            epoch = self.epoch
            places = range(index * batch, min((index + 1) * batch, len(examples)))
            if seed is None:
                drawn = list(self._pool.map(lambda place: draw(examples[place], None), places))
            else:
                rows = np.random.default_rng([seed, epoch]).permutation(len(examples))

                def view(place: int) -> tuple[Image, npt.NDArray[Any], float]:
                    return draw(examples[rows[place]], np.random.default_rng([seed, epoch, place, 1]))

                drawn = list(self._pool.map(view, places))
            images = np.stack([item[0] for item in drawn]).astype(np.float32)
            images = images * np.float32(recipe.scale) + np.float32(recipe.offset)
            targets = np.stack([item[1] for item in drawn]).astype(np.float32)
            return images, targets, np.array([item[2] for item in drawn], np.float32)

        def on_epoch_end(self) -> None:
            self.epoch += 1

    return Batches()
