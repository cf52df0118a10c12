"""The heads of fluorescence: the same cells whatever region is asked for and however it is tiled."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toy_networks
from properties.test_one_slide_one_answer import HEIGHT, WIDTH, assert_same_cells, regions, restricted
from slidecascade.geometry import Box
from toy_pipeline import ToyPipeline


@pytest.fixture(scope="module", params=sorted(toy_networks.NETWORKS))
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    head: str = request.param
    folder = tmp_path_factory.mktemp(head)
    return ToyPipeline(folder, network=toy_networks.NETWORKS[head](), **toy_networks.fields(head))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([700, 1500, 5000]),
    region_l0=regions(),
    tile_px=st.none() | st.integers(64, 300),
    shift=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_a_region_has_the_cells_of_the_whole_image(
    toy: ToyPipeline,
    seed: int,
    density: int,
    region_l0: Box,
    tile_px: int | None,
    shift: tuple[int, int],
) -> None:
    """Bit for bit, in crowds whose objects compete."""
    image = toy_networks.image(toy.pipeline.segmenter.head, seed, WIDTH, HEIGHT, WIDTH * HEIGHT // density)
    whole = toy.run(image)

    part = toy.run(image, region_l0=region_l0, tile_px=tile_px, shift=shift)

    assert_same_cells(part, restricted(whole, region_l0))


def test_cells_are_found(toy: ToyPipeline) -> None:
    """The toy networks make what the test above is about."""
    image = toy_networks.image(toy.pipeline.segmenter.head, 1, WIDTH, HEIGHT, 150)
    found = toy.run(image).instances
    assert 60 < len(found) < 220
    assert found.areas.min() > 10
