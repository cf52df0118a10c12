"""`slidecascade dataset --from masks`: tiles with masks from slides and run lengths."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from slidecascade.areas.runlengths import begins_of, encode
from slidecascade.areas.runs import Runs
from slidecascade.cli import main
from slidecascade.models.repository import load_package
from slidecascade_evaluation.masks import find_pairs
from slidecascade_training.datasets.folder import read_index

WIDTH, HEIGHT = 400, 320
FIGURES = {"dice", "iou", "precision", "recall", "object_f1"}


def mask_of(seed: int) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        centre = int(rng.integers(20, WIDTH - 20)), int(rng.integers(20, HEIGHT - 20))
        cv2.circle(mask, centre, int(rng.integers(8, 30)), 1, -1)
    return mask


def encoded(mask: NDArray[np.uint8]) -> str:
    runs = Runs.of_labels(mask.astype(np.int32))
    return b"".join(encode([begins_of(runs.columns, runs.tops, runs.bottoms, len(mask))])).decode()


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Three images whose red is their mask."""
    folder = tmp_path / "slides"
    folder.mkdir()
    rows = ["id,encoding"]
    for seed in range(3):
        mask = mask_of(seed)
        image = np.full((HEIGHT, WIDTH, 3), (210, 190, 230), np.uint8)
        image[mask > 0] = (40, 40, 230)
        cv2.imwrite(str(folder / f"slide{seed}.png"), image)
        rows.append(f"slide{seed},{encoded(mask)}")
    (tmp_path / "masks.csv").write_text("\n".join(rows) + "\n")
    return folder


def call(slides: Path, *more: str) -> list[str]:
    table = str(slides.parent / "masks.csv")
    reported = ["dataset", "--from", "masks", "--slides", str(slides), "--annotations", table, "--slide-mpp", "1"]
    return [*reported, "--mpp", "2", "--size", "48", "--out", str(slides.parent / "data"), *more]


def test_tiles_have_the_masks_of_their_slides(slides: Path) -> None:
    """At half the resolution; every tile with an area, whole slides kept for validation."""
    assert main(call(slides, "--classes", "Glomerulus")) == 0
    data = slides.parent / "data"
    spec, examples = read_index(data)
    assert (spec.kind, spec.made_from, spec.class_names) == ("tiles", "masks", ("Glomerulus",))
    assert {item.split for item in examples} == {"train", "validate"}
    for item in examples:
        mask = cv2.imread(str(data / item.file.replace(".png", "_mask.png")), cv2.IMREAD_UNCHANGED)
        whole = mask_of(int(item.slide[5]))
        x, y = round(item.x_l0), round(item.y_l0)
        np.testing.assert_array_equal(mask, whole[y + 1 : y + 97 : 2, x + 1 : x + 97 : 2])
        labels = cv2.imread(str(data / item.file.replace(".png", "_labels.png")), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(np.asarray(labels) > 0, np.asarray(mask) > 0)
    shown = sum(
        mask_of(seed)[y + 1 : y + 97 : 2, x + 1 : x + 97 : 2].any()
        for seed in range(3)
        for y in range(0, HEIGHT - 95, 96)
        for x in range(0, WIDTH - 95, 96)
    )
    assert shown <= len(examples) <= 2 * shown
    kept = {item.file for item in examples if item.split == "validate"}
    assert {pair.image.name for pair in find_pairs(data)} == kept
    assert {pair.slide for pair in find_pairs(data, "all")} == {item.slide for item in examples}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("id,encoding\nslide0,1 3\nother,1 3\n", "1 ids of masks.csv have no slide"),
        ("id,encoding\nslide0,1 3\nslide0,1 3\n", "the id 'slide0' twice"),
        ("name,rle\nslide0,1 3\n", "its columns are id and encoding"),
        ("id,encoding\nslide0,1 3 2 5\nslide1,\n", "overlap"),
        (f"id,encoding\nslide0,{WIDTH * HEIGHT} 2\nslide1,\n", "another image"),
        ("id,encoding\nslide0,\nslide1,\n", "No tile shows an area"),
    ],
)
def test_tables_that_do_not_fit_are_rejected(
    slides: Path, capsys: pytest.CaptureFixture[str], table: str, reason: str
) -> None:
    """One sentence each, and no data set."""
    (slides.parent / "masks.csv").write_text(table)
    assert main(call(slides)) != 0
    message = capsys.readouterr().err
    assert reason in message
    assert len(message.strip().splitlines()) <= 3
    assert not (slides.parent / "data").exists()


def test_the_data_set_states_what_it_is(slides: Path) -> None:
    assert main(call(slides)) == 0
    stated = json.loads((slides.parent / "data" / "dataset.json").read_text())
    assert (stated["mpp"], stated["size_px"], stated["made_from"]) == (2.0, 48, "masks")


@pytest.mark.slow
def test_a_network_of_areas_learns_from_tiles_with_masks(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the loss named, to a report with Dice and the worst tiles, and a package with the semantic head."""
    pytest.importorskip("keras", reason="the [train] extra is not installed")
    assert main(call(slides, "--classes", "Glomerulus", "--validation", "0.3")) == 0
    run, models = tmp_path / "run", tmp_path / "models"
    train = ["train", "areas-256", "--data", str(tmp_path / "data"), "--out", str(run), "--epochs", "2"]
    more = ["--rate", "0.003", "--loss", "symmetric-lovasz"]
    assert main([*train, *more, "--package", "--name", "my-areas", "--models", str(models)]) == 0
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["loss"] == "symmetric-lovasz"
    assert report["figures"].keys() == FIGURES
    assert report["worst_tiles"][0]["dice"] == min(each["dice"] for each in report["worst_tiles"])
    assert (run / "report" / "worst.png").is_file()
    spec = load_package(models / "my-areas").spec
    assert (spec.head, spec.outputs[0].channels, spec.classes[0].name) == (
        "semantic",
        ("foreground",),
        "Glomerulus",
    )
    assert spec.accuracy["dice"] == pytest.approx(report["figures"]["dice"], abs=0.02)
    assert "--loss symmetric-lovasz" in (models / "my-areas" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(train) == 2
    assert "contains a run with rate 0.003" in capsys.readouterr().err
    assert main([*train, "--rate", "0.003", "--loss", "focal"]) == 2
    assert "contains a run with loss symmetric-lovasz, not focal" in capsys.readouterr().err
    assert main(["train", "unet-256", *train[2:], "--loss", "dice"]) == 2
    assert "The recipe unet-256 has a loss of its own" in capsys.readouterr().err
