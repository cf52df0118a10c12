"""Batches for training and validation, drawn from a data set's files."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import UnusableDataError
from slidecascade_training.datasets.folder import DatasetSpec, Example, read_index
from slidecascade_training.datasets.split import TRAIN, VALIDATE
from slidecascade_training.prefetch import Batch, Floats
from slidecascade_training.recipes.augment import Augmentation, Image, view_of
from slidecascade_training.recipes.table import Recipe

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
            UnusableDataError: of another kind than the recipe wants, a class without examples for training, or
            an image that is not 8-bit RGB of the stated size.
        """
        spec, examples = read_index(folder)
        wanted = "crops" if recipe.task == "classify" else "tiles"
        if spec.kind != wanted:
            raise UnusableDataError(
                f"The recipe {recipe.name} learns from {wanted}, and the data set holds {spec.kind}: make one "
                + (
                    "with --from points, regions or pipeline."
                    if wanted == "crops"
                    else "with --from outlines or masks."
                )
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
        """Reads only the header: a hundred thousand files are checked in seconds."""
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
        """Weights by class that balance the classes, 1 on average over the examples."""
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
            f"{path.name} can no longer be read: do not change the data set during training."
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
    """A tile with its foreground and interior maps, or with the one map of its areas."""

    data: TrainingSet
    recipe: Recipe

    def __call__(
        self, example: Example, generator: np.random.Generator | None
    ) -> tuple[Image, npt.NDArray[Any], float]:
        image = self.data.image(example, self.data.spec.size_px)
        labels = self.data.labels(example)
        maps = area_map(labels) if self.recipe.finds_areas else target_maps(labels)
        if generator is not None:
            augmentation: Augmentation = self.recipe.augmentation
            image, bent = view_of(image, generator, augmentation, labels=maps)
            # OpenCV drops the axis of a single map.
            maps = maps if bent is None else bent.reshape(maps.shape)
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


def area_map(labels: npt.NDArray[np.int32]) -> Image:
    """The areas as 0 or 255: uint8 ``(H, W, 1)`` from labels ``(H, W)``."""
    covered: Image = (labels > 0)[..., None].astype(np.uint8) * np.uint8(255)
    return covered


@dataclass(frozen=True, slots=True)
class ExampleBatches:
    """Batches of examples by step. With a `seed`, shuffled in each epoch; without, in order.

    An example's view is a function of seed, epoch and position only.
    """

    examples: Sequence[Example]
    draw: Draw
    size: int
    seed: int | None

    def __len__(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.examples) / self.size)

    def __call__(self, step: int) -> Batch:
        epoch, index = divmod(step, len(self))
        places = range(index * self.size, min((index + 1) * self.size, len(self.examples)))
        if self.seed is None:
            drawn = [self.draw(self.examples[place], None) for place in places]
        else:
            rows = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
            drawn = [
                self.draw(self.examples[rows[place]], np.random.default_rng([self.seed, epoch, place, 1]))
                for place in places
            ]
        return Batch(
            np.stack([image for image, _, _ in drawn]),
            np.stack([target for _, target, _ in drawn]).astype(np.float32),
            np.array([weight for _, _, weight in drawn], np.float32),
        )
