"""Data sets of patches: contexts as they are served, labelled by masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import toy_kinds
from slidecascade.cli import main
from slidecascade.errors import InvalidRequestError, UnusableDataError
from slidecascade_training.datasets.folder import read_index
from slidecascade_training.datasets.patches import PatchOptions, Sampled, as_the_reference_samples, build_patches

SIDE, STRIDE, CONTEXT = 256, 16, 40


def write_pair(folder: Path, name: str, *, positive: bool) -> NDArray[np.uint8]:
    image = np.full((SIDE, SIDE, 3), toy_kinds.TISSUE, np.uint8)
    rng = np.random.default_rng(len(name))
    image[: SIDE // 2] -= rng.integers(0, 60, (SIDE // 2, SIDE, 3)).astype(np.uint8)
    image[:, 200:] = 255
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if positive:
        mask[0:70, 100] = 1
    cv2.imwrite(str(folder / f"{name}.png"), image[:, :, ::-1])
    cv2.imwrite(str(folder / f"{name}_mask.png"), mask)
    return image


def options(folder: Path, **changes: object) -> PatchOptions:
    fields = {
        "slides_dir": folder,
        "out": folder.parent / "out",
        "mpp": 0.5,
        "context_px": CONTEXT,
        "stride_px": STRIDE,
        "slide_mpp": 0.5,
    }
    return PatchOptions(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "slides"
    made.mkdir()
    return made


def test_contexts_are_cut_as_served_and_labelled_by_their_square(folder: Path) -> None:
    """White beyond the slide; a square is positive when it holds any positive pixel; glass is left out."""
    images = {f"{name}.png": write_pair(folder, name, positive=name == "one") for name in ("one", "other")}
    balance = build_patches(options(folder))
    _, examples = read_index(folder.parent / "out")
    assert sum(balance.train) + sum(balance.validate) == len(examples)
    white = CONTEXT
    for example in examples:
        column, row = int(example.x_l0 // STRIDE), int(example.y_l0 // STRIDE)
        assert column * STRIDE < 240
        is_positive = example.slide == "one.png" and column == 100 // STRIDE and row <= 69 // STRIDE
        assert example.class_name == ("Tumour" if is_positive else "Normal")
        padded = np.pad(images[example.slide], ((white, white), (white, white), (0, 0)), constant_values=255)
        x, y = column * STRIDE - 12 + white, row * STRIDE - 12 + white
        stored = cv2.imread(str(folder.parent / "out" / example.file))
        assert stored is not None
        np.testing.assert_array_equal(stored[:, :, ::-1], padded[y : y + CONTEXT, x : x + CONTEXT])
    assert sum(example.class_name == "Tumour" for example in examples) == 5


def places(count: int, row: int) -> NDArray[np.int64]:
    return np.stack([np.arange(count), np.full(count, row)], axis=1).astype(np.int64)


def test_the_reference_samples_a_third_and_evenly_from_negative_slides() -> None:
    """As many negatives as positives in all, no square twice, the same for the same seed."""
    squares = {
        "tumour": Sampled(places(500, 0), places(300, 1)),
        "normal-1": Sampled(places(400, 0), places(0, 1)),
        "normal-2": Sampled(places(400, 0), places(1, 1)),
    }
    chosen = as_the_reference_samples(squares, seed=3)
    again = as_the_reference_samples(squares, seed=3)
    numbers = {name: (len(item.negative), len(item.positive)) for name, item in chosen.items()}
    assert numbers["tumour"] == (50, 100)
    assert numbers["normal-2"][1] == 1
    assert abs(numbers["normal-1"][0] - numbers["normal-2"][0]) <= 1
    assert sum(negative for negative, _ in numbers.values()) == sum(positive for _, positive in numbers.values())
    for name, item in chosen.items():
        assert len({tuple(place) for place in item.negative.tolist()}) == len(item.negative)
        np.testing.assert_array_equal(item.negative, again[name].negative)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride_px": 48}, "--stride is larger than --size"),
        ({"stride_px": 12}, "multiple of 8"),
        ({"class_names": ("a", "b", "c")}, "two classes"),
        ({"mpp": -1.0}, "--mpp must be a positive number"),
    ],
)
def test_wrong_options_are_rejected(folder: Path, changes: dict[str, object], message: str) -> None:
    """By the name of the option."""
    write_pair(folder, "one", positive=True)
    with pytest.raises(InvalidRequestError, match=message):
        build_patches(options(folder, **changes))
    assert not (folder.parent / "out").exists()


def test_masks_that_hold_nothing_are_rejected(folder: Path) -> None:
    """A data set without positives trains nothing."""
    write_pair(folder, "one", positive=False)
    write_pair(folder, "other", positive=False)
    with pytest.raises(UnusableDataError, match="No square with tissue holds a positive pixel"):
        build_patches(options(folder))


def test_the_command_prints_the_balance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks may lie in another folder, under `--annotations`."""
    masks = folder.parent / "masks"
    masks.mkdir()
    for name in ("one", "other"):
        write_pair(folder, name, positive=True)
        (folder / f"{name}_mask.png").rename(masks / f"{name}_mask.png")
    out = folder.parent / "out"
    command = ["dataset", "--from", "patches", "--slides", str(folder), "--annotations", str(masks)]
    command += ["--out", str(out), "--mpp", "0.5", "--slide-mpp", "0.5", "--size", "40", "--stride", "16"]
    assert main([*command, "--classes", "Benign,Cancer", "--sampling", "reference"]) == 0
    printed = capsys.readouterr().out
    assert "Benign" in printed
    assert "Cancer" in printed
    spec, examples = read_index(out)
    assert (spec.class_names, spec.made_from) == (("Benign", "Cancer"), "patches")
    assert sum(example.class_name == "Cancer" for example in examples) == 4


def test_polygons_label_squares_as_their_mask_does(folder: Path) -> None:
    """`NAME.geojson` in place of `NAME_mask.png`, by command; other classes are left out where one is named."""
    for name in ("one", "other"):
        write_pair(folder, name, positive=name == "one")
    call = ["dataset", "--slides", str(folder), "--mpp", "0.5", "--slide-mpp", "0.5", "--size", str(CONTEXT)]
    call += ["--stride", str(STRIDE), "--from", "patches"]
    assert main([*call, "--annotations", str(folder), "--out", str(folder.parent / "masks")]) == 0
    drawn = folder.parent / "drawn"
    drawn.mkdir()
    line = [[100, 0], [101, 0], [101, 70], [100, 70], [100, 0]]
    glass = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    for name, rings in (("one", {"Tumour": line, "Normal": glass}), ("other", {"Normal": glass})):
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"classification": {"name": class_name}},
            }
            for class_name, ring in rings.items()
        ]
        (drawn / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    made = folder.parent / "polygons"
    assert main([*call, "--annotations", str(drawn), "--out", str(made), "--mask-class", "Tumour"]) == 0
    assert read_index(made)[1] == read_index(folder.parent / "masks")[1]
    assert main([*call, "--annotations", str(drawn), "--out", str(made) + "2", "--mask-class", "Absent"]) == 2
