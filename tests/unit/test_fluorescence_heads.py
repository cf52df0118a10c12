"""The heads of fluorescence beside the projects that define them, and in windows of an image.

`golden/fluorescence_heads.npz` holds what StarDist 0.9.2, Cellpose 3.1.1.1 and torchvision 0.29.1 made of the
outputs that `benchmarks.heads.scene` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from benchmarks.heads import scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import toy_networks
from slidecascade.cells.look import Decoding, Look, look_at
from slidecascade.geometry import Box, Size
from slidecascade.heads import flows, mesmer, semantic
from slidecascade.heads.head import ObjectHead
from slidecascade.heads.maskrcnn import MASKRCNN, MaskRcnnOptions
from slidecascade.heads.mesmer import MESMER, MesmerOptions
from slidecascade.heads.nearby import pairs_within
from slidecascade.heads.objects import Polygons
from slidecascade.heads.semantic import SEMANTIC, SemanticOptions
from slidecascade.heads.stardist import STARDIST, StardistOptions
from slidecascade.heads.suppression import kept
from slidecascade.heads.table import find
from slidecascade.heads.watershed import flooded
from slidecascade.models.tensors import Tensors

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fluorescence_heads.npz")
SIDE_PX, CELLS = 320, 45
MPP = 0.5


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_stars_are_those_that_stardist_keeps(grid: int) -> None:
    """The same pixels after suppression, at every grid; their outlines are the rays from there."""
    outputs = scene.star_outputs(scene.cells(grid, SIDE_PX, CELLS), seed=grid, grid=grid)
    found = STARDIST.decode(outputs, StardistOptions(grid=grid), mpp=MPP)
    order = np.lexsort(found.anchors.T)
    np.testing.assert_array_equal(found.anchors[order], GOLDEN[f"stardist_{grid}"])
    x, y = found.anchors[0]
    first = found.vertices[: found.offsets[1]]
    np.testing.assert_allclose(np.hypot(*(first - 0.5).T), outputs["dist"][y // grid, x // grid], rtol=1e-6)
    assert first[0, 0] > 0.5
    assert first[0, 1] == 0.5
    assert first[8, 1] > 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_flows_make_the_masks_of_cellpose(seed: int) -> None:
    """But for 0.5 % of the foreground's pixels, with clean flows and with stray ones."""
    outputs = scene.flow_outputs(scene.cells(seed, SIDE_PX, CELLS), seed=seed)["flows"]
    if seed == 2:
        outputs[:2] += 1.2 * np.stack([scene.noise(seed + k + 9, outputs.shape[1:], 3.0) for k in (0, 1)])
    found = flows.decode(outputs, foreground=0.5, flow_error=0.4, min_area_px=15)
    theirs = GOLDEN[f"cellpose_{seed}"].astype(np.int64)
    assert found.max() == theirs.max()
    assert differing_px(found, theirs) <= 0.005 * np.count_nonzero(theirs)


def differing_px(ours: NDArray[np.int32], theirs: NDArray[np.int64]) -> int:
    """Pixels that differ, once each of our labels has the number of theirs that it shares most pixels with."""
    count = int(theirs.max()) + 1
    shared = np.bincount(ours.ravel() * count + theirs.ravel(), minlength=(int(ours.max()) + 1) * count)
    number = shared.reshape(-1, count)[:, 1:].argmax(axis=1) + 1
    number[0] = 0
    return int(np.count_nonzero(number[ours] != theirs))


def test_an_object_whose_flows_are_not_its_own_is_dropped() -> None:
    """A disc whose flows turn around its middle before they come there is kept only where errors are allowed."""
    span = np.arange(64) - 32.0
    x, y = np.meshgrid(span, span)
    length = np.maximum(np.hypot(x, y), 1e-6)
    turned = np.stack([-0.5 * y - 0.9 * x, -0.5 * x + 0.9 * y]) / length * 5
    outputs = np.concatenate([turned, np.where(length < 20, 5.0, -5.0)[None]]).astype(np.float32)
    assert flows.decode(outputs, foreground=0.5, flow_error=0.4, min_area_px=15).max() == 0
    assert flows.decode(outputs, foreground=0.5, flow_error=0.0, min_area_px=15).max() == 1


