"""The unet head on drawn maps whose instances are known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidecascade.heads import unet
from slidecascade.heads.seeds import prominent_pieces

Disc = tuple[float, float, float, float]


def draw_maps(discs: list[Disc], shape: tuple[int, int] = (96, 96)) -> np.ndarray:
    """Maps of discs (x, y, radius, height of the interior): foreground disc, interior falling to the rim."""
    foreground, interior = np.zeros(shape), np.zeros(shape)
    for x, y, radius, height in discs:
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        box = np.s_[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.indices(foreground[box].shape)
        inside = np.clip(1.0 - np.hypot(columns + left - x, rows + top - y) / radius, 0, 1)
        foreground[box] = np.maximum(foreground[box], inside > 0)
        interior[box] = np.maximum(interior[box], np.clip(2.0 * inside, 0, 1) * height)
    maps: np.ndarray = np.round(255 * np.stack([foreground, interior], axis=-1)).astype(np.uint8)
    return maps


def decode(maps: np.ndarray, min_area_px: float = 4.0, prominence: float = 1.0) -> np.ndarray:
    return unet.decode(maps, foreground=0.5, seed=0.5, min_area_px=min_area_px, prominence=prominence)


def random_maps(seed: int, shape: tuple[int, int], count: int) -> np.ndarray:
    """Maps of many discs, touching and overlapping, with smooth noise."""
    rng = np.random.default_rng(seed)
    discs = [
        (rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), rng.uniform(3, 10), rng.uniform(0.4, 1.0))
        for _ in range(count)
    ]
    noise = cv2.GaussianBlur(rng.normal(0, 120, (*shape, 2)), (0, 0), 1.5)
    noisy: np.ndarray = np.clip(draw_maps(discs, shape) + noise, 0, 255).astype(np.uint8)
    return noisy


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two label images agree up to the numbers."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def grow_slowly(labels: np.ndarray, allowed: np.ndarray, steps: int) -> np.ndarray:
    """The oracle of the flooding: pixel by pixel, square and cross neighbourhoods in turn."""
    for step in range(steps):
        reach = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if step % 2 == 0 or 0 in (dy, dx)]
        grown = labels.copy()
        for y, x in np.argwhere(allowed & (labels == 0)).tolist():
            near = [(y + dy, x + dx) for dy, dx in reach]
            inside = [(v, u) for v, u in near if 0 <= v < len(labels) and 0 <= u < len(labels[0])]
            grown[y, x] = max(labels[v, u] for v, u in inside)
        labels = grown
    return labels


def seeds_slowly(is_seed: np.ndarray) -> np.ndarray:
    """The oracle of the seeds: connected pieces, numbered as a raster scan meets them."""
    labels = np.zeros(is_seed.shape, np.int32)
    count = 0
    for top, left in np.argwhere(is_seed).tolist():
        if labels[top, left]:
            continue
        count += 1
        queue = [(top, left)]
        while queue:
            y, x = queue.pop()
            if 0 <= y < len(labels) and 0 <= x < len(labels[0]) and is_seed[y, x] and not labels[y, x]:
                labels[y, x] = count
                queue += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_flooding_agrees_with_its_slow_oracle(seed: int) -> None:
    """Dilations of the whole image give what growing pixel by pixel gives, but for the holes filled after."""
    maps = random_maps(seed, (64, 72), 22)
    is_cell = maps[..., 0] >= 128
    interior = cv2.GaussianBlur(np.ascontiguousarray(maps[..., 1]), (5, 5), 1.2)
    labels = seeds_slowly(is_cell & (interior >= 128))
    labels = grow_slowly(labels, is_cell & (interior >= 64), 8)
    labels = grow_slowly(labels, is_cell, 20)
    decoded = decode(maps, min_area_px=0)
    np.testing.assert_array_equal(np.where(labels > 0, decoded, 0), labels)
    assert not decoded[(labels == 0) & is_background_at_edge(labels == 0)].any()


def parted_slowly(interior: np.ndarray, piece: np.ndarray, level: int, prominence: int) -> list[np.ndarray]:
    """The oracle of the seeds: part a piece (a mask) wherever two of its parts, a level up, rise high enough."""
    if level + prominence > 255:
        return [piece]
    count, parts = cv2.connectedComponents((piece & (interior >= level + 26)).astype(np.uint8), connectivity=8)
    standing = [parts == part for part in range(1, count) if interior[parts == part].max() >= level + prominence]
    if len(standing) < 2:
        return parted_slowly(interior, piece, level + 26, prominence)
    return [seed for part in standing for seed in parted_slowly(interior, part, level + 26, prominence)]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_prominent_peaks_agree_with_their_slow_oracle(seed: int) -> None:
    """Looking at all pieces of a level at once finds what parting each piece by itself finds."""
    maps = random_maps(seed, (96, 96), 60)
    interior, is_cell = np.ascontiguousarray(maps[..., 1]), np.full((96, 96), 255, np.uint8)
    found = prominent_pieces(interior, is_cell, level=51, rise=102)
    count, pieces = cv2.connectedComponents((interior >= 51).astype(np.uint8), connectivity=8)
    expected = [seed for k in range(1, count) for seed in parted_slowly(interior, pieces == k, 51, 102)]
    assert found.count - 1 == len(expected)
    for mask in expected:
        numbers = np.unique(found.labels[mask])
        assert len(numbers) == 1
        assert (found.labels == numbers[0]).sum() == mask.sum()


def test_two_peaks_over_a_shallow_pass_are_one_cell_and_over_a_deep_one_two() -> None:
    """The pass must lie below each peak by the prominence."""
    maps = draw_maps([(30, 48, 14, 1.0), (50, 48, 14, 1.0)])
    bridge = np.zeros((96, 96), np.uint8)
    bridge[40:56, 30:50] = 170
    maps[..., 1] = np.maximum(maps[..., 1], bridge)
    assert decode(maps).max() == 1
    assert decode(maps, prominence=0.2).max() == 2
    assert decode(maps, prominence=0.45).max() == 1


def is_background_at_edge(empty: np.ndarray) -> np.ndarray:
    """Where the background is connected to the image's edge."""
    _, pieces = cv2.connectedComponents(empty.astype(np.uint8), connectivity=4)
    edge = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    at_edge: np.ndarray = np.isin(pieces, edge[edge > 0])
    return at_edge


