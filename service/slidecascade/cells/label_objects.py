"""Objects of a label image in a box of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.cells import outlines
from slidecascade.cells.instances import Instances
from slidecascade.cells.objects import Place, Sides
from slidecascade.geometry import Box
from slidecascade.heads.labels import pixels_of
from slidecascade.heads.objects import Labels


@dataclass(frozen=True, slots=True)
class LabelObjects:
    """See `slidecascade.cells.objects.SeenObjects`."""

    labels: Labels
    box: Box

    def __len__(self) -> int:
        return len(self.labels)

    def pieces(self, pieces: NDArray[np.int32]) -> NDArray[np.int64]:
        where = pixels_of(cv2.compare(pieces, 0, cv2.CMP_GT))
        found = np.zeros(len(self) + 1, np.int64)
        found[self.labels.image.ravel()[where]] = pieces.ravel()[where]
        return found[1:]

    def cut(self, sides: Sides) -> NDArray[np.int64]:
        image = self.labels.image
        lines = (image[:, 0], image[0], image[:, -1], image[-1])
        there = [line for line, is_cut in zip(lines, sides, strict=True) if is_cut]
        return np.unique(np.concatenate([np.zeros(1, np.int64), *there]))[1:].astype(np.int64) - 1

    def at(self, place: Place) -> int | None:
        x, y = place[0] - self.box.x, place[1] - self.box.y
        inside = 0 <= x < self.box.width and 0 <= y < self.box.height
        label = int(self.labels.image[y, x]) if inside else 0
        return label - 1 if label else None

    def box_of(self, index: int) -> Box:
        mask = (self.labels.image == index + 1).view(np.uint8)
        return Box(*cv2.boundingRect(mask)).shifted(self.box.x, self.box.y)

    def place_in(self, index: int, near: Box) -> Place | None:
        shown = near.clipped(self.box).shifted(-self.box.x, -self.box.y)
        there = self.labels.image[shown.y : shown.bottom, shown.x : shown.right] == index + 1
        if not there.any():
            return None
        row, column = divmod(int(there.argmax()), shown.width)
        return self.box.x + shown.x + column, self.box.y + shown.y + row

    def instances(self, wanted: NDArray[np.bool_], *, reach: Box, min_area_px: float) -> Instances:
        labels = self.labels.image
        measures = outlines.measure(labels, self.labels.evidence, origin=(self.box.x, self.box.y))
        keep = wanted & reach.contains(measures.centroids) & (measures.areas >= min_area_px)
        return outlines.trace(labels, measures, keep)
