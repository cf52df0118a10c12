"""Flows and a probability per pixel to objects (Cellpose; Stringer et al. 2021).

In an object the flow points to its middle. Every foreground pixel follows it for 200 steps; where many pixels end
there is a seed, and the pixels that end around one seed are an object. Objects are dropped whose flows are not
those that their mask would have.

Cellpose takes 200 steps of every pixel. Here a pixel takes two, to the nearest pixel of where it is then; that
pixel's own way goes on from there, so that doubling seven times takes 256 steps (Wyllie, 1979). The few pixels in
which all ways end then take their steps one by one. All positions are counted from the pixel a way started in, so
that an object is the same wherever the image starts. Cellpose also drops masks of more than 40 % of the image; how
large that is depends on where an image ends, so here the limit is that of the pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slidecascade.heads.diffusion import flow_errors
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.labels import fill_holes, grey_levels, pixels_of, without_specks
from slidecascade.heads.objects import Labels
from slidecascade.models.tensors import OutputSpec, Tensors

FLOW_SCALE: Final = 5.0
"""Networks return flows so many times as long as a step, in pixels."""

_STEPS_AT_ONCE, _DOUBLINGS, _LAST_STEPS = 2, 7, 40
_SEED_COUNT, _SEED_WINDOW, _SEED_REACH, _SEED_STEPS, _SEED_LEAST = 10, 5, 5, 5, 2
"""A seed is where more than 10 ways end, the most in 5 x 5 pixels. It grows, up to 5 times, by the pixels beside
it in which more than 2 ways end."""

_REACH_PX: Final = 16

Offsets = NDArray[np.complex64]
"""``(N,)`` from the pixels that ways started in."""


class FlowsOptions(SegmenterOptions):
    """`flow_error`: objects whose flows differ from their mask's by more, in the mean of squares, are dropped; at
    0 all are kept. `foreground` is a probability: 0.5 is Cellpose's own threshold of 0.
    """

    flow_error: Annotated[float, Field(ge=0, le=4)] = 0.4


class _Field:
    """The flow of an image, 0 outside its foreground, and the foreground's pixels.

    Vectors are complex numbers, x + iy: one is fetched at once.
    """

    def __init__(self, flows: NDArray[np.float32], mask: NDArray[np.uint8]) -> None:
        self.height, self.width = mask.shape
        self.pixels = pixels_of(mask)
        self.steps = np.empty(len(self.pixels), np.complex64)
        self.steps.real = flows[1].ravel()[self.pixels]
        self.steps.imag = flows[0].ravel()[self.pixels]
        self.steps /= np.float32(FLOW_SCALE)
        # A row and a pixel more, so that every pixel has one to its right and one below.
        self._dense = np.zeros((self.height + 1) * self.width + 1, np.complex64)
        self._dense[self.pixels] = self.steps

    def ends(self) -> NDArray[np.int32]:
        """The flat index of the pixel in which the way of each foreground pixel ends."""
        pixels = self.pixels.astype(np.int32)
        rows, columns = np.divmod(pixels, np.int32(self.width))
        offsets = self._held(rows, columns, self.steps.copy())
        for _ in range(_STEPS_AT_ONCE - 1):
            offsets = self._held(rows, columns, offsets + self._at(pixels, offsets))
        following = pixels + self._moved(np.rint(offsets.real), np.rint(offsets.imag))
        # Ways that leave the foreground end there.
        ends = np.arange(len(self._dense), dtype=np.int32)
        ends[self.pixels] = following
        for _ in range(_DOUBLINGS):
            following = ends.take(following)
            ends[self.pixels] = following
        return self._settled(following)

    def _settled(self, following: NDArray[np.int32]) -> NDArray[np.int32]:
        """Where ways that have come to these pixels end."""
        is_stop = np.zeros(len(self._dense), np.bool_)
        is_stop[following] = True
        stops = np.flatnonzero(is_stop).astype(np.int32)
        rows, columns = np.divmod(stops, np.int32(self.width))
        offsets = np.zeros(len(stops), np.complex64)
        for _ in range(_LAST_STEPS):
            offsets = self._held(rows, columns, offsets + self._at(stops, offsets))
        ends = np.zeros(len(self._dense), np.int32)
        # As Cellpose does, a position counts for the pixel at or before it.
        ends[stops] = stops + self._moved(np.floor(offsets.real), np.floor(offsets.imag))
        return ends.take(following)

    def _at(self, pixels: NDArray[np.int32], offsets: Offsets) -> Offsets:
        """The flow at ``pixels + offsets``, bilinear between pixels."""
        left, top = np.floor(offsets.real), np.floor(offsets.imag)
        right, down = offsets.real - left, offsets.imag - top
        corner = pixels + self._moved(left, top)
        above = self._dense.take(corner)
        corner += np.int32(1)
        above += (self._dense.take(corner) - above) * right
        corner += np.int32(self.width)
        beside = self._dense.take(corner)
        corner -= np.int32(1)
        below = self._dense.take(corner)
        below += (beside - below) * right
        above += (below - above) * down
        return above

    def _held(self, rows: NDArray[np.int32], columns: NDArray[np.int32], offsets: Offsets) -> Offsets:
        """Offsets that stay in the image, in place."""
        for part, place, last in ((offsets.real, columns, self.width - 1), (offsets.imag, rows, self.height - 1)):
            outside = np.flatnonzero((place + part < 0) | (place + part > last))
            part[outside] = np.clip(part[outside], -place[outside], last - place[outside])
        return offsets

    def _moved(self, right: NDArray[np.float32], down: NDArray[np.float32]) -> NDArray[np.int32]:
        """How far whole steps lead in flat indices."""
        return down.astype(np.int32) * np.int32(self.width) + right.astype(np.int32)


def _grown_seeds(counts: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int32]:
    """``(H, W)`` labels of the places around each seed, later ones over earlier ones; 0 elsewhere.

    Args:
        counts: how many ways end in each pixel, flat.
    """
    ends = np.minimum(counts, 65535).astype(np.uint16).reshape(shape)
    top = cv2.dilate(ends, np.ones((_SEED_WINDOW, _SEED_WINDOW), np.uint8))
    seeds = pixels_of(
        cv2.bitwise_and(cv2.compare(ends, top, cv2.CMP_EQ), cv2.compare(ends, _SEED_COUNT, cv2.CMP_GT))
    )
    # The seed with the most ends comes last; of equals the last in reading order.
    seeds = seeds[np.argsort(counts[seeds], kind="stable")]
    width = shape[1] + 2 * _SEED_REACH
    framed = np.pad(ends, _SEED_REACH).ravel()
    rows, columns = np.divmod(seeds, shape[1])
    span = np.arange(2 * _SEED_REACH + 1)
    places = ((rows[:, None] + span)[:, :, None] * width) + (columns[:, None] + span)[:, None, :]
    allowed = framed[places] > _SEED_LEAST
    grown = np.zeros_like(allowed)
    grown[:, _SEED_REACH, _SEED_REACH] = True
    for _ in range(_SEED_STEPS):
        wide = grown.copy()
        wide[:, 1:] |= grown[:, :-1]
        wide[:, :-1] |= grown[:, 1:]
        tall = wide.copy()
        tall[:, :, 1:] |= wide[:, :, :-1]
        tall[:, :, :-1] |= wide[:, :, 1:]
        grown = tall & allowed
    labels = np.zeros(framed.shape, np.int32)
    owner = np.broadcast_to(np.arange(1, len(seeds) + 1, dtype=np.int32)[:, None, None], places.shape)
    labels[places[grown]] = owner[grown]
    return labels.reshape(-1, width)[_SEED_REACH:-_SEED_REACH, _SEED_REACH:-_SEED_REACH]


def decode(
    flows: NDArray[np.float32], *, foreground: float, flow_error: float, min_area_px: float
) -> NDArray[np.int32]:
    """Turn flows into a label image.

    Args:
        flows: ``(3, H, W)`` float32: down, right, and the logit of the foreground.
        foreground: probability in 0 to 1 from which a pixel may belong to an object.
        flow_error: see `FlowsOptions`.
        min_area_px: objects of fewer pixels are dropped, their holes counted in.

    Returns:
        ``(H, W)`` int32 labels: 0 is background, objects are 1 to n in the raster order of their first pixels.
    """
    mask = _foreground(flows, foreground)
    field = _Field(flows, mask)
    labels = np.zeros(mask.shape, np.int32)
    if not len(field.pixels):
        return labels
    ends = field.ends()
    seeds = _grown_seeds(np.bincount(ends, minlength=mask.size), mask.shape)
    owner = _in_raster_order(np.ascontiguousarray(seeds).ravel()[ends])
    if flow_error > 0:
        errors = flow_errors(field.pixels, owner, field.steps, width=field.width, limit=flow_error)
        owner = np.where(np.concatenate([[False], errors > flow_error])[owner], 0, owner)
    labels.ravel()[field.pixels] = owner
    count = int(owner.max(initial=0)) + 1
    dense = labels.astype(np.uint16) if count < 2**16 else labels.astype(np.float32)
    fill_holes(dense)
    return without_specks(dense, count, min_area_px)


def _in_raster_order(owner: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of pixels that are given in reading order, numbered by their first ones; 0 stays."""
    first = np.full(int(owner.max(initial=0)) + 1, len(owner), np.int64)
    first[owner[::-1]] = np.arange(len(owner) - 1, -1, -1)
    first[0] = -1
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    rank[first == len(owner)] = 0
    found: NDArray[np.int32] = rank[owner]
    return found