def test_blank_maps_have_no_cells() -> None:
    """Maps without evidence give an int32 image of zeros."""
    labels = decode(np.zeros((40, 30, 2), np.uint8))
    assert labels.dtype == np.int32
    assert labels.shape == (40, 30)
    assert not labels.any()


def test_a_zero_threshold_is_not_met_by_no_evidence() -> None:
    """Grey level 0 belongs to no cell even at threshold 0."""
    labels = unet.decode(draw_maps([(40, 40, 10, 1.0)]), foreground=0.0, seed=0.0, min_area_px=0)
    assert labels[0, 0] == 0
    assert labels[40, 40] == 1


def test_a_lone_cell_is_its_whole_foreground() -> None:
    """The seed grows to the rim of the foreground and not beyond."""
    maps = draw_maps([(40, 50, 15, 1.0)])
    np.testing.assert_array_equal(decode(maps), (maps[..., 0] > 127).astype(np.int32))


def test_touching_cells_part_in_the_valley() -> None:
    """Two discs that touch become two cells that meet half way and leave no line between them."""
    maps = draw_maps([(35, 48, 14, 1.0), (60, 48, 14, 1.0)])
    labels = decode(maps)
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, maps[..., 0] > 127)
    assert len(np.unique(labels[:, :46])) == 2
    assert len(np.unique(labels[:, 50:])) == 2


def test_foreground_without_a_seed_is_dropped() -> None:
    """A pale smear that the interior map does not support is no cell."""
    assert not decode(draw_maps([(40, 40, 12, 0.3)])).any()


