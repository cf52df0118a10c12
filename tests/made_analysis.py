"""An `Analysis` made up for tests of the encoders: round cells at random places, every class present."""

from __future__ import annotations

import numpy as np

from slidecascade.cells.instances import Instances
from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box, Grid, Size
from slidecascade.kinds.result import FailedTile, TileReport, TissueMap, UsedModel
from slidecascade.pipelines.classes import CellClass, ClassTree
from slidecascade.pipelines.heatmaps import HeatmapSpec
from slidecascade.slides.facts import SlideFacts
from slidecascade.warning import AnswerWarning

CLASSES = (
    CellClass(("Hepatocyte", "Normal"), (0, 158, 115)),
    CellClass(("Hepatocyte", "Ballooning"), (213, 94, 0)),
    CellClass(("Hepatocyte", "Steatosis"), (240, 228, 66)),
    CellClass(("Immune",), (0, 114, 178)),
    CellClass(("Other",), (86, 180, 233)),
)
HEATMAPS = (
    HeatmapSpec(
        name="steatosis",
        title="Steatotic hepatocytes among hepatocytes",
        kind="fraction",
        classes=("Hepatocyte: Steatosis",),
        of=("Hepatocyte",),
        grid_um=32.0,
        sigma_um=64.0,
    ),
    HeatmapSpec(
        name="immune", title="Immune cells", kind="density", classes=("Immune",), grid_um=32.0, sigma_um=64.0
    ),
)
REGION_L0 = Box(1000, 2000, 800, 600)
FACTS = SlideFacts(content_id="e" * 64, bounds_l0=None, dark_field=False)


def grid_over(region_l0: Box, *, mpp_l0: float, downsample: float) -> Grid:
    """A grid of `downsample` over the region."""
    size = Size(-(-region_l0.width // int(downsample)), -(-region_l0.height // int(downsample)))
    return Grid(region_l0.x, region_l0.y, downsample, size, mpp_l0 * downsample)


def make_instances(
    centroids: np.ndarray, radii: np.ndarray, *, vertices: int, wobble: float = 0.1, seed: int = 0
) -> Instances:
    """Discs whose radii differ by the part `wobble` from vertex to vertex; no cascade yet."""
    rng = np.random.default_rng(seed)
    n = len(centroids)
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = radii[:, None] * rng.uniform(1 - wobble, 1 + wobble, (n, vertices))
    rings = centroids[:, None] + reach[:, :, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return Instances(
        centroids=centroids,
        areas=np.pi * radii**2,
        scores=rng.uniform(0.5, 1, n).astype(np.float32),
        vertices=rings.reshape(-1, 2),
        offsets=np.arange(n + 1, dtype=np.int64) * vertices,
    )


def make_analysis(
    cells: int = 50,
    *,
    region_l0: Box = REGION_L0,
    mpp: float = 0.5,
    vertices: int = 12,
    tissue: np.ndarray | None = None,
    failed: tuple[FailedTile, ...] = (),
    heatmaps: tuple[HeatmapSpec, ...] = HEATMAPS,
    seed: int = 0,
    warnings: tuple[AnswerWarning, ...] = (),
) -> Analysis:
    """A `nash`-like analysis: two classifiers, the second of which sees hepatocytes only.

    `tissue` is the mask of a tissue map of 16 level-0 pixels per pixel (default: tissue everywhere).
    """
    rng = np.random.default_rng(seed)
    corner, extent = (region_l0.x, region_l0.y), (region_l0.width, region_l0.height)
    centroids = np.array(corner) + rng.uniform(0, 1, (cells, 2)) * np.array(extent)
    class_index = np.arange(cells, dtype=np.int64) % len(CLASSES)
    first = rng.dirichlet([1, 1, 1], cells).astype(np.float32)
    second = rng.dirichlet([1, 1, 1], cells).astype(np.float32)
    second[class_index >= 3] = np.nan
    tissue_grid = grid_over(region_l0, mpp_l0=mpp, downsample=16)
    if tissue is None:
        tissue = np.ones((tissue_grid.size.height, tissue_grid.size.width), np.bool_)
    grid = grid_over(region_l0, mpp_l0=mpp, downsample=1)
    return Analysis(
        pipeline="nash",
        coordinate_space="level0-pixels",
        facts=FACTS,
        region_l0=region_l0,
        mpp=mpp,
        models=(
            UsedModel("nuclei", 1, "a" * 64, "segmenter", grid, ("background", "nucleus")),
            UsedModel("nash-cell", 1, "b" * 64, "classifier", grid, ("Hepatocyte", "Immune", "Other")),
            UsedModel("nash-hepatocyte", 2, "c" * 64, "classifier", grid, ("Ballooning", "Normal", "Steatosis")),
        ),
        thresholds={"nuclei": 0.5},
        classes=ClassTree(CLASSES),
        instances=make_instances(
            centroids, rng.uniform(6, 14, cells), vertices=vertices, seed=seed
        ).with_probabilities(first, second),
        class_index=class_index,
        heatmaps=heatmaps,
        tissue=TissueMap(tissue, tissue_grid),
        tiles=TileReport(total=12, background=3, failed=failed),
        timings_s={"segment": 1.23456789, "total": 2.0},
        warnings=warnings,
    )
