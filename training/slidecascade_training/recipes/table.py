"""Every recipe by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from slidecascade.errors import InvalidRequestError
from slidecascade_training.fit import Pixels
from slidecascade_training.nuclei.network import build_network, weighted_loss
from slidecascade_training.recipes import networks
from slidecascade_training.recipes.augment import STANDARD, Augmentation

ScheduleName = Literal["constant", "cosine", "cyclical"]


class Build(Protocol):
    """Builds a keras.Model with random weights for `classes` classes."""

    def __call__(self, classes: int) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A network and how it is trained.

    Attributes:
        input_px: side of the network's input; crops of another size are resized to it.
        scale, offset: pixel values 0 to 255 become ``value * scale + offset``, also in the served graph.
        rate: highest learning rate of the schedule.
        multiple_of, halo_px: of a segmenter, see `slidecascade.models.spec.SegmenterSpec`.
        loss: of a segmenter, where it is not that of the reference U-Net.
        areas_loss: of a segmenter that finds areas, not objects: the name of its loss (`losses.LOSSES`), where
            ``--loss`` names none.
        steps: length of a recipe that samples crops continuously, without epochs.
    """

    name: str
    summary: str
    task: Literal["classify", "segment"]
    input_px: int
    build: Build
    scale: float
    offset: float
    batch: int
    epochs: int
    rate: float
    schedule: ScheduleName = "cosine"
    weight_decay: float = 1e-4
    label_smoothing: float = 0.02
    augmentation: Augmentation = STANDARD
    multiple_of: int = 1
    halo_px: int = 0
    loss: Callable[[Any, Any], Any] | None = None
    areas_loss: str | None = None
    steps: int | None = None

    @property
    def finds_areas(self) -> bool:
        return self.areas_loss is not None

    @property
    def pixels(self) -> Pixels:
        return Pixels(self.scale, self.offset)


def _classifier(name: str, summary: str, input_px: int, network: Any, **others: Any) -> Recipe:
    defaults: dict[str, Any] = {"batch": 64, "epochs": 60, "rate": 1e-3}
    return Recipe(
        name=name,
        summary=summary,
        task="classify",
        input_px=input_px,
        build=partial(network, input_px),
        scale=1 / 127.5,
        offset=-1.0,
        **defaults | others,
    )


_ALL: Final = (
    _classifier("xception-72", "Xception at full size, crops of 72 px", 72, networks.xception),
    _classifier("xception-96", "Xception at full size, crops of 96 px", 96, networks.xception),
    _classifier("inception-299", "InceptionV3 at full size, patches of 299 px", 299, networks.inception, batch=32),
    _classifier(
        "small-classifier", "the network of the bundled classifiers", 72, networks.small_classifier, rate=2e-3
    ),
    _classifier(
        "tiny-classifier",
        "a few thousand weights: trains in minutes, to try a data set",
        48,
        networks.tiny_classifier,
        batch=32,
        epochs=20,
        rate=4e-3,
    ),
    Recipe(
        name="unet-256",
        summary="U-Net with 16 to 256 filters, tiles of 256 px with instance labels",
        task="segment",
        input_px=256,
        build=lambda _: networks.unet(),
        scale=1 / 255,
        offset=0.0,
        batch=8,
        epochs=60,
        rate=1e-3,
        multiple_of=16,
        halo_px=96,
    ),
    Recipe(
        name="areas-256",
        summary="the U-Net of unet-256 with one map, for areas in tiles with masks",
        task="segment",
        input_px=256,
        build=lambda _: networks.unet(maps=1),
        scale=1 / 255,
        offset=0.0,
        batch=8,
        epochs=60,
        rate=1e-3,
        multiple_of=16,
        halo_px=96,
        areas_loss="bce-dice",
    ),
    Recipe(
        name="nuclei",
        summary="the recipe of the bundled nuclei model, crops of 192 px of tiles of any size",
        task="segment",
        input_px=192,
        build=lambda _: build_network(),
        scale=1 / 255,
        offset=0.0,
        batch=64,
        epochs=1,
        rate=2e-3,
        weight_decay=1e-2,
        multiple_of=8,
        halo_px=80,
        loss=weighted_loss,
        steps=6000,
    ),
)
RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType({recipe.name: recipe for recipe in _ALL})
NUCLEI: Final = "nuclei"
"""The recipe of the bundled nuclei model, which samples crops by step; see `slidecascade_training.nuclei`."""


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InvalidRequestError: there is none.
    """
    if name not in RECIPES:
        raise InvalidRequestError(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