def test_masks_are_pasted_as_torchvision_does() -> None:
    """Areas and centroids of the outlines are those of the pasted masks, to the pixel's corners."""
    outputs = scene.detection_outputs(scene.cells(5, 256, 30), seed=5)
    shape = tuple(GOLDEN["torchvision_shape"])
    pasted = np.unpackbits(GOLDEN["torchvision"], count=int(np.prod(shape))).reshape(shape)
    found = MASKRCNN.decode(outputs, MaskRcnnOptions(), mpp=MPP)
    assert len(found) == len(pasted)
    for place, middle in enumerate(found.anchors + found.middle_pixels()):
        score = found.scores[place]
        theirs = pasted[np.flatnonzero(outputs["scores"][: len(pasted)] == score)[0]]
        rows, columns = np.nonzero(theirs)
        if min(rows.min(), columns.min()) <= 2 or max(rows.max(), columns.max()) >= 253:
            continue  # torchvision cuts at the image's edge, and rounds negative places upwards
        assert abs(middle[0] - columns.mean()) <= 1
        assert abs(middle[1] - rows.mean()) <= 1
        ring = found.vertices[found.offsets[place] : found.offsets[place + 1]] + found.anchors[place]
        np.testing.assert_allclose(ring.min(axis=0), [columns.min(), rows.min()], atol=0.3)
        np.testing.assert_allclose(ring.max(axis=0), [columns.max() + 1, rows.max() + 1], atol=0.3)


def test_the_first_of_seven_maps_is_the_answer() -> None:
    """A U2-Net's outputs decode as its first map alone, rounded to grey levels."""
    outputs = scene.probability_outputs(scene.cells(1, SIDE_PX, CELLS), seed=1)
    found = SEMANTIC.decode(outputs, SemanticOptions(output="d0"), mpp=MPP)
    grey = np.rint(outputs["d0"][0] * 255).astype(np.uint8)
    expected = semantic.decode(grey[:, :, None], foreground=0.5, min_area_px=32)
    np.testing.assert_array_equal(found.image, expected)
    assert found.image.max() > 30


