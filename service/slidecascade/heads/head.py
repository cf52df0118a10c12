"""What a head is: the object that turns a network's outputs into what a pipeline works with.

A head knows nothing of tiles. There are three sorts, by what they make: objects (`ObjectHead`), a class per pixel
(`MaskHead`), a probability per class for a whole image (`ProbabilityHead`). One head may be of several sorts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from slidecascade.geometry import Size
from slidecascade.heads.objects import Objects
from slidecascade.models.tensors import OutputSpec, Tensors


class HeadOptions(BaseModel):
    """``options`` of a ``model.yaml``, read by the type that its head names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmenterOptions(HeadOptions):
    """What every head of a segmenter takes; one with more options derives from this."""

    foreground: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_area_um2: Annotated[float, Field(ge=0)] = 8.0

    def min_area_px(self, mpp: float) -> float:
        """The smallest object in pixels of `mpp` micrometres."""
        return max(1.0, self.min_area_um2 / mpp**2)


class ClassifierOptions(HeadOptions):
    """What every head of a classifier takes: the least probability a class must reach to be chosen."""

    floor: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0


O = TypeVar("O", bound=HeadOptions)  # noqa: E741 - pairs with S below
S = TypeVar("S", bound=SegmenterOptions)


class Head(ABC, Generic[O]):
    """What all heads have: a name, the type of their options, the outputs they want of a network."""

    name: ClassVar[str]
    options: type[O]

    @abstractmethod
    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        """The outputs wanted of a network that finds `classes`; it may return more."""

    def outputs_with(self, classes: Sequence[str], options: O) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        """The outputs wanted where a model states these `options`; by default the same whatever they are."""
        return self.outputs(classes)


class ObjectHead(Head[S]):
    """A head that finds objects.

    What it finds must be local, so that every tile that sees enough around it finds it. Objects lie in `extent`;
    of polygons, at least their anchors and centroids do.

    - A head that returns `Labels` promises that what becomes of an object depends on the outputs in it, in objects
      that touch it (at a side or a corner), in extent of no object that does, and up to `reach_px` pixels around
      these, and on nothing further away.
    - A head that returns `Polygons` promises that which objects there are in a connected piece of `extent` (pixels
      that share a side or a corner) depends on the outputs in the piece and up to `reach_px` pixels around it.
    """

    @abstractmethod
    def decode(self, outputs: Tensors, options: S, *, mpp: float) -> Objects:
        """The objects of one image.

        Args:
            outputs: by name, without their batch axis: what `outputs` wants, maybe more. Maps show whole strides.
            options: the model's, with what a request asks for in its place.
            mpp: micrometres per pixel of the image.
        """

    def look(
        self,
        outputs: Tensors,
        options: S,
        *,
        size: Size,  # noqa: ARG002 - for heads without maps
        mpp: float,
    ) -> tuple[Objects, npt.NDArray[np.uint8]]:
        """What `decode` and `extent` return, for an image of `size`; a head that shares work overrides it."""
        return self.decode(outputs, options, mpp=mpp), self.extent(outputs, options, mpp=mpp)

    @abstractmethod
    def extent(self, outputs: Tensors, options: S, *, mpp: float) -> npt.NDArray[np.uint8]:
        """``(H, W)``: 255 where objects may lie, else 0.

        For polygons: a set that holds anchor and centroid of all candidates, and joins those that compete.
        """

    @abstractmethod
    def reach_px(self, options: S, *, mpp: float) -> int:
        """How far around themselves objects depend on the outputs, see above; in pixels of the image."""


class MaskHead(Head[S]):
    """A head that gives each pixel a class, or several where `overlaps` says so."""

    overlaps: ClassVar[bool] = False
    states_probabilities: ClassVar[bool] = False

    @abstractmethod
    def mask(self, outputs: Tensors, options: S) -> npt.NDArray[np.uint8]:
        """``(H, W)``: the class of each pixel, counted from 1; 0 where there is none. A function of the pixel's
        own outputs.
        """

    def masks(self, outputs: Tensors, options: S) -> npt.NDArray[np.uint8]:
        """``(L, H, W)``: what `mask` has in one layer; a layer for each class where classes overlap."""
        return self.mask(outputs, options)[None]

    def probabilities_of(self, outputs: Tensors, options: S) -> npt.NDArray[np.uint8] | None:  # noqa: ARG002 - of all heads
        """``(H, W, C)``: ``round(255 * p)`` of each class, where `states_probabilities`; otherwise None."""
        return None


class ProbabilityHead(Head[ClassifierOptions]):
    """A head that gives an image a probability per class."""

    @abstractmethod
    def probabilities(self, outputs: Tensors) -> npt.NDArray[np.float32]:
        """``(N, C)`` for `N` images; `outputs` have their batch axis."""

    @abstractmethod
    def mismatch(self, probabilities: npt.NDArray[np.float32]) -> bool:
        """Whether numbers are not what this head promises."""


AnyHead = Head[Any]
