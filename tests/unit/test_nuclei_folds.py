"""Folds that hold a source of images out, thresholds chosen over folds, and objects of all sizes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade.errors import InvalidRequestError
from slidecascade_evaluation.dsb2018 import COLOUR, FLUORESCENCE, Entry, NucleiImage, read_index
from slidecascade_evaluation.matching import Labels
from slidecascade_training.nuclei import cross_validation, recipe
from slidecascade_training.nuclei.crops import CropDraw, object_scales, prepare
from slidecascade_training.nuclei.cross_validation import cross_validate
from slidecascade_training.nuclei.folds import FEWEST, Folds
from slidecascade_training.nuclei.network import stride_of
from slidecascade_training.nuclei.package import halo_px
from slidecascade_training.nuclei.thresholds import GRID, Mapped, scores

SIZES = {
    (FLUORESCENCE, 256, 256): 60,
    (FLUORESCENCE, 696, 520): 30,
    (FLUORESCENCE, 64, 64): 4,
    (COLOUR, 320, 256): 20,
}


def _entries() -> tuple[Entry, ...]:
    rng = np.random.default_rng(1)
    return tuple(
        Entry(f"{rng.integers(2**32):08x}", kind, width, height)
        for (kind, width, height), count in SIZES.items()
        for _ in range(count)
    )


def test_no_source_is_on_both_sides_of_a_fold() -> None:
    """Every usable image is held out once; a size of few images shares the fold of its kind's others."""
    entries = _entries()
    folds = Folds.of(entries)
    assert set(folds.names) == {
        "fluorescence-256x256", "fluorescence-696x520", "fluorescence-others", "brightfield-colour-320x256",
    }  # fmt: skip
    usable = [entry for entry in entries if entry.split != "validate"]
    assert sorted(entry.stem for fold in folds.folds for entry in fold.held_out) == sorted(
        entry.stem for entry in usable
    )
    for fold in folds.folds:
        sides = [{(entry.kind, entry.width_px) for entry in side} for side in (fold.training, fold.held_out)]
        assert not sides[0] & sides[1]
        assert len(fold.training) + len(fold.held_out) == len(usable)


def test_images_kept_for_validation_are_in_no_fold() -> None:
    """Neither trained on nor chosen by: the published figures stay unseen."""
    entries = _entries()
    stems = {entry.stem for fold in Folds.of(entries).folds for entry in (*fold.training, *fold.held_out)}
    kept = {entry.stem for entry in entries if entry.split == "validate"}
    assert kept
    assert not kept & stems


def test_an_unknown_fold_and_a_single_source_are_errors() -> None:
    """The message names the folds there are, or what to add."""
    with pytest.raises(InvalidRequestError, match="There is no fold 'x'; there are fluorescence-256x256"):
        Folds.of(_entries()).find("x")
    one = [entry for entry in _entries() if entry.kind == COLOUR]
    with pytest.raises(InvalidRequestError, match="one source only"):
        Folds.of(one)


def test_the_real_set_has_a_fold_for_each_microscope(shared_data: Path) -> None:
    """Five sources of a dozen images or more, and what is left."""
    folds = Folds.of(read_index(shared_data / "nuclei" / "dsb2018"))
    assert len(folds.names) >= 6
    assert folds.names[0] == "fluorescence-256x256"
    assert all(len(fold.held_out) >= FEWEST for fold in folds.folds if "others" not in fold.name)


def _disc(side_px: int, diameter_px: float) -> Labels:
    rows, columns = np.mgrid[:side_px, :side_px] - side_px / 2
    labels: Labels = (np.hypot(rows, columns) < diameter_px / 2).astype(np.int32)
    return labels


@pytest.mark.parametrize(("diameter_px", "low", "high"), [(20, 0.4, 4.0), (50, 0.25, 2.0), (8, 1.0, 4.0)])
def test_scales_show_objects_of_8_to_100_px(diameter_px: float, low: float, high: float) -> None:
    """By the image's median object, and at most four times smaller or larger."""
    assert object_scales(_disc(128, diameter_px)) == pytest.approx((low, high), rel=0.06)
    assert object_scales(np.zeros((8, 8), np.int32)) == (1.0, 1.0)