def test_a_hole_inside_one_cell_is_filled() -> None:
    """A bright nucleolus that both maps miss belongs to the cell around it."""
    maps = draw_maps([(40, 40, 16, 1.0)])
    maps[38:43, 38:43] = 0
    assert (decode(maps)[38:43, 38:43] == 1).all()


def test_a_gap_between_cells_stays_open() -> None:
    """Background enclosed by several cells together is not filled."""
    ring = [(40 + 17 * np.cos(a), 40 + 17 * np.sin(a), 7.2, 1.0) for a in np.arange(8) * np.pi / 4]
    labels = decode(draw_maps(ring))
    assert labels.max() == 8
    assert labels[40, 40] == 0


def test_a_bay_open_to_the_edge_is_not_a_hole() -> None:
    """Background that a cell encloses against the image's edge may go on beyond it and stays background."""
    maps = draw_maps([(40, 0, 20, 1.0)])
    maps[0:4, 36:44] = 0
    assert not decode(maps)[0:4, 36:44].any()


def test_specks_are_dropped_and_numbers_stay_consecutive() -> None:
    """A cell below the smallest area disappears and the others close ranks."""
    maps = draw_maps([(20, 10, 8, 1.0), (60, 40, 3, 1.0), (30, 70, 8, 1.0)])
    assert decode(maps).max() == 3
    labels = decode(maps, min_area_px=50)
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert labels[40, 60] == 0
    assert labels[70, 30] == 2


def test_labels_follow_the_raster_order_of_the_seeds() -> None:
    """Cells are numbered by the first pixel of their seeds, row by row."""
    labels = decode(draw_maps([(70, 60, 8, 1.0), (20, 60, 10, 1.0), (50, 20, 8, 1.0)]))
    assert [labels[20, 50], labels[60, 20], labels[60, 70]] == [1, 2, 3]


def test_more_cells_than_16_bits_can_number() -> None:
    """A huge image of tiny cells keeps every number apart."""
    tile = np.zeros((6, 6, 2), np.uint8)
    tile[1:4, 1:4] = 255
    labels = unet.decode(np.tile(tile, (257, 257, 1)), foreground=0.5, seed=0.5, min_area_px=9)
    assert labels.max() == 257 * 257
    assert (np.bincount(labels.ravel())[1:] == 9).all()


@pytest.mark.parametrize(
    "maps", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 2), np.float32)]
)
def test_other_maps_are_refused(maps: np.ndarray) -> None:
    """A wrong shape or type is an error that names what the head wants."""
    with pytest.raises(ValueError, match="uint8"):
        decode(maps)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    left=st.integers(1, 40),
    top=st.integers(1, 40),
    prominence=st.sampled_from([0.15, 1.0]),
)
def test_a_cell_does_not_depend_on_where_the_window_starts(
    seed: int, left: int, top: int, prominence: float
) -> None:
    """Cells whole inside a window cut from the maps, and away from its edge, are those of the whole image."""
    margin = 48
    maps = random_maps(seed, (220, 220), 180)
    whole = decode(maps, prominence=prominence)[top:, left:]
    window = decode(np.ascontiguousarray(maps[top:, left:]), prominence=prominence)
    assert same_partition(whole[margin:, margin:], window[margin:, margin:])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_label_is_one_connected_piece(seed: int) -> None:
    """A cell never falls apart into islands, and every number from 1 to the highest is used."""
    labels = decode(random_maps(seed, (128, 128), 70), prominence=0.2)
    numbers = np.unique(labels)
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    for number in numbers[1:]:
        pieces, _ = cv2.connectedComponents((labels == number).astype(np.uint8), connectivity=8)
        assert pieces == 2


def test_decoding_is_deterministic() -> None:
    """The same maps give the same labels, whatever the number of OpenCV threads."""
    maps = random_maps(3, (300, 300), 300)
    threads = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 2, 4):
            cv2.setNumThreads(count)
            results.append(decode(maps))
    finally:
        cv2.setNumThreads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
