"""Polygons that suppress each other: the same for every requested region and tiling."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toy_heads
from properties.test_one_slide_one_answer import HEIGHT, WIDTH, assert_same_cells, regions, restricted
from slidecascade.geometry import Box
from toy_pipeline import ToyPipeline, blobs


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyPipeline]:
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(
            toy_heads.write_dist_info(folder / "site", "stars", {"toy-stars": "toy_heads:STARS"})
        )
        yield ToyPipeline(folder, head="toy-stars", options={"min_area_um2": 4.0})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([300, 900, 3000]),
    region_l0=regions(),
    tile_px=st.none() | st.integers(64, 300),
    shift=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_a_region_has_the_polygons_of_the_whole_image(
    toy: ToyPipeline,
    seed: int,
    density: int,
    region_l0: Box,
    tile_px: int | None,
    shift: tuple[int, int],
) -> None:
    """Bit for bit, in chains of octagons of which each keeps or loses the next."""
    image = blobs(seed, WIDTH, HEIGHT, count=WIDTH * HEIGHT // density)
    whole = toy.run(image)

    part = toy.run(image, region_l0=region_l0, tile_px=tile_px, shift=shift)

    assert_same_cells(part, restricted(whole, region_l0))


def test_polygons_overlap_and_are_found(toy: ToyPipeline) -> None:
    """The toy head finds what the test above is about."""
    found = toy.run(blobs(1, WIDTH, HEIGHT, count=200)).instances
    assert len(found) > 100
    assert len(set(map(tuple, found.centroids.tolist()))) == len(found)
