"""Pictures of a job's result to lay over the slide: its classes and its heatmaps, as tiles of a deep-zoom pyramid.

Levels are those of Deep Zoom: the greatest shows level 0 pixel by pixel, each one below halves the sides, rounded
up. Tiles have 256 px and no overlap; those at the right and the bottom are smaller.

Written when the job's files are:

========================  =================================================================================
file                      content
========================  =================================================================================
``layers/layers.json``    sizes, classes, heatmaps, and the box of each field's cells
``layers/00012.bin``      the cells of field 12, see `fieldcells`
``layers/classes.npy``    uint8, the whole slide in at most 4096 px: 0, or the class of the cell there and one
``layers/0.npy``          float32, the values of the first heatmap
========================  =================================================================================

A tile of classes that shows more than a few thousand pixels of the slide is cut from the raster; finer ones are
drawn from the cells of the fields they touch.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from slidecascade.errors import UnknownHeatmapError, UnreadablePartError
from slidecascade.geometry import Size
from slidecascade.jobs.collect import Collection
from slidecascade.jobs.fieldcells import FieldCells
from slidecascade.outputs import png
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.rings import split
from slidecascade.slides.deepzoom import Address, max_level, tile_box
from slidecascade.staging import write_file

CLASSES: Final = "classes"
MAX_RASTER_PX: Final = 4096
_ABOUT: Final = "layers.json"
_SHIFT_BITS: Final = 4


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeatmapLayer(_Record):
    """A heatmap's values ``(h, w)``: the first one begins at `corner_l0`; each is `cell_l0` px wide."""

    name: str
    corner_l0: tuple[float, float]
    cell_l0: float
    minimum: float
    maximum: float


class LayersRecord(_Record):
    """What there is to draw; `boxes_l0` are left, top, right and bottom of each field's cells, by field."""

    width_l0: int
    height_l0: int
    classes: tuple[tuple[str, tuple[int, int, int]], ...]
    heatmaps: tuple[HeatmapLayer, ...]
    boxes_l0: dict[int, tuple[float, float, float, float]]


def write_layers(folder: Path, collection: Collection, size_l0: Size) -> None:
    """Write the files of a job into `folder`, in one pass over its parts.

    Raises:
        UnwritableOutputError: the folder cannot be made or written.
    """
    raster = _Raster(size_l0)
    boxes: dict[int, tuple[float, float, float, float]] = {}
    for index, portion in collection.fields():
        cells = FieldCells.of(index, portion)
        write_file(folder / field_name(index), cells.encode())
        if len(cells.vertices):
            left, top = cells.vertices.min(axis=0).tolist()
            right, bottom = cells.vertices.max(axis=0).tolist()
            boxes[index] = (left, top, right, bottom)
        raster.add(cells)
    write_file(folder / f"{CLASSES}.npy", _npy(raster.pixels))
    analysis = collection.analysis
    maps = collection.heatmaps()
    for place, item in enumerate(maps):
        write_file(folder / f"{place}.npy", _npy(item.values))
    record = LayersRecord(
        width_l0=size_l0.width,
        height_l0=size_l0.height,
        classes=tuple((end.name, end.color) for end in analysis.classes.ends),
        heatmaps=tuple(_layer(item, analysis.region_l0.x, analysis.region_l0.y, analysis.mpp) for item in maps),
        boxes_l0=boxes,
    )
    write_file(folder / _ABOUT, record.model_dump_json().encode())


def field_name(index: int) -> str:
    """The file of a field's cells."""
    return f"{index:05d}.bin"