def two_cells() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Two squares that touch, whose interior is lower where they do, and a speck."""
    inner, interior = np.zeros((30, 50), np.float32), np.zeros((30, 50), np.uint8)
    interior[5:25, 4:45] = 250
    interior[5:25, 23:26] = 90
    for x in (14, 35):
        span = np.hypot(np.arange(50) - x, (np.arange(30) - 15)[:, None])
        inner = np.maximum(inner, np.clip(1 - span / 12, 0, 1)).astype(np.float32)
    return inner, interior


def test_cells_of_mesmer_meet_where_the_interior_is_lowest() -> None:
    """Two markers, two cells, and the border between them in the valley; without a marker there is no cell."""
    inner, interior = two_cells()
    labels = mesmer.decode(inner, interior, foreground=0.2, maximum=0.1, min_area_px=15)
    assert labels[15, 14] == 1
    assert labels[15, 35] == 2
    assert labels.max() == 2
    border = np.flatnonzero(np.diff(labels[15, 10:40])) + 10
    assert border.tolist()
    assert 22 <= border[0] <= 26
    assert mesmer.decode(inner * 0.05, interior, foreground=0.2, maximum=0.1, min_area_px=15).max() == 0


def test_nuclei_and_whole_cells_are_decoded_from_their_own_outputs() -> None:
    """Each with its published threshold; a network may state both."""
    labels = scene.cells(3, SIDE_PX, CELLS)
    outputs = scene.distance_outputs(labels, seed=3)
    whole = MESMER.decode(outputs, MesmerOptions(), mpp=MPP)
    nuclear = MESMER.decode(outputs, MesmerOptions(compartment="nuclear"), mpp=MPP)
    assert abs(len(whole) - labels.max()) <= 1
    assert abs(len(nuclear) - labels.max()) <= 1
    assert np.count_nonzero(nuclear.image) < 0.7 * np.count_nonzero(whole.image)
    assert MesmerOptions().least_maximum == 0.075
    assert MesmerOptions(compartment="nuclear").least_maximum == 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([4, 50, 60_000]))
def test_flooding_is_a_spanning_forest(seed: int, levels: int) -> None:
    """As joining pixels over the highest passes one by one gives it."""
    rng = np.random.default_rng(seed)
    landscape = rng.integers(0, levels, (18, 20)).astype(np.uint16)
    mask = np.where(rng.random((18, 20)) < 0.8, 255, 0).astype(np.uint8)
    markers = np.zeros((18, 20), np.int32)
    markers.ravel()[rng.choice(np.flatnonzero(mask), 9, replace=False)] = np.arange(1, 10)
    np.testing.assert_array_equal(flooded(landscape, mask, markers), slow_flooding(landscape, mask, markers))


def slow_flooding(
    landscape: NDArray[np.uint16], mask: NDArray[np.uint8], markers: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Kruskal's forest of the pixels, which never joins two markers."""
    height, width = mask.shape
    parent = {int(place): int(place) for place in np.flatnonzero(mask)}
    label = {place: int(markers.flat[place]) for place in parent}

    def key(place: int) -> tuple[int, int]:
        return int(landscape.flat[place]), -place

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    edges = [
        (place, place + down * width + right)
        for place in parent
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1))
        if 0 <= place % width + right < width and place + down * width + right in parent
    ]
    edges.sort(key=lambda edge: sorted(map(key, edge)), reverse=True)
    for one, other in edges:
        a, b = root(one), root(other)
        if a != b and not (label[a] and label[b]):
            parent[a], label[b] = b, label[a] or label[b]
    found = np.zeros((height, width), np.int32)
    for place in parent:
        found.flat[place] = label[root(place)]
    return found


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60))
def test_the_best_of_each_neighbourhood_is_kept(seed: int, count: int) -> None:
    """As greedy suppression does by rank; and pairs are those that are close."""
    rng = np.random.default_rng(seed)
    points, radii = rng.integers(-40, 40, (count, 2)), rng.uniform(0.5, 9, count)
    first, second = pairs_within(points, radii)
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    close = np.triu(apart < radii[:, None] + radii, 1)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == list(map(tuple, np.argwhere(close).tolist()))
    rank = rng.permutation(count)
    expected = np.zeros(count, np.bool_)
    for place in np.argsort(rank):
        expected[place] = not (expected & (close | close.T)[place]).any()
    np.testing.assert_array_equal(kept(rank, first, second), expected)


