"""A small DICOM whole slide image: JPEG tiles of a pyramid, a file for each level, as scanners write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from slidecascade.exports.dicomsource import WHOLE_SLIDE

TILE_PX: Final = 128


def write_dicom_slide(
    folder: Path, pixels: NDArray[np.uint8], *, mpp: float = 0.5, downsamples: tuple[int, ...] = (1, 4)
) -> list[Path]:
    """Write `pixels` ``(H, W, 3)`` RGB; the files of the levels, the base level first.

    Rows run along the slide's y axis and columns against its x axis, as scanners place them.
    """
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for number, downsample in enumerate(downsamples, start=1):
        level = _shrunk(pixels, downsample)
        made = _head(level, mpp * downsample, is_base=downsample == 1)
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = study, series, frame
        made.InstanceNumber = number
        tiles = _tiles(level)
        made.NumberOfFrames = len(tiles)
        made.PixelData = encapsulate(tiles)
        path = folder / f"level{number}.dcm"
        made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _shrunk(pixels: NDArray[np.uint8], downsample: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[0] // downsample, pixels.shape[1] // downsample
    whole = pixels[: height * downsample, : width * downsample]
    blocks = whole.reshape(height, downsample, width, downsample, 3)
    return np.asarray(blocks.mean(axis=(1, 3)).round(), np.uint8)


def _tiles(level: NDArray[np.uint8]) -> list[bytes]:
    """JPEG of each tile; those at the edges are filled with white."""
    tiles = []
    for top in range(0, level.shape[0], TILE_PX):
        for left in range(0, level.shape[1], TILE_PX):
            tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
            part = level[top : top + TILE_PX, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            file = io.BytesIO()
            Image.fromarray(tile).save(file, "JPEG", quality=90)
            tiles.append(file.getvalue())
    return tiles


def _head(level: NDArray[np.uint8], mpp: float, *, is_base: bool) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.SOPClassUID, made.SOPInstanceUID = WHOLE_SLIDE, generate_uid()
    made.PatientName, made.PatientID, made.StudyID, made.AccessionNumber = "Doe^Jane", "P17", "4", "A99"
    made.PatientBirthDate, made.PatientSex, made.StudyDate, made.StudyTime = "19700101", "F", "20260101", "120000"
    made.ReferringPhysicianName, made.Modality, made.SeriesNumber = "", "SM", 1
    made.Manufacturer, made.ManufacturerModelName = "Made", "Test"
    made.DeviceSerialNumber, made.SoftwareVersions = "1", "1"
    made.ImageType = [
        "ORIGINAL" if is_base else "DERIVED",
        "PRIMARY",
        "VOLUME",
        "NONE" if is_base else "RESAMPLED",
    ]
    made.AcquisitionDateTime, made.VolumetricProperties = "20260101120000", "VOLUME"
    made.Rows = made.Columns = TILE_PX
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = level.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "YBR_FULL_422", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.LossyImageCompression = "01"
    made.ImagedVolumeWidth, made.ImagedVolumeHeight = (float(side * mpp / 1000) for side in level.shape[1::-1])
    made.ImagedVolumeDepth, made.NumberOfOpticalPaths, made.TotalPixelMatrixFocalPlanes = 0.001, 1, 1
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    made.PositionReferenceIndicator, made.DimensionOrganizationType = "SLIDE_CORNER", "TILED_FULL"
    origin, measures, shared, specimen, path = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = "20.5", "40.25"
    made.TotalPixelMatrixOriginSequence = [origin]
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], "0.001"
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S-1", generate_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    made.ContainerIdentifier, made.SpecimenDescriptionSequence = "C-1", [specimen]
    made.IssuerOfTheContainerIdentifierSequence, made.ContainerTypeCodeSequence = [], []
    path.OpticalPathIdentifier = "1"
    made.OpticalPathSequence = [path]
    return made
