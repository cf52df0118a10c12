"""Areas as a DICOM Segmentation, a binary segment for each class.

Part 3 of the DICOM standard, A.51 and C.8.20. Frames are tiles of the mask at the network's resolution, on the
slide's frame of reference; tiles without a pixel of a class are left out (TILED_SPARSE). One tile is in memory at
a time.
"""

from __future__ import annotations

import math
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, dcmwrite

from slidecascade.errors import InvalidRequestError, UndecodableImageError, UnusableDataError
from slidecascade.exports.dicomcodes import Codes, code, read_codes
from slidecascade.exports.dicomobject import (
    SEQUENCE_END,
    add_label,
    algorithm,
    append,
    append_item,
    begin_sequence,
    cielab,
    derive_from,
    make_image,
    new_object,
    new_uid,
    position,
    split,
)
from slidecascade.exports.dicomsource import Placement, read_slide
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.geometry import Size
from slidecascade.outputs.gzipped import READ_BYTES
from slidecascade.pipelines.classes import Color
from slidecascade.slides import tiff
from slidecascade.slides.storedparts import OpenFile

SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segmentation Storage."""
_PER_FRAME_TAG: Final = 0x52009230
_INDICES: Final = (
    (0x0062000B, 0x0062000A),  # segment number, in its sequence
    (0x0048021F, 0x0048021A),  # row in the total pixel matrix, in the plane's position
    (0x0048021E, 0x0048021A),  # column
)
"""Attributes that distinguish frames, and the functional group of each."""


@dataclass(frozen=True, slots=True)
class _Mask:
    """The tiles of ``mask.tiff``.

    Attributes:
        size: of the mask; its tiles are padded.
        corner_l0: of its first pixel.
        downsample: level-0 pixels per pixel.
    """

    file: OpenFile
    directory: tiff.Directory
    corner_l0: tuple[float, float]
    downsample: float

    @property
    def size(self) -> Size:
        return self.directory.size

    @property
    def tile(self) -> Size:
        return self.directory.part_size

    def tiles(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Column and row of each tile, and its pixels: places of classes, counted from 1."""
        columns = math.ceil(self.size.width / self.tile.width)
        parts = zip(self.directory.part_offsets, self.directory.part_bytes, strict=True)
        for index, (offset, length) in enumerate(parts):
            data = zlib.decompress(self.file.read(int(offset), int(length)))
            yield index % columns, index // columns, np.frombuffer(data, np.uint8)


@dataclass(frozen=True, slots=True)
class _Frame:
    segment: int
    column: int
    row: int