def test_crops_show_an_object_at_many_sizes() -> None:
    """The sizes drawn of one disc span most of the range, which the scaling by kinds does not."""
    labels = _disc(256, 30)
    image = np.repeat((labels[..., None] * 180 + 20).astype(np.uint8), 3, axis=2)
    spans = {}
    for scaling in ("kinds", "objects"):
        pool = prepare([NucleiImage("a", FLUORESCENCE, image, labels)], scaling)
        planes = CropDraw(tuple(pool), 64, 1)(0).targets
        # A mirrored edge repeats the disc or cuts it: the largest piece of a crop is the disc itself.
        areas = np.array([_largest_area(plane) for plane in planes[..., 0] >= 128])
        spans[scaling] = np.percentile(np.sqrt(4 * areas[areas > 0] / np.pi), [5, 100])
    assert spans["objects"][0] < 15 < spans["kinds"][0]
    assert spans["objects"][1] > 70
    assert spans["kinds"][1] < 60


def _largest_area(foreground: np.ndarray) -> int:
    count, _, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8))
    return int(stats[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0


def _mapped(seed: int, foreground: int, around: int) -> Mapped:
    """One cell with `foreground` of 255 in it, and `around` of 255 in a wide ring around it."""
    truth = _disc(96, 40)
    halo = _disc(96, 60)
    maps = np.zeros((96, 96, 2), np.uint8)
    maps[halo > 0, 0] = around
    maps[truth > 0] = (foreground, 200)
    return Mapped(FLUORESCENCE, np.roll(truth, seed, axis=0), np.roll(maps, seed, axis=0))


def test_a_fold_is_measured_with_the_thresholds_of_the_others() -> None:
    """Two folds need a high threshold; the third, which finds nothing with it, is not decoded with its own."""
    strict, lax = [_mapped(seed, 250, 130) for seed in (0, 3)], [_mapped(seed, 135, 0) for seed in (1, 2)]
    result = cross_validate([("a", strict), ("b", strict), ("c", lax)])
    best = {name: GRID[int(scores(images, GRID).argmax())] for name, images in (("a", strict), ("c", lax))}
    assert [item.name for item in result.folds] == ["a", "b", "c"]
    assert result.folds[2].options == best["a"]
    assert best["a"].foreground > best["c"].foreground
    assert [item.accuracy.ap50 for item in result.folds] == [0.0, 0.0, 0.0]
    reported = json.loads(result.json)
    assert [item["images"] for item in reported["folds"]] == [2, 2, 2]
    assert "mean of folds" in result.markdown
    with pytest.raises(ValueError, match="two folds"):
        cross_validate([("a", strict)])


def test_deeper_networks_have_larger_strides_and_halos() -> None:
    """Three levels as bundled: multiples of 8, a halo of 80 px for a view of 52."""
    assert [stride_of(widths) for widths in ((48, 96, 192), (4, 8, 16, 32))] == [8, 16]
    assert halo_px(52, 8) == 80
    assert halo_px(100, 16) % 16 == 0


@pytest.mark.slow
def test_all_folds_are_trained_and_reported_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tiny sources, two steps each: a folder for each fold, its figures, and nothing to do the second time."""
    data, rows, rng = tmp_path / "data", ["stem,kind,width_px,height_px"], np.random.default_rng(2)
    data.mkdir()
    stems = [stem for stem in (f"{rng.integers(2**32):08x}" for _ in range(60)) if int(stem[:4], 16) % 5]
    for number, stem in enumerate(stems[: 2 * FEWEST]):
        side = (48, 64)[number % 2]
        labels = _disc(side, 20)
        cv2.imwrite(
            str(data / f"{stem}.png"), np.repeat((labels[..., None] * 180 + 20).astype(np.uint8), 3, axis=2)
        )
        cv2.imwrite(str(data / f"{stem}_labels.png"), labels.astype(np.uint16))
        rows.append(f"{stem},{FLUORESCENCE},{side},{side}")
    (data / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr(recipe, "EPOCH_STEPS", 1)
    monkeypatch.setattr(cross_validation, "MOST_TUNED", 2)
    call = [
        "--data",
        str(data),
        "--out",
        str(tmp_path / "runs"),
        "--steps",
        "2",
        "--batch",
        "2",
        "--widths",
        "4",
        "6",
    ]
    assert cross_validation.main(call) == 0
    reported = json.loads((tmp_path / "runs" / "folds.json").read_text(encoding="utf-8"))
    assert {item["name"]: item["images"] for item in reported["folds"]} == {
        "fluorescence-48x48": FEWEST, "fluorescence-64x64": FEWEST,
    }  # fmt: skip
    capsys.readouterr()
    assert cross_validation.main(call) == 0
    assert "2 steps, from step 2" in capsys.readouterr().out