class Layers:
    """The layers in `folder`.

    Raises:
        UnreadablePartError: they are not there or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._record = LayersRecord.model_validate_json((folder / _ABOUT).read_bytes())
        except (OSError, ValueError) as error:
            raise _unreadable() from error

    @property
    def names(self) -> tuple[str, ...]:
        """Classes, and all heatmaps."""
        return (CLASSES, *(item.name for item in self._record.heatmaps))

    def tile(self, name: str, address: Address, colormap: Colormap) -> bytes | None:
        """A tile as RGBA PNG, transparent where nothing is known; None: the pyramid has no such tile.

        Raises:
            UnknownHeatmapError: there is no such layer.
            UnreadablePartError: a file is gone or damaged.
        """
        if name not in self.names:
            raise UnknownHeatmapError(f"There is no layer {name!r}; there are {', '.join(self.names)}.")
        size_l0 = Size(self._record.width_l0, self._record.height_l0)
        box = tile_box(size_l0, address)
        if box is None:
            return None
        size, downsample = box.size, 2 ** (max_level(size_l0) - address.level)
        corner = np.array([box.x, box.y])
        try:
            if name == CLASSES:
                return png.encode(self._classes(corner, size, downsample))
            place = [item.name for item in self._record.heatmaps].index(name)
            return png.encode(self._heatmap(place, corner, size, downsample, colormap))
        except (OSError, ValueError) as error:
            raise _unreadable() from error

    def _classes(self, corner: NDArray[np.int64], size: Size, downsample: int) -> NDArray[np.uint8]:
        colors = np.array([[0, 0, 0, 0], *((*color, 255) for _, color in self._record.classes)], np.uint8)
        raster = np.load(self._folder / f"{CLASSES}.npy", mmap_mode="r")
        step = downsample // _raster_downsample(Size(self._record.width_l0, self._record.height_l0))
        if step >= 1:
            left, top = (corner * step).tolist()
            part = raster[top : top + size.height * step, left : left + size.width * step]
            return _shrunk(np.asarray(part), colors, size, step)
        drawn = np.zeros((size.height, size.width), np.uint8)
        low, high = corner * downsample, (corner + np.array([size.width, size.height])) * downsample
        for index, (left_l0, top_l0, right_l0, bottom_l0) in self._record.boxes_l0.items():
            if left_l0 < high[0] and right_l0 > low[0] and top_l0 < high[1] and bottom_l0 > low[1]:
                cells = FieldCells.decode((self._folder / field_name(index)).read_bytes())
                _draw(drawn, cells, corner.astype(np.float64), float(downsample))
        picture: NDArray[np.uint8] = colors[drawn]
        return picture

    def _heatmap(
        self, place: int, corner: NDArray[np.int64], size: Size, downsample: int, colormap: Colormap
    ) -> NDArray[np.uint8]:
        layer = self._record.heatmaps[place]
        values = np.load(self._folder / f"{place}.npy")
        known = (~np.isnan(values)).astype(np.float32)
        xs, ys = (
            ((start + np.arange(length) + 0.5) * downsample - begin) / layer.cell_l0 - 0.5
            for start, length, begin in zip(corner, (size.width, size.height), layer.corner_l0, strict=True)
        )
        across, down = (grid.astype(np.float32) for grid in np.meshgrid(xs, ys))

        def sampled(grid: NDArray[np.float32], interpolation: int, border: int) -> NDArray[np.float32]:
            return np.asarray(cv2.remap(grid, across, down, interpolation, borderMode=border), np.float32)

        shown = sampled(known, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
        weights = sampled(known, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        filled = np.where(known > 0, values, np.float32(0)).astype(np.float32)
        level = sampled(filled, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        np.divide(level, weights, out=level, where=shown & (weights > 0))
        level = np.clip((level - layer.minimum) / (layer.maximum - layer.minimum), 0, 1)
        rgb = colormap.colors()[np.rint(level * 255).astype(np.uint8)]
        alpha = np.where(shown, np.uint8(255), np.uint8(0))
        return np.dstack([np.where(shown[:, :, None], rgb, np.uint8(0)), alpha])


class _Raster:
    """The classes of the whole slide in at most `MAX_RASTER_PX` px; a cell fills a pixel at least."""

    def __init__(self, size_l0: Size) -> None:
        self._downsample = _raster_downsample(size_l0)
        width, height = (-(-side // self._downsample) for side in (size_l0.width, size_l0.height))
        self.pixels = np.zeros((height, width), np.uint8)

    def add(self, cells: FieldCells) -> None:
        _draw(self.pixels, cells, np.zeros(2), float(self._downsample))


def _raster_downsample(size_l0: Size) -> int:
    """The least power of two that makes the slide small enough."""
    longest, downsample = max(size_l0.width, size_l0.height), 1
    while -(-longest // downsample) > MAX_RASTER_PX:
        downsample *= 2
    return downsample


def _draw(pixels: NDArray[np.uint8], cells: FieldCells, corner: NDArray[np.float64], downsample: float) -> None:
    """Fill the outlines that meet `pixels` with their class and one; `corner` is in pixels of `downsample`."""
    if not len(cells.vertices):
        return
    height, width = pixels.shape
    points = cells.vertices / downsample - corner
    starts = cells.offsets[:-1]
    least, most = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    meets = (most > 0).all(axis=1) & (least < [width, height]).all(axis=1)
    fixed = np.rint((points - 0.5) * 2**_SHIFT_BITS).astype(np.int32)
    rings = split(fixed, cells.offsets)
    for place in np.unique(cells.class_index[meets]).tolist():
        chosen = [rings[cell] for cell in np.flatnonzero(meets & (cells.class_index == place))]
        cv2.fillPoly(pixels, chosen, place + 1, cv2.LINE_8, _SHIFT_BITS)


def _shrunk(part: NDArray[np.uint8], colors: NDArray[np.uint8], size: Size, step: int) -> NDArray[np.uint8]:
    """`part` of the raster at a `step` times coarser level: the mean colour of what is covered, and its share."""
    if step == 1:
        exact: NDArray[np.uint8] = colors[part]
        return exact
    height, width = size.height * step, size.width * step
    full = np.zeros((height, width), np.uint8)
    full[: part.shape[0], : part.shape[1]] = part
    cover = np.zeros((size.height, size.width), np.float32)
    mixed = np.zeros((size.height, size.width, 3), np.float32)
    for place in np.unique(part[part > 0]).tolist():
        mask = (full == place).astype(np.float32)
        share = cv2.resize(mask, (size.width, size.height), interpolation=cv2.INTER_AREA)
        cover += share
        mixed += share[:, :, None] * colors[place, :3].astype(np.float32)
    np.divide(mixed, cover[:, :, None], out=mixed, where=cover[:, :, None] > 0)
    shown: NDArray[np.float32] = np.dstack([mixed, np.minimum(cover, 1) * 255])
    return shown.round().astype(np.uint8)


def _layer(item: Heatmap, x_l0: int, y_l0: int, mpp: float) -> HeatmapLayer:
    return HeatmapLayer(
        name=item.name,
        corner_l0=(x_l0 - item.before_x_um / mpp, y_l0 - item.before_y_um / mpp),
        cell_l0=item.grid_um / mpp,
        minimum=item.minimum,
        maximum=item.maximum,
    )


def _npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _unreadable() -> UnreadablePartError:
    return UnreadablePartError("The layers of this job are gone or damaged: submit it again.")