def segmentation(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The DICOM file, in pieces.

    Raises:
        InvalidRequestError: the source slide cannot be used, or there is no area.
        UnusableDataError: the result has no mask, or it is damaged.
    """
    slide = read_slide(inputs, folder.summary)
    placement = slide.placement(folder.mpp)
    codes = read_codes(inputs.dicom_codes, folder.classes)
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as pixels, closing(_open(folder)) as opened:
        mask = _mask(folder, opened)
        try:
            frames = _spool(mask, pixels)
        except zlib.error as error:
            raise UnusableDataError(f"{folder.mask} is damaged: fetch or analyse it again.") from error
        if not frames:
            raise InvalidRequestError("The result has no areas: a DICOM segmentation needs at least one.")
        made = new_object(folder.summary, slide, sop_class=SEGMENTATION, modality="SEG")
        add_label(made, folder.summary, "AREAS")
        make_image(made, placement, mask.corner_l0, mask.downsample)
        if slide.image is not None:
            derive_from(made, slide.image, code("113076", "DCM", "Segmentation"))
        _describe(made, mask, len(frames))
        colors = folder.colors()
        made.SegmentSequence = [
            _segment(folder, codes, number, name, colors[name])
            for number, name in enumerate(folder.classes, start=1)
        ]
        made.add(DataElement(0x7FE00010, "OB", pixels))
        _write(file, made, (_frame(frame, mask, placement) for frame in frames))
        file.seek(0)
        while piece := file.read(READ_BYTES):
            yield piece


def _open(folder: ResultFolder) -> OpenFile:
    if folder.mask is None:
        raise UnusableDataError(
            f"The result of the pipeline {folder.summary.pipeline} ({folder.summary.kind}) has no mask.tiff: "
            "choose another format, or request the output `mask` of the job."
        )
    return OpenFile(folder.mask)


def _mask(folder: ResultFolder, opened: OpenFile) -> _Mask:
    summary = folder.summary
    try:
        directory = next(iter(tiff.directories(opened)))
    except (UndecodableImageError, struct.error, StopIteration) as error:
        raise UnusableDataError(f"{folder.mask} is damaged: fetch or analyse it again.") from error
    # The network's grid starts at the slide's corner; the mask's first pixel is the one that holds the region's.
    downsample = summary.models[0].downsample
    corner_l0 = (
        math.floor(summary.region.x / downsample) * downsample,
        math.floor(summary.region.y / downsample) * downsample,
    )
    return _Mask(opened, directory, corner_l0, downsample)


def _spool(mask: _Mask, pixels: IO[bytes]) -> list[_Frame]:
    """Write the frames, 8 pixels a byte from the lowest bit on; which they are."""
    frames = []
    for column, row, tile in mask.tiles():
        for place in np.unique(tile).tolist():
            if place:
                pixels.write(np.packbits(tile == place, bitorder="little").tobytes())
                frames.append(_Frame(place, column, row))
    pixels.seek(0)
    return frames


def _describe(made: Dataset, mask: _Mask, frames: int) -> None:
    """The attributes of an image of binary tiles."""
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.SegmentationType, made.SegmentsOverlap = "BINARY", "NO"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    made.Rows, made.Columns = mask.tile.height, mask.tile.width
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = mask.size.height, mask.size.width
    made.NumberOfFrames = frames
    organization = Dataset()
    organization.DimensionOrganizationUID = new_uid()
    made.DimensionOrganizationSequence, made.DimensionOrganizationType = [organization], "TILED_SPARSE"
    made.DimensionIndexSequence = []
    for pointer, group in _INDICES:
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, group
        made.DimensionIndexSequence.append(index)


def _segment(folder: ResultFolder, codes: Codes, number: int, name: str, color: Color) -> Dataset:
    made = Dataset()
    made.SegmentNumber, made.SegmentLabel = number, name[:64]
    made.SegmentAlgorithmType, made.SegmentAlgorithmName = "AUTOMATIC", folder.summary.pipeline[:64]
    made.SegmentationAlgorithmIdentificationSequence = [algorithm(folder.summary)]
    made.SegmentedPropertyCategoryCodeSequence = [code("91723000", "SCT", "Anatomical structure")]
    made.SegmentedPropertyTypeCodeSequence = [codes.of_class(name)]
    made.RecommendedDisplayCIELabValue = cielab(color)
    return made


def _frame(frame: _Frame, mask: _Mask, placement: Placement) -> Dataset:
    """The functional groups of a frame."""
    x, y = frame.column * mask.tile.width, frame.row * mask.tile.height
    content, segment = Dataset(), Dataset()
    content.DimensionIndexValues = [frame.segment, frame.row + 1, frame.column + 1]
    segment.ReferencedSegmentNumber = frame.segment
    corner_l0 = (mask.corner_l0[0] + x * mask.downsample, mask.corner_l0[1] + y * mask.downsample)
    place = position(placement, corner_l0, mask.downsample)
    if "ZOffsetInSlideCoordinateSystem" not in place:
        place.ZOffsetInSlideCoordinateSystem = "0"
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    made = Dataset()
    made.FrameContentSequence = [content]
    made.PlanePositionSlideSequence = [place]
    made.SegmentIdentificationSequence = [segment]
    return made


def _write(file: IO[bytes], made: Dataset, frames: Iterator[Dataset]) -> None:
    """The object, its per-frame functional groups one by one."""
    after = split(made, _PER_FRAME_TAG)
    dcmwrite(file, made, enforce_file_format=True)
    file.seek(0, 2)
    begin_sequence(file, _PER_FRAME_TAG)
    for frame in frames:
        append_item(file, frame)
    file.write(SEQUENCE_END)
    append(file, after)
