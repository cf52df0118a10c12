"""Maps of where a class is frequent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from made_analysis import CLASSES, HEATMAPS, make_analysis, make_instances
from slidecascade.cells.result import Analysis
from slidecascade.errors import InvalidRequestError, UnknownHeatmapError
from slidecascade.geometry import Box
from slidecascade.kinds.result import FailedTile
from slidecascade.outputs import heatmap
from slidecascade.outputs.cells.heatmap import MAX_GRID_SIDE, compute
from slidecascade.outputs.colormap import Colormap
from slidecascade.pipelines.heatmaps import HeatmapSpec

FRACTION, DENSITY = HEATMAPS
REGION = Box(500, 700, 1600, 1200)


def lattice(*, tissue: Any = None, failed: tuple[FailedTile, ...] = ()) -> Analysis:
    """Five classes mixed evenly, a cell every 4 um over 800 x 600 um of tissue; none in glass or failed tiles."""
    base = make_analysis(0, region_l0=REGION, tissue=tissue, failed=failed)
    x, y = np.meshgrid(np.arange(4.0, REGION.width, 8), np.arange(4.0, REGION.height, 8))
    centroids = np.column_stack([x.ravel() + REGION.x, y.ravel() + REGION.y])
    on_map = ((centroids - [REGION.x, REGION.y]) // 16).astype(int)
    kept = base.tissue.mask[on_map[:, 1], on_map[:, 0]]
    for tile in failed:
        kept &= ~tile.core_l0.contains(centroids)
    index = ((x // 8 + 2 * (y // 8)).ravel() % len(CLASSES)).astype(np.int64)
    instances = make_instances(centroids[kept], np.full(int(kept.sum()), 1.5), vertices=3)
    unseen = np.full((len(instances), 3), np.nan, np.float32)
    return replace(base, instances=instances.with_probabilities(unseen, unseen), class_index=index[kept])


def half_tissue() -> Any:
    """Tissue left of the middle, with a hole."""
    mask = np.zeros((75, 100), np.bool_)
    mask[:, :50] = True
    mask[20:40, 10:30] = False
    return mask


def decoded(png: bytes) -> Any:
    """RGBA of a PNG."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


@pytest.mark.parametrize("tissue", [None, half_tissue()], ids=["tissue everywhere", "half and a hole"])
def test_a_fraction_is_not_biased_at_edges_and_holes(tissue: Any) -> None:
    """Where one hepatocyte in three is steatotic the map says a third: inside, at the edge, beside a hole."""
    result = compute(lattice(tissue=tissue), FRACTION)
    known = result.values[~np.isnan(result.values)]

    assert result.values.shape == (19, 25)
    assert np.abs(known - 1 / 3).max() < 0.02
    assert (result.minimum, result.maximum, result.unit) == (0.0, 1.0, "fraction")


@pytest.mark.parametrize("tissue", [None, half_tissue()], ids=["tissue everywhere", "half and a hole"])
def test_a_density_is_not_biased_at_edges_and_holes(tissue: Any) -> None:
    """One immune cell per 80 um2 of tissue is 12,500 per mm2, at the edge too."""
    result = compute(lattice(tissue=tissue), DENSITY)
    known = result.values[~np.isnan(result.values)]

    assert np.median(known) == pytest.approx(12_500, rel=0.01)
    assert np.abs(known / 12_500 - 1).max() < 0.05
    assert result.unit == "cells/mm2"
    assert result.maximum == pytest.approx(known.max())


def test_a_density_stands_for_any_number_of_classes() -> None:
    """A parent's name covers the classes derived from it."""
    spec = replace(DENSITY, classes=("Hepatocyte", "Immune"))

    assert np.nanmedian(compute(lattice(), spec).values) == pytest.approx(50_000, rel=0.01)


def test_the_map_is_where_the_cells_are() -> None:
    """Immune cells in the top right corner only make that corner the densest."""
    analysis = lattice()
    corner = (analysis.instances.centroids - [REGION.x, REGION.y]) @ [[1, 0], [0, -1]] > [1200, -300]
    index = np.where(corner.all(axis=1), 3, 4)
    values = compute(replace(analysis, class_index=index), DENSITY).values

    assert np.unravel_index(np.nanargmax(values), values.shape)[0] < 5
    assert np.unravel_index(np.nanargmax(values), values.shape)[1] > 18
    assert np.nanmax(values[12:, :12]) == 0