def _foreground(flows: NDArray[np.float32], probability: float) -> NDArray[np.uint8]:
    """255 where the logit is above the probability's: everywhere at 0, nowhere at 1."""
    return np.asarray(cv2.compare(flows[2], _logit(probability), cv2.CMP_GT), np.uint8)


def _logit(probability: float) -> float:
    """Of 0 to 1, whose ends have the logits -inf and inf."""
    if probability <= 0:
        return -math.inf
    return math.log(probability / (1 - probability)) if probability < 1 else math.inf


class _FlowsHead(ObjectHead[FlowsOptions]):
    """Objects are the pixels whose flows end together."""

    name: ClassVar[str] = "flows"
    options = FlowsOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:  # noqa: ARG002 - of all heads
        """One output, as Cellpose's networks return it."""
        return (
            OutputSpec(
                name="flows",
                dtype="float32",
                layout="NCHW",
                shape=("batch", 3, "height", "width"),
                channels=("flow-down", "flow-right", "foreground"),
                meaning="flow",
            ),
        )

    def decode(self, outputs: Tensors, options: FlowsOptions, *, mpp: float) -> Labels:
        flows = np.ascontiguousarray(outputs["flows"])
        labels = decode(
            flows,
            foreground=options.foreground,
            flow_error=options.flow_error,
            min_area_px=options.min_area_px(mpp),
        )
        # Only labelled pixels are asked for their probability.
        evidence = np.zeros(labels.shape, np.uint8)
        inside = pixels_of(cv2.compare(labels, 0, cv2.CMP_GT))
        logits = np.clip(flows[2].ravel()[inside], -30, 30)
        evidence.ravel()[inside] = grey_levels(1 / (1 + np.exp(-logits)))
        return Labels(labels, evidence)

    def extent(self, outputs: Tensors, options: FlowsOptions, *, mpp: float) -> NDArray[np.uint8]:  # noqa: ARG002 - of all heads
        return _foreground(np.ascontiguousarray(outputs["flows"]), options.foreground)

    def reach_px(self, options: FlowsOptions, *, mpp: float) -> int:  # noqa: ARG002 - of all heads
        return _REACH_PX


FLOWS: Final = _FlowsHead()
