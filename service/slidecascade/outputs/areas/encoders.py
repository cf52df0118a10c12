"""The encoders of areas."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.areas.moments import roundness
from slidecascade.areas.result import AreasResult
from slidecascade.geometry import Size
from slidecascade.outputs import overlay
from slidecascade.outputs.annotations import (
    COLLECTION_END,
    MOST_BYTES_EACH,
    collection_begin,
    joined,
    written,
)
from slidecascade.outputs.answers import Answers
from slidecascade.outputs.areas import masktiff
from slidecascade.outputs.areas.heatmap import compute
from slidecascade.outputs.areas.rle import rle_csv
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing, Encoders, pictures
from slidecascade.outputs.extent import UM2_PER_MM2, tissue_mm2
from slidecascade.outputs.figure import Overviewed, Rgb
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.ids import id_namespace
from slidecascade.outputs.provenance import provenance
from slidecascade.outputs.summary import Figures, summary
from slidecascade.wire import CSV, GEOJSON, JSON, PNG

MASK: Final = "mask.tiff"
RLE: Final = "areas_rle.csv"


def encode_geojson(result: AreasResult) -> Iterator[bytes]:
    """A feature collection of QuPath annotations with holes, in pieces; coordinates are level-0 pixels."""
    yield collection_begin(provenance(result))
    shapes = zip(
        (result.areas_px * result.grid.mpp**2).tolist(),
        roundness(result.runs, len(result.areas_px)).tolist(),
        result.probabilities.tolist(),
        strict=True,
    )
    classes = [result.classes.ends[index] for index in result.class_index.tolist()]
    measurements = [_measured(*shape) for shape in shapes]
    yield from joined(
        written(id_namespace(result).bytes, result.rings, classes, measurements, origin_l0=result.origin_l0)
    )
    yield COLLECTION_END


def _measured(area_um2: float, roundness: float, probability: float) -> dict[str, float]:
    """An area's measurements, named as QuPath names those it has."""
    measured = {
        "Area µm^2": round(area_um2, 2),
        "Equivalent diameter µm": round(2 * math.sqrt(area_um2 / math.pi), 2),
        "Roundness": round(roundness, 3),
    }
    return measured if math.isnan(probability) else measured | {"Mean probability": round(probability, 4)}


def summarise(
    result: AreasResult, heatmaps: tuple[Heatmap, ...], colormap: Colormap = Colormap.VIRIDIS
) -> wire.Summary:
    """The summary of `result`: how many areas there are of each class, how large, and what part of the tissue."""
    tissue = tissue_mm2(result)
    size_index = result.size_index

    def figures_of(chosen: NDArray[np.bool_]) -> wire.SizeFigures:
        area_mm2 = float(result.areas_px[chosen].sum()) * result.grid.mpp**2 / UM2_PER_MM2
        return wire.SizeFigures(
            count=int(chosen.sum()),
            area_mm2=round(area_mm2, 6),
            tissue_share=round(area_mm2 / tissue, 6) if tissue > 0 else None,
        )

    areas = {}
    for place, end in enumerate(result.classes.ends):
        of_class = result.class_index == place
        sizes = {
            size: figures_of(of_class & (size_index == number)) for number, (size, _) in enumerate(result.sizes)
        }
        areas[end.name] = wire.AreaFigures(**dict(figures_of(of_class)), sizes=sizes)
    densities = {name: round(number / tissue, 2) if tissue > 0 else None for name, number in result.counts.items()}
    return summary(result, Figures({}, densities, areas=areas), heatmaps, colormap)


ANSWERS: Answers[AreasResult] = Answers(
    "areas", encode_geojson, summarise, lambda result: result.heatmaps, compute
)
heatmaps_of = ANSWERS.heatmaps_of


def files(result: AreasResult, overview: Overview, drawing: Drawing, *, with_rle: bool = True) -> Files:
    """Summary, heatmaps, overlay, ``mask.tiff``, ``areas_rle.csv`` and ``areas.geojson``."""
    most_bytes = 4096 + len(result.rings) * MOST_BYTES_EACH + len(result.rings.vertices) * 40
    return Files(
        _small(result, overview, drawing, with_rle=with_rle), "areas.geojson", encode_geojson(result), most_bytes
    )


def _small(
    result: AreasResult, overview: Overview, drawing: Drawing, *, with_rle: bool
) -> Iterator[tuple[str, bytes]]:
    maps = ANSWERS.heatmaps_of(result)
    yield from ANSWERS.small_files(result, maps, drawing)
    if drawing.shows_tissue:
        draw, colormaps = partial(_outlined, result), [drawing.colormap]
        yield from pictures(result, maps, overview, drawing, draw=draw, colormaps=colormaps)
    if result.box.area:
        yield MASK, _tiff(result)
    if with_rle:
        yield RLE, b"".join(rle_csv(result))


def _outlined(result: AreasResult, image_rgb: Rgb, downsample: float) -> Rgb:
    typical_px = float(np.sqrt(np.median(result.areas_px))) if len(result.areas_px) else 0.0
    return overlay.draw(
        result,
        overlay.shapes_of(result.rings, result.class_index, result.classes, list(result.counts.values())),
        image_rgb,
        downsample=downsample,
        typical_l0=typical_px * result.grid.downsample,
    )


def drawn(result: AreasResult, overview: Overviewed) -> Rgb:
    """The outlines over the region."""
    page = _outlined(result, overview.image, overview.downsample)
    return page[: overview.image.shape[0], : overview.image.shape[1]]


def _tiff(result: AreasResult) -> bytes:
    """The mask as 8-bit greys at the network's resolution, see `AreasResult.rows`; deflated, it is small."""
    file = io.BytesIO()
    masktiff.write(file, result.rows, Size(result.box.width, result.box.height), mpp=result.grid.mpp)
    return file.getvalue()


def _csv(result: AreasResult, _drawing: Drawing) -> Iterator[bytes]:
    yield from rle_csv(result)


ENCODERS = Encoders(
    {GEOJSON: ANSWERS.geojson, JSON: ANSWERS.summary, PNG: ANSWERS.heatmap, CSV: _csv},
    files,
    ANSWERS.native,
    ANSWERS.named,
    drawn,
)
