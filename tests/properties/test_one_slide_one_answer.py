"""The cells of a region are those of the whole slide whose centroid lies in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.slides.regions import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box
from slidecascade.models.repository import load_repository
from slidecascade.outputs.cells import geojson
from slidecascade.pipelines.cells import FILE
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.batcher import Batcher
from slidecascade.runners.local import LocalRunner
from slidecascade.settings import bundled_models_dir
from slidecascade.slides.store import SlideStore
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions
from toy_pipeline import ToyPipeline, blobs

WIDTH, HEIGHT = 460, 380
MPPS = (0.5, 0.25, 0.31, 0.8)
"""Level 0 as it is; halved, resampled and enlarged for the segmenter, which reads at 0.5."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


def restricted(whole: Analysis, region_l0: Box) -> Analysis:
    """The analysis of the whole slide, less the cells whose centroid is not in the half-open region."""
    inside = region_l0.contains(whole.instances.centroids)
    return replace(
        whole,
        region_l0=region_l0,
        instances=whole.instances.take(inside),
        class_index=whole.class_index[inside],
    )


def assert_same_cells(found: Analysis, expected: Analysis) -> None:
    """Bit for bit: places, outlines, scores, probabilities, classes."""
    ours, theirs = found.instances, expected.instances
    np.testing.assert_array_equal(ours.centroids, theirs.centroids)
    np.testing.assert_array_equal(ours.vertices, theirs.vertices)
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    for one, other in zip(ours.probabilities, theirs.probabilities, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.class_index, expected.class_index)
    assert features(found) == features(expected)


def features(analysis: Analysis) -> list[bytes]:
    """The lines of the cells as they are written: ids, outlines, classes, digits."""
    return b"".join(geojson.encode(analysis)).splitlines()[1:]


@st.composite
def regions(draw: st.DrawFn) -> Box:
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return Box(x, y, draw(st.integers(1, WIDTH - x)), draw(st.integers(1, HEIGHT - y)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([300, 900, 3000]),
    region_l0=regions(),
    mpp=st.sampled_from(MPPS),
    tile_px=st.none() | st.integers(64, 300),
    shift=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    threads=st.sampled_from([1, 2]),
)
def test_a_region_has_the_cells_of_the_whole_image(
    toy: ToyPipeline,
    seed: int,
    density: int,
    region_l0: Box,
    mpp: float,
    tile_px: int | None,
    shift: tuple[int, int],
    threads: int,
) -> None:
    """Any corner, odd ones too, any size, tiling and resampling: what lies in the region, and nothing else."""
    image = blobs(seed, WIDTH, HEIGHT, count=WIDTH * HEIGHT // density)
    whole = toy.run(image, mpp=mpp)

    part = toy.run(image, region_l0=region_l0, mpp=mpp, tile_px=tile_px, shift=shift, threads=threads)

    assert_same_cells(part, restricted(whole, region_l0))


@pytest.mark.parametrize("mpp", [0.5, 0.35])
def test_the_bundled_networks_find_the_same_cells_in_a_region(tmp_path: Path, mpp: float) -> None:
    """A slide through `nash`, by single runs and by a batcher: outlines, classes, probabilities, ids."""
    write_slide(tmp_path / "liver.tiff", TissueOptions(seed=21, mpp=mpp), 900, 700, levels=1)
    packages = load_repository(bundled_models_dir())
    store = SlideStore([tmp_path], handles=1, max_listing=1)
    local = LocalRunner(packages.values())
    batched = Batcher([local, local])
    bench = Bench(load_pipelines(packages, None, (FILE,))["nash"], store, "liver.tiff", mpp, (local, batched))
    try:
        whole = bench.analyse(Box(0, 0, 900, 700), tile_px=None, shift=(0, 0), threads=2, runner=0)
        for number, region in enumerate((Box(301, 203, 333, 277), Box(0, 400, 515, 300), Box(450, 350, 40, 40))):
            tile_px = (None, 200)[number % 2]
            part = bench.analyse(region, tile_px=tile_px, shift=(8, 72), threads=2, runner=number % 2)
            assert_same_cells(part, restricted(whole, region))
    finally:
        store.close()
        batched.close()
    assert len(whole.instances) > 50
