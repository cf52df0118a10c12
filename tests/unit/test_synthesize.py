"""``slidecascade synthesize``: exact masks, counted spots, the same bytes by seed, networks that do not fit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slidecascade.cli import main
from slidecascade.slides.stack import stack_in
from slidecascade_evaluation.truth import find_specimens
from slidecascade_render.fluorescence.dataset import Synthesized, files_of
from slidecascade_render.fluorescence.masks import MaskOptions, draw_masks
from slidecascade_render.fluorescence.optics import OpticsOptions, camera_counts
from slidecascade_render.fluorescence.spots import FLAT_MATRIX, SpotOptions, Spots, place_spots, published_points

SMALL = ("--width", "128", "--height", "96", "--cells", "12", "--diameter", "16")


def synthesize(folder: Path, *more: str) -> int:
    return main(["synthesize", "--out", str(folder), "--images", "2", *SMALL, *more])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_a_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, ("3", "3", "4"), strict=True):
        assert synthesize(folder, "--seed", seed, "--spots", "3") == 0
    first, same, other = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == same
    assert not set(first.values()) & {data for name, data in other.items() if name.endswith("0.tif")}


def test_the_index_counts_what_the_masks_and_the_spots_hold(tmp_path: Path) -> None:
    """Counts of ``index.csv``, labels of the files, and cells that ``spots.csv`` names agree."""
    assert synthesize(tmp_path, "--spots", "3", "--bits", "12") == 0
    spots = rows_of(tmp_path / "spots.csv")
    for row in rows_of(tmp_path / "index.csv"):
        image = tifffile.imread(tmp_path / f"{row['stem']}.tif")
        labels = tifffile.imread(tmp_path / f"{row['stem']}_labels.tif")
        assert (image.shape, image.dtype, labels.dtype) == ((2, 96, 128), np.uint16, np.uint16)
        assert int(image.max()) < 4096
        assert np.unique(labels).tolist() == list(range(int(row["cells"]) + 1))
        own = [spot for spot in spots if spot["stem"] == row["stem"]]
        assert len(own) == int(row["spots"]) > 0
        for spot in own:
            assert labels[int(float(spot["y"])), int(float(spot["x"]))] == int(spot["cell"])


def test_the_service_reads_its_stacks_and_evaluation_its_masks(tmp_path: Path) -> None:
    """Channels have names, and the labels are those of the file, of as many objects as 16 bits do not hold too."""
    assert synthesize(tmp_path / "set", "--spots", "1") == 0
    specimen = find_specimens(tmp_path / "set", None)[0]
    stack = stack_in(specimen.image.read_bytes())
    assert stack is not None
    assert (stack.names, stack.sides_um, stack.bits) == (("nuclear", "spots"), (0.5, 0.5), 16)
    many = np.zeros((300, 300), np.int32)
    many.ravel()[:70_000] = np.arange(1, 70_001)
    no_spots = Spots(np.zeros((0, 2)), np.zeros(0, np.int32))
    made = Synthesized("many", np.zeros((300, 300, 1), np.uint16), ("nuclear",), many, no_spots)
    (tmp_path / "many").mkdir()
    for name, data in files_of(made, 0.5).items():
        (tmp_path / "many" / name).write_bytes(data)
    read = find_specimens(tmp_path / "many", None)[0].read_truth(height_px=300, width_px=300)
    assert np.array_equal(read.labels, many)


@pytest.mark.parametrize("seed", range(3))
def test_every_cell_is_in_one_piece(seed: int) -> None:
    """Also where elongated cells lie over each other."""
    options = MaskOptions(cells=60, diameter_px=14, elongation=4, touching=0.8, overlap=0.4)
    labels = draw_masks(options, 120, 140, np.random.default_rng(seed))
    assert labels.max() > 30
    for label in range(1, int(labels.max()) + 1):
        assert cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2


def test_the_options_of_masks_do_what_they_say() -> None:
    """Diameters, elongation and touching move the measured values the right way."""
    plain = MaskOptions(
        cells=40, diameter_px=20, size_deviation=0, elongation=1, irregularity=0, touching=0, overlap=0
    )
    round_cells = draw_masks(plain, 500, 500, np.random.default_rng(0))
    inner = np.bincount(round_cells.ravel())[1:]
    assert np.median(inner) == pytest.approx(np.pi * 10**2, rel=0.05)
    assert touching_cells(round_cells) == 0
    touching = draw_masks(replace(plain, touching=1.0), 500, 500, np.random.default_rng(0))
    assert touching_cells(touching) > 20
    long_cells = draw_masks(replace(plain, elongation=6.0), 900, 900, np.random.default_rng(0))
    assert longest_ratio(long_cells) > 3
    assert longest_ratio(round_cells) < 1.2


def touching_cells(labels: NDArray[np.int32]) -> int:
    """Cells within two pixels of another."""
    far, near = labels.astype(np.float32), np.ones((5, 5), np.uint8)
    lowest = cv2.erode(np.where(labels > 0, far, 1e6).astype(np.float32), near)
    return len(np.unique(labels[(labels > 0) & (cv2.dilate(far, near) != lowest)]))


def longest_ratio(labels: NDArray[np.int32]) -> float:
    """The largest ratio of axes of a cell that the image does not cut."""
    inside = set(range(1, int(labels.max()) + 1)) - set(
        np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    )
    ratios = []
    for label in inside:
        contours, _ = cv2.findContours(
            (labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        sides = cv2.minAreaRect(contours[0])[1]
        ratios.append(float(max(sides) / min(sides)))
    return max(ratios)


def test_spots_of_flat_cells_are_stretched_as_published() -> None:
    """Round cells have ``randn(n, 2)``, flat ones that times C."""
    drawn = np.random.default_rng(5).standard_normal((50, 2))
    assert np.array_equal(published_points(50, np.random.default_rng(5), is_flat=False), drawn)
    stretched = published_points(50, np.random.default_rng(5), is_flat=True)
    assert np.array_equal(stretched, drawn @ np.array([[-5, 2], [5, 0]]))
    assert np.array_equal(FLAT_MATRIX, [[-5, 2], [5, 0]])


def test_spots_are_apart_and_in_their_cells() -> None:
    labels = draw_masks(MaskOptions(cells=20, diameter_px=30), 300, 300, np.random.default_rng(1))
    spots = place_spots(labels, SpotOptions(mean=5, apart_px=4), np.random.default_rng(2))
    gaps = np.hypot(*(spots.positions[:, None] - spots.positions[None]).transpose(2, 0, 1))
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() >= 4
    columns, rows = np.floor(spots.positions).astype(int).T
    assert np.array_equal(labels[rows, columns], spots.cells)
    assert spots.counts(int(labels.max())).sum() == len(spots.cells) > 50


def test_light_bleeds_into_the_other_channel() -> None:
    """Without bleed-through an empty channel shows background alone."""
    light = np.zeros((64, 64), np.float32)
    light[20:40, 20:40] = 500
    nothing = np.zeros_like(light)
    means = []
    for bleed in (0.0, 0.5):
        counts = camera_counts(
            [light, nothing], [nothing, nothing], OpticsOptions(bleed=bleed), np.random.default_rng(0)
        )
        means.append(float(counts[24:36, 24:36, 1].mean()) / float(counts[:10, :10, 1].mean()))
    assert means[0] == pytest.approx(1, abs=0.8)
    assert means[1] > 3


def saved(path: Path, nodes: Sequence[Any], inputs: Any, outputs: Any, constants: Sequence[Any] = ()) -> Path:
    """A graph of float32 tensors of the given shapes."""

    def value(name: str, shape: Sequence[int | str]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    graph = helper.make_graph(
        list(nodes), "g", [value(*item) for item in inputs], [value(*item) for item in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def generator(path: Path, *, size: int = 4) -> Path:
    """A latent to a mask of 32 x 48 pixels: columns whose latent number is above 0."""
    spread = np.zeros((size, 32 * 48), np.float32)
    for index in range(size):
        band = np.zeros((32, 48), np.float32)
        band[4:28, index * 12 + 2 : index * 12 + 10] = 1
        spread[index] = band.ravel()
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["mask"]),
    ]
    constants = [("w", spread), ("shape", np.array([-1, 1, 32, 48], np.int64))]
    return saved(path, nodes, [("z", ["N", size])], [("mask", ["N", 1, 32, 48])], constants)


def translator(path: Path, *, channels: int = 1) -> Path:
    """The mask at half of full brightness."""
    nodes = [helper.make_node("Mul", ["mask", "half"], ["image"])]
    shape = ["N", channels, "H", "W"]
    return saved(path, nodes, [("mask", shape)], [("image", shape)], [("half", np.array(0.5, np.float32))])


def test_networks_give_masks_and_images(tmp_path: Path) -> None:
    """A mask generator and a translator replace the parametric cells and the optics."""
    out = tmp_path / "out"
    networks = (
        "--generator",
        str(generator(tmp_path / "g.onnx")),
        "--translator",
        str(translator(tmp_path / "t.onnx")),
    )
    assert main(["synthesize", "--out", str(out), "--images", "4", "--bits", "8", *networks]) == 0
    rows = rows_of(out / "index.csv")
    assert sum(int(row["cells"]) for row in rows) > 0
    for row in rows:
        labels = tifffile.imread(out / f"{row['stem']}_labels.tif")
        image = tifffile.imread(out / f"{row['stem']}.tif")
        assert labels.shape == image.shape == (32, 48)
        assert int(labels.max()) == int(row["cells"])
        assert np.array_equal(image, np.where(labels > 0, 128, 0))


def _two_inputs(path: Path) -> Path:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    return saved(path, [node], [("a", [1, 4]), ("b", [1, 4])], [("c", [1, 4])])


def _flat_mask(path: Path) -> Path:
    return saved(path, [helper.make_node("Abs", ["z"], ["m"])], [("z", ["N", 4])], [("m", ["N", 4])])


def _image_latent(path: Path) -> Path:
    return saved(path, [helper.make_node("Abs", ["z"], ["m"])], [("z", ["N", 1, 8, 8])], [("m", ["N", 1, 8, 8])])


def _smaller_image(path: Path) -> Path:
    node = helper.make_node("MaxPool", ["mask"], ["image"], kernel_shape=[2, 2], strides=[2, 2])
    return saved(path, [node], [("mask", ["N", 1, "H", "W"])], [("image", ["N", 1, "h", "w"])])


def _no_graph(path: Path) -> Path:
    path.write_bytes(b"not a graph")
    return path


@pytest.mark.parametrize(
    ("option", "make", "words"),
    [
        ("--generator", _two_inputs, "2 inputs and 1 outputs"),
        ("--generator", _flat_mask, "returns (1, 4)"),
        ("--generator", _image_latent, "takes (N, 1, 8, 8)"),
        ("--generator", _no_graph, "is not an ONNX graph"),
        ("--generator", lambda path: path, "cannot be read"),
        ("--translator", _flat_mask, "takes (N, 4)"),
        ("--translator", _smaller_image, "returns (1, 1, 48, 64) for a mask of 128 x 96 pixels"),
        ("--translator", lambda path: translator(path, channels=3), "takes (N, 3, H, W)"),
    ],
)
def test_networks_of_other_shapes_are_named_in_one_sentence(
    option: str, make: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the network takes or returns, and what it has to be exported with."""
    code = synthesize(tmp_path / "out", option, str(make(tmp_path / "net.onnx")))
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [(("--cells", "-1"), "--cells is -1"), (("--psf", "nan"), "--psf is nan"), (("--overlap", "2"), "0 to 0.6")],
)
def test_options_out_of_range_are_rejected(
    more: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthesize(tmp_path / "out", *more) == 2
    assert words in capsys.readouterr().err


def test_a_data_set_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesize(tmp_path) == 0
    assert synthesize(tmp_path) == 2
    assert "already holds a data set" in capsys.readouterr().err