def window(head: str, outputs: Tensors, box: Box) -> Look:
    """What a network whose outputs are exact everywhere would let the head see of a box of the whole."""
    found = find(head)
    assert isinstance(found, ObjectHead)
    options = found.options(**toy_networks.OPTIONS[head])
    specs = found.outputs_with(("Nucleus",), options)
    shown = {}
    for spec in specs:
        whole = outputs[spec.name]
        if spec.meaning == "box":
            shown[spec.name] = whole - np.array([box.x, box.y] * 2, np.float32)
        elif len(spec.free) == 2:
            rows = slice(box.y // spec.stride, box.bottom // spec.stride)
            columns = slice(box.x // spec.stride, box.right // spec.stride)
            shown[spec.name] = whole[:, rows, columns] if spec.layout[1] == "C" else whole[rows, columns]
        else:
            shown[spec.name] = whole
    if head == "maskrcnn":
        middles = (shown["boxes"][:, :2] + shown["boxes"][:, 2:]) / 2
        inside = ((middles >= 0) & (middles < (box.width, box.height))).all(axis=1)
        shown = {name: values[inside] for name, values in shown.items()}
    decoding = Decoding(
        head=found, outputs=tuple(specs), options=options, mpp=MPP, receptive_px=0, max_cell_px=10_000
    )
    return look_at(shown, box, Box(0, 0, SIDE_PX, SIDE_PX), decoding)


def crowded_stars(labels: NDArray[np.int32], seed: int) -> Tensors:
    """With several maxima in a cell, and rays so long that neighbours suppress each other."""
    outputs = dict(scene.star_outputs(labels, seed=seed, grid=2, rays=toy_networks.RAYS))
    outputs["prob"] = np.clip(
        outputs["prob"] + 0.2 * scene.noise(seed, outputs["prob"].shape[:2], 1)[..., None], 0, 2
    )
    outputs["dist"] = outputs["dist"] * np.float32(1.7)
    return outputs


def crowded_boxes(labels: NDArray[np.int32], seed: int) -> Tensors:
    """Boxes so large that neighbours suppress each other."""
    outputs = dict(scene.detection_outputs(labels, seed=seed))
    grown = outputs["boxes"].copy()
    grown[:, :2] -= 9
    grown[:, 2:] += 9
    return outputs | {"boxes": grown}


def stray_flows(labels: NDArray[np.int32], seed: int) -> Tensors:
    """Some of which lead out of their cell."""
    outputs = scene.flow_outputs(labels, seed=seed)
    outputs["flows"][:2] += 1.5 * np.stack([scene.noise(seed + k + 9, labels.shape, 3.0) for k in (0, 1)])
    return outputs


OUTPUTS: Mapping[str, Callable[[NDArray[np.int32], int], Tensors]] = {
    "stardist": crowded_stars,
    "flows": stray_flows,
    "mesmer": lambda labels, seed: scene.distance_outputs(labels, seed=seed),
    "maskrcnn": crowded_boxes,
    "semantic": lambda labels, seed: scene.probability_outputs(labels, seed=seed),
}


@pytest.mark.parametrize("head", sorted(OUTPUTS))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), left=st.integers(0, 60), top=st.integers(0, 60), side=st.integers(70, 120))
def test_what_a_window_decides_is_what_the_whole_image_has(
    head: str, seed: int, left: int, top: int, side: int
) -> None:
    """Bit for bit, down to objects that end as near to a cut side as the head says it looks."""
    labels = scene.cells(seed, SIDE_PX, 110, radius_px=(6, 13))
    outputs = OUTPUTS[head](labels, seed)
    box = Box(2 * left, 2 * top, 2 * side, 2 * side).clipped(Box(0, 0, SIDE_PX, SIDE_PX))
    look, whole = window(head, outputs, box), window(head, outputs, Box(0, 0, SIDE_PX, SIDE_PX))
    decided = look.cells(~look.open(), reach=box, min_area_px=4)
    everything = whole.cells(np.ones(whole.count, np.bool_), reach=Box(0, 0, SIDE_PX, SIDE_PX), min_area_px=4)
    rings = {ring.tobytes() for ring in np.split(everything.vertices, everything.offsets[1:-1])}
    for ring in np.split(decided.vertices, decided.offsets[1:-1])[: len(decided)]:
        assert ring.tobytes() in rings


def test_polygons_lie_in_the_extent() -> None:
    """Anchors and centroids of what is found, so that no look misses an object."""
    for head in ("stardist", "maskrcnn"):
        outputs = OUTPUTS[head](scene.cells(7, SIDE_PX, CELLS), 7)
        found = find(head)
        assert isinstance(found, ObjectHead)
        options = found.options(**toy_networks.OPTIONS[head])
        polygons, extent = found.look(outputs, options, size=Size(SIDE_PX, SIDE_PX), mpp=MPP)
        assert isinstance(polygons, Polygons)
        assert len(polygons) > 30
        for x, y in np.concatenate([polygons.anchors, polygons.anchors + polygons.middle_pixels()]):
            if 0 <= x < SIDE_PX and 0 <= y < SIDE_PX:  # beyond, no region holds it
                assert extent[y, x] == 255


@pytest.mark.parametrize("foreground", [0.0, 1.0])
@pytest.mark.parametrize("head", [*sorted(OUTPUTS), "unet"])
def test_the_ends_of_the_scale_are_thresholds(head: str, foreground: float) -> None:
    """A request may ask for 0 and for 1, which no model states as its own: of flows, all pixels and none."""
    found = find(head)
    assert isinstance(found, ObjectHead)
    options = found.options(**toy_networks.OPTIONS.get(head, {})).model_copy(update={"foreground": foreground})
    labels = scene.cells(3, 96, 6)
    outputs: Tensors = (
        {"maps": np.dstack([np.uint8(200) * (labels > 0)] * 2)} if head == "unet" else OUTPUTS[head](labels, 3)
    )
    found.decode(outputs, options, mpp=MPP)
    extent = found.extent(outputs, options, mpp=MPP)
    if head == "flows":
        assert (extent == (255 if foreground == 0 else 0)).all()