def test_heatmaps_are_empty_without_tissue() -> None:
    """Glass is NaN in the map and transparent in the picture."""
    result = compute(lattice(tissue=half_tissue()), DENSITY)
    image = decoded(heatmap.encode_png(result))

    assert np.isnan(result.values[:, 13:]).all()
    assert (image[:, image.shape[1] * 13 // 25 :, 3] == 0).all()
    assert not image[image[:, :, 3] == 0].any()
    assert (image[100:, : image.shape[1] // 3, 3] == 255).mean() > 0.5


def test_a_failed_tile_is_unknown_and_does_not_dilute_its_neighbours() -> None:
    """The tile that was not analysed is transparent; beside it the density is that of its neighbours."""
    failed = FailedTile(Box(REGION.x, REGION.y, 640, 1200), "lost")
    result = compute(lattice(failed=(failed,)), DENSITY)

    assert np.isnan(result.values[:, :10]).all()
    assert np.nanmin(result.values[:, 10]) == pytest.approx(12_500, rel=0.05)


def test_a_region_without_cells() -> None:
    """No cells: a fraction has nothing to tell, a density is zero with a scale that can be drawn."""
    analysis = make_analysis(0)
    fraction, density = (compute(analysis, spec) for spec in HEATMAPS)

    assert np.isnan(fraction.values).all()
    assert (density.values == 0).all()
    assert density.maximum == 1.0
    assert (decoded(heatmap.encode_png(fraction))[:, :, 3] == 0).all()
    assert (decoded(heatmap.encode_png(density))[:, :, 3] == 255).all()


def test_a_region_without_tissue_is_transparent() -> None:
    """No tissue at all: all NaN, nothing raised, a scale that can be drawn."""
    result = compute(lattice(tissue=np.zeros((75, 100), np.bool_)), DENSITY)

    assert np.isnan(result.values).all()
    assert result.maximum == 1.0
    assert (decoded(heatmap.encode_png(result))[:, :, 3] == 0).all()


def test_a_fraction_of_no_named_class_is_of_all_cells() -> None:
    """Without `of` the denominator is every cell."""
    spec = replace(FRACTION, of=())

    assert np.nanmean(compute(lattice(), spec).values) == pytest.approx(0.2, abs=0.01)


def test_a_numerator_outside_the_denominator_does_not_count() -> None:
    """Immune cells among hepatocytes are none, not more than all."""
    spec = replace(FRACTION, classes=("Immune",))

    assert np.nanmax(compute(lattice(), spec).values) == 0


def test_without_smoothing_the_map_is_the_plain_count() -> None:
    """Sigma 0 leaves the histogram as it is."""
    analysis = lattice()
    spec = replace(DENSITY, classes=("Hepatocyte", "Immune", "Other"), sigma_um=0.0)
    inner = compute(analysis, spec).values[:18, :]

    total = inner.sum() * 32**2 / 1e6
    assert total == np.sum(analysis.instances.centroids[:, 1] < REGION.y + 18 * 64)


@pytest.mark.parametrize(
    ("region", "mpp", "shape"),
    [
        (Box(0, 0, 2048, 2048), 0.25, (512, 512)),  # 512 um: 1 um per pixel makes 512
        (Box(0, 0, 2049, 1000), 0.25, (250, 513)),  # a pixel more than 16 grid cells
        (Box(0, 0, 8000, 4000), 0.5, (500, 1000)),  # 4 um per pixel
        (Box(0, 0, 1, 1), 0.25, (1, 1)),
        (Box(0, 0, 64, 1), 0.5, (1, 64)),  # no finer than 0.5 um
    ],
)
def test_the_picture_covers_the_region(region: Box, mpp: float, shape: tuple[int, int]) -> None:
    """About 4 um per pixel, finer for small regions; the legend's pixel size times the picture is the region."""
    result = compute(make_analysis(20, region_l0=region, mpp=mpp), DENSITY)
    height, width = decoded(heatmap.encode_png(result)).shape[:2]
    pixel_um = heatmap.legend(result).pixel_um

    assert (height, width) == shape
    assert (width - 1) * pixel_um < region.width * mpp <= width * pixel_um + 1e-6
    assert (height - 1) * pixel_um < region.height * mpp <= height * pixel_um + 1e-6


@pytest.mark.parametrize("region", [Box(0, 0, 10_000, 10_000), Box(0, 0, 100_000_000, 1)])
def test_an_absurdly_large_region_stays_small(region: Box) -> None:
    """A metre of tissue, or 10 km by one pixel, gets larger grid cells instead of all the memory."""
    tissue = np.ones((10, 10), np.bool_)
    result = compute(make_analysis(20, region_l0=region, mpp=100.0, tissue=tissue), DENSITY)

    assert max(result.values.shape) <= MAX_GRID_SIDE
    assert max(result.values.shape) * result.png_scale <= heatmap.MAX_PNG_SIDE


def test_colours_run_from_the_minimum_to_the_maximum() -> None:
    """Zero gets the first stop, the maximum and all above it the last."""
    spec = replace(DENSITY, maximum=2000.0, sigma_um=0.0)
    base = compute(make_analysis(0, region_l0=Box(0, 0, 192, 64)), spec)
    result = replace(base, values=np.array([[0.0, 2000.0, 9000.0]], np.float32))
    image = decoded(heatmap.encode_png(result))
    stops = heatmap.legend(result).stops

    assert result.maximum == 2000.0
    assert tuple(image[0, 0, :3]) == stops[0] == (68, 1, 84)
    assert tuple(image[0, -1, :3]) == stops[-1] == (253, 231, 37)
    assert len(stops) == heatmap.LEGEND_STOPS == 16


def test_jet_is_there_on_request() -> None:
    """Another colormap changes the colours and the legend, not the transparency."""
    result = compute(lattice(tissue=half_tissue()), FRACTION)
    viridis, jet = (decoded(heatmap.encode_png(result, name)) for name in (Colormap.VIRIDIS, Colormap.JET))
    legend = heatmap.legend(result, Colormap.JET)

    assert (viridis[:, :, 3] == jet[:, :, 3]).all()
    assert (viridis[:, :, :3] != jet[:, :, :3]).any()
    assert legend.colormap == "jet"
    assert legend.stops[0][2] > 120
    assert legend.stops[-1][0] > 120


def test_a_heatmap_is_found_by_name() -> None:
    """No name means the first; an error for an unknown name lists the known ones."""
    analysis = make_analysis()

    assert heatmap.named(None, analysis.heatmaps, pipeline="nash") is FRACTION
    assert heatmap.named("immune", analysis.heatmaps, pipeline="nash") is DENSITY
    with pytest.raises(UnknownHeatmapError, match=r"no heatmap 'fat'; it has: steatosis, immune\."):
        heatmap.named("fat", analysis.heatmaps, pipeline="nash")


@pytest.mark.parametrize("name", [None, "immune"])
def test_a_pipeline_without_heatmaps_says_so(name: str | None) -> None:
    """Asking for a picture a pipeline cannot draw is an error with a reason."""
    with pytest.raises(UnknownHeatmapError, match="has no heatmaps"):
        heatmap.named(name, make_analysis(heatmaps=()).heatmaps, pipeline="nash")


def test_an_unknown_colormap_is_refused() -> None:
    """The error lists the maps there are, by field."""
    with pytest.raises(InvalidRequestError, match=r"must be one of viridis, .*jet") as caught:
        Colormap.parse("rainbow")
    assert caught.value.errors[0][0] == "colormap"


def test_a_speck_of_tissue_does_not_become_the_maximum() -> None:
    """A crumb too small to be a denominator is left out, so that it does not set the colour scale."""
    tissue = half_tissue()
    tissue[37, 90] = True
    analysis = lattice(tissue=tissue)
    spec = HeatmapSpec(name="all", title="All", kind="density", classes=("Hepatocyte", "Immune", "Other"))

    assert compute(analysis, spec).maximum < 70_000
