"""The same region gives the same cells whatever the tiles, their origin and the threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.slides.tiling import Bench, agreements, compare, rendered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidecascade.cells.result import Analysis
from slidecascade.geometry import Box
from slidecascade.slides.slide import Slide
from toy_pipeline import ToyPipeline, blobs


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


def _assert_identical(first: Analysis, second: Analysis) -> None:
    a, b = first.instances, second.instances
    np.testing.assert_array_equal(a.centroids, b.centroids)
    np.testing.assert_array_equal(a.vertices, b.vertices)
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(first.class_index, second.class_index)
    np.testing.assert_array_equal(first.tissue.mask, second.tissue.mask)
    for one, other in zip(a.probabilities, b.probabilities, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([300, 900, 3000]),
    width=st.integers(20, 420),
    height=st.integers(20, 420),
    tile_px=st.integers(64, 300),
    shift=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    threads=st.sampled_from([1, 2]),
)
def test_blobs_are_the_same_in_any_tiling(
    toy: ToyPipeline,
    seed: int,
    density: int,
    width: int,
    height: int,
    tile_px: int,
    shift: tuple[int, int],
    threads: int,
) -> None:
    """With a network that looks at one pixel, tiled and whole agree bit for bit, objects longer than halos too."""
    image = blobs(seed, width, height, count=width * height // density)
    whole = toy.run(image)
    tiled = toy.run(image, tile_px=tile_px, shift=shift, threads=threads)
    _assert_identical(whole, tiled)


@pytest.mark.parametrize("pipeline", ["nuclei", "nash"])
def test_rendered_tissue_is_the_same_in_any_tiling(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled networks: no cell lost, none doubled, none of another class or outline."""
    rows = agreements("rendered", rendered(640), Bench.of(pipeline), mpp=0.5)
    with capsys.disabled():
        print(f"\n{pipeline}: {rows[0].cells} cells, least IoU {min(row.least_iou for row in rows):.4f}")
    assert rows[0].cells > 100
    for row in rows:
        assert (row.lost, row.doubled, row.other_class) == (0, 0, 0), row
        assert row.least_iou == 1, row


@pytest.mark.slow
def test_a_real_slide_is_the_same_in_any_tiling(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CMU-1-Small-Region through `nash`: as one tile, and as 256, 512 and 1024 px tiles with moved seams."""
    slide = Slide.open(shared_data / "slides" / "CMU-1-Small-Region.svs")
    image = slide.read_level(0, Box(0, 0, slide.size_l0.width, slide.size_l0.height))
    slide.close()
    bench = Bench.of("nash")
    whole = bench.analyse(image, mpp=0.499)
    rows = [
        compare(
            whole,
            bench.analyse(image, mpp=0.499, tile_px=tile_px, shift=shift, threads=threads),
            region="CMU-1-Small-Region",
            tile_px=tile_px,
            shift=shift,
            threads=threads,
        )
        for tile_px, shift, threads in ((256, (0, 0), 1), (512, (88, 136), 2), (1024, (88, 136), 2))
    ]
    with capsys.disabled():
        print(f"\nCMU-1-Small-Region: {rows[0].cells} cells, least IoU {min(row.least_iou for row in rows):.4f}")
    for row in rows:
        assert (row.lost, row.doubled, row.other_class) == (0, 0, 0), row
        assert row.least_iou == 1, row
