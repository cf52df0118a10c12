"""A heatmap as a DICOM Parametric Map of 32-bit floats, one frame on the slide's frame of reference.

Part 3 of the DICOM standard, A.75 and C.8.32. Values are stored as they are, so that the real world value mapping
has slope 1; where the map states nothing, pixels have the padding value.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

import numpy as np
from pydicom import Dataset, dcmwrite

from slidecascade.exports.dicomcodes import Codes, code, read_codes
from slidecascade.exports.dicomobject import add_label, derive_from, make_image, new_object, new_uid, position
from slidecascade.exports.dicomsource import DicomSlide, Placement, read_slide
from slidecascade.exports.folder import ResultFolder
from slidecascade.exports.inputs import Inputs
from slidecascade.outputs.heatmapfile import HeatmapFile

PARAMETRIC_MAP: Final = "1.2.840.10008.5.1.4.1.1.30"
"""Parametric Map Storage."""
PADDING: Final = -1.0
"""Of pixels without a value: fractions, probabilities and densities are never negative."""

_UNITS: Final = {"cells/mm2": ("/mm2", "per square millimeter")}
"""UCUM of the units of heatmaps; others have none."""


def parametric_map(folder: ResultFolder, inputs: Inputs) -> Iterator[bytes]:
    """The DICOM file.

    Raises:
        InvalidRequestError: the source slide cannot be used.
        UnknownHeatmapError: the result has no such map.
        UnusableDataError: its values are not in the folder, or damaged.
    """
    slide = read_slide(inputs, folder.summary)
    found = folder.heatmap(inputs.heatmap)
    made = _object(folder, slide, found, read_codes(inputs.dicom_codes, folder.classes))
    buffer = io.BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    yield buffer.getvalue()


def _object(folder: ResultFolder, slide: DicomSlide, found: HeatmapFile, codes: Codes) -> Dataset:
    summary = folder.summary
    placement = slide.placement(folder.mpp)
    downsample = found.grid_um / folder.mpp
    made = new_object(summary, slide, sop_class=PARAMETRIC_MAP, modality="OT")
    make_image(made, placement, found.corner_l0, downsample)
    if slide.image is not None:
        derive_from(made, slide.image, codes.of("derivation", "heatmap-values", "Heatmap of an analysis"))
    add_label(made, summary, "HEATMAP")
    made.SeriesDescription = found.title[:64]
    made.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    made.ContentQualification, made.PresentationLUTShape = "RESEARCH", "IDENTITY"
    made.RecognizableVisualFeatures = "NO"
    made.AcquisitionContextSequence = []
    made.BitsAllocated = 32
    rows, columns = found.values.shape
    made.Rows, made.Columns, made.NumberOfFrames = rows, columns, 1
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = rows, columns
    _add_dimensions(made)
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.FrameVOILUTSequence = [_window(found)]
    shared.RealWorldValueMappingSequence = [_mapping(found, codes)]
    identity, kind = Dataset(), Dataset()
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = "0", "1", "US"
    shared.PixelValueTransformationSequence = [identity]
    kind.FrameType = made.ImageType
    shared.ParametricMapFrameTypeSequence = [kind]
    made.PerFrameFunctionalGroupsSequence = [_frame(found, placement, downsample)]
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = PADDING
    made.FloatPixelData = np.nan_to_num(found.values, nan=PADDING).astype("<f4").tobytes()
    return made


def _add_dimensions(made: Dataset) -> None:
    """Frames are distinguished by their places; there is one."""
    organization, made.DimensionIndexSequence = Dataset(), []
    organization.DimensionOrganizationUID = new_uid()
    made.DimensionOrganizationSequence, made.DimensionOrganizationType = [organization], "TILED_SPARSE"
    for pointer in (0x0048021F, 0x0048021E):
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, 0x0048021A
        made.DimensionIndexSequence.append(index)


def _window(found: HeatmapFile) -> Dataset:
    made = Dataset()
    made.WindowCenter = f"{(found.minimum + found.maximum) / 2:.6g}"
    made.WindowWidth = f"{found.maximum - found.minimum:.6g}"
    made.VOILUTFunction = "LINEAR_EXACT"
    return made


def _mapping(found: HeatmapFile, codes: Codes) -> Dataset:
    """Stored values are the real ones."""
    quantity = Dataset()
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = [code("246205007", "SCT", "Quantity")]
    quantity.ConceptCodeSequence = [codes.of(f"heatmap.{found.name}", "heatmap", found.title)]
    made = Dataset()
    made.DoubleFloatRealWorldValueFirstValueMapped = float(found.minimum)
    made.DoubleFloatRealWorldValueLastValueMapped = float(found.maximum)
    made.RealWorldValueIntercept, made.RealWorldValueSlope = 0.0, 1.0
    made.LUTExplanation, made.LUTLabel = found.title[:64], found.name[:16]
    made.MeasurementUnitsCodeSequence = [_unit(found.unit)]
    made.QuantityDefinitionSequence = [quantity]
    return made


def _unit(unit: str) -> Dataset:
    value, meaning = _UNITS.get(unit, ("1", "no units"))
    return code(value, "UCUM", meaning)


def _frame(found: HeatmapFile, placement: Placement, downsample: float) -> Dataset:
    """The functional groups of the one frame."""
    content = Dataset()
    content.DimensionIndexValues = [1, 1]
    place = position(placement, found.corner_l0, downsample)
    if "ZOffsetInSlideCoordinateSystem" not in place:
        place.ZOffsetInSlideCoordinateSystem = "0"
    place.ColumnPositionInTotalImagePixelMatrix = place.RowPositionInTotalImagePixelMatrix = 1
    made = Dataset()
    made.FrameContentSequence = [content]
    made.PlanePositionSlideSequence = [place]
    return made
