"""`slidecascade dataset`: from slides and annotations to crops and tiles."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy_dataset
from slidecascade.cells.instances import Instances
from slidecascade.cli import main
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.annotation import Annotation
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions, render
from slidecascade_training.datasets import labelling
from slidecascade_training.datasets.cropping import crops_at
from slidecascade_training.datasets.folder import read_index
from slidecascade_training.datasets.split import split_by_slide


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return toy_dataset.write_slides(tmp_path, 4)


def _call(slides: Path, annotations: Path, out: Path, *more: str) -> list[str]:
    call = ["dataset", "--slides", str(slides), "--annotations", str(annotations), "--out", str(out)]
    return [*call, "--mpp", "0.25", "--size", "24", "--slide-mpp", "0.25", *more]


def _stored(path: Path) -> npt.NDArray[np.uint8]:
    """The image as it is in the file, blue first."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_points_become_crops(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One crop for each point, in the folder of its class, and slides never shared between the splits."""
    out = tmp_path / "data"
    assert main(_call(*folders, out)) == 0
    rows = _rows(out)
    assert len(rows) == 4 * 16
    by_split = {split: {row["slide"] for row in rows if row["split"] == split} for split in ("train", "validate")}
    assert by_split["train"].isdisjoint(by_split["validate"])
    assert len(by_split["validate"]) == 1
    for row in rows:
        crop = _stored(out / row["file"])[..., ::-1]
        assert crop.shape == (24, 24, 3)
        # Discs may lie on one another, but the last one drawn is the one annotated last.
        wanted = toy_dataset.COLOURS[row["class"]]
        if row["class"] == "Blue":
            assert np.abs(crop[12, 12].astype(int) - wanted).max() <= 2
    reported = capsys.readouterr().out
    assert "Blue" in reported
    assert "Red" in reported
    spec, _ = read_index(out)
    assert spec.balance["train"] == {"Blue": 24, "Red": 24}


def test_the_same_call_gives_the_same_set(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Bit for bit, file by file."""
    for name in ("one", "two"):
        assert main(_call(*folders, tmp_path / name)) == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 66
    for file in files:
        if file.name != "dataset.json":  # which holds the folder's name
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("mpp", [0.25, 0.31, 0.5])
def test_crops_are_those_that_the_service_cuts(tmp_path: Path, mpp: float) -> None:
    """Training crops equal the crops a classifier is given in service, bit for bit, at the slide's edge too."""
    from slidecascade.slides import crops
    from slidecascade_training.datasets.specimens import Specimen

    path = tmp_path / "s.tiff"
    write_slide(path, TissueOptions(seed=3, mpp=0.25), 900, 700)
    centres = np.random.default_rng(1).uniform((0, 0), (900, 700), (60, 2))
    with Specimen(path, path).view(None) as view:
        cut = np.empty((60, 54, 54, 3), np.uint8)
        for rows, images in crops_at(view, centres, mpp=mpp, size_px=54):
            cut[rows] = images
        # As `slidecascade.cells.cascade` does it, for one cell at a time.
        grid = view.grid(mpp)
        for row, centre in enumerate(centres):
            corners = crops.corners_of(grid.grid_from_l0(centre[None]), 54)
            box = crops.bounds_of(corners, 54)
            served = crops.cut(
                view.read(grid, box), corners - (box.x, box.y), size_px=54, height_px=54, width_px=54
            )
            assert (served[0] == cut[row]).all()


def test_cells_of_a_pipeline_take_the_class_of_the_mark_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Centres are the segmenter's, classes the annotator's; marks outside cells are reported."""
    slides, annotations = tmp_path / "slides", tmp_path / "annotations"
    slides.mkdir()
    annotations.mkdir()
    options = TissueOptions(seed=8, mpp=0.5, immune_per_mm2=900)
    write_slide(slides / "a.tiff", options, 384, 384)
    tissue = render(options, width_px=384, height_px=384)
    marks = [toy_dataset.feature("Point", [x + 0.5, y + 0.5], "Nucleus") for x, y in tissue.centroids.tolist()]
    region = [[[200, 0], [384, 0], [384, 384], [200, 384], [200, 0]]]
    left = [mark for mark, (x, _) in zip(marks, tissue.centroids.tolist(), strict=True) if x < 190]
    toy_dataset.write_annotations(
        annotations / "a.geojson", [*left, toy_dataset.feature("Polygon", region, "Right half")]
    )
    out = tmp_path / "data"
    call = [*_call(slides, annotations, out, "--from", "pipeline", "nuclei", "--no-validation"), "--mpp", "0.5"]
    assert main(call) == 0
    rows = _rows(out)
    assert {row["class"] for row in rows} == {"Nucleus", "Right half"}
    assert all((float(row["x_l0"]) >= 200) == (row["class"] == "Right half") for row in rows)
    assert len([row for row in rows if row["class"] == "Nucleus"]) >= 0.7 * len(left)
    capsys.readouterr()


def test_labels_of_cells() -> None:
    """A point beats a region, the smaller region the larger, and two classes in one cell leave it out."""
    square = np.array([[-2.0, -2], [2, -2], [2, 2], [-2, 2]])
    centres = np.array([[10.0, 10], [30, 10], [50, 10], [70, 10]]) + 40_000
    cells = Instances(
        centroids=centres,
        areas=np.full(4, 16.0),
        scores=np.ones(4, np.float32),
        vertices=np.concatenate([square + centre for centre in centres]),
        offsets=np.arange(0, 17, 4),
    )

    def box(x0: float, x1: float, name: str) -> Annotation:
        ring = np.array([[x0, 0.0], [x1, 0], [x1, 20], [x0, 20]]) + 40_000
        return Annotation.of_polygon(name, [ring])

    def point(x: float, name: str) -> Annotation:
        return Annotation.of_points(name, np.array([[x, 10.0]]) + 40_000)

    marks = [box(0, 60, "A"), box(20, 40, "B"), point(11, "C"), point(49, "A"), point(51, "B"), point(60, "A")]
    found = labelling.of_cells(cells, marks, ("A", "B", "C"))
    assert found.labelled.classes.tolist() == [2, 1]
    assert found.labelled.centres_l0.tolist() == centres[:2].tolist()
    assert (found.conflicting, found.marks_without_cell) == (1, 1)


def test_regions_are_covered(tmp_path: Path) -> None:
    """Crops lie on a grid in the regions; the smaller region counts where two overlap."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 2)
    for path in annotations.iterdir():
        outer = [[[0, 0], [192, 0], [192, 96], [0, 96], [0, 0]]]
        inner = [[[0, 0], [48, 0], [48, 96], [0, 96], [0, 0]]]
        toy_dataset.write_annotations(
            path, [toy_dataset.feature("Polygon", inner, "In"), toy_dataset.feature("Polygon", outer, "Out")]
        )
    assert main(_call(slides, annotations, tmp_path / "data", "--from", "regions", "--validation", "0.5")) == 0
    rows = _rows(tmp_path / "data")
    assert len(rows) == 2 * 8 * 4
    assert {row["class"] for row in rows if float(row["x_l0"]) < 48} == {"In"}
    assert {row["class"] for row in rows if float(row["x_l0"]) > 48} == {"Out"}


def test_a_region_far_beyond_its_slide_costs_no_more_than_the_slide(tmp_path: Path) -> None:
    """A rectangle drawn around everything is cut to the slide before it is covered."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 2)
    for path in annotations.iterdir():
        outer = [[[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9], [-1e9, -1e9]]]
        toy_dataset.write_annotations(path, [toy_dataset.feature("Polygon", outer, "All")])
    assert main(_call(slides, annotations, tmp_path / "data", "--from", "regions", "--validation", "0.5")) == 0
    assert len(_rows(tmp_path / "data")) == 2 * 11 * 11


def test_points_outline_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are reported when outlines are cut out, and rejected when there is nothing else."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 2)
    assert main(_call(slides, annotations, tmp_path / "data", "--from", "outlines")) == 2
    assert "No annotation is a polygon" in capsys.readouterr().err
    ring = [[[20, 20], [60, 20], [60, 50], [20, 50], [20, 20]]]
    for path in annotations.iterdir():
        marks = [toy_dataset.feature("Point", [9, 9], None), toy_dataset.feature("Polygon", ring, None)]
        toy_dataset.write_annotations(path, marks)
    assert main(_call(slides, annotations, tmp_path / "data", "--from", "outlines")) == 0
    reported = capsys.readouterr().err
    assert "s1.png: 1 outlines in 1 tiles" in reported
    assert "Skipped: 2 points, which outline nothing." in reported


def test_polygons_without_area_are_skipped_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line there and back is no cell; one that crosses itself holds some."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 2)
    line = [[[50, 50], [60, 60], [70, 70], [50, 50]]]
    crossed = [[[40, 40], [80, 80], [80, 40], [40, 80], [40, 40]]]
    for path in annotations.iterdir():
        marks = [toy_dataset.feature("Polygon", rings, "Cell") for rings in (line, crossed)]
        toy_dataset.write_annotations(path, marks)
    assert main(_call(slides, annotations, tmp_path / "data", "--from", "outlines")) == 0
    assert "Skipped: 2 polygons without area." in capsys.readouterr().err
    for path in (tmp_path / "data").glob("*_labels.png"):
        assert set(np.unique(_stored(path))) == {0, 1}


def test_a_slide_may_have_a_pixel_size_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By file name, beside the one of all others; at twice the size a region gives four times the crops."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 2)
    for path in annotations.iterdir():
        ring = [[[0, 0], [96, 0], [96, 96], [0, 96], [0, 0]]]
        toy_dataset.write_annotations(path, [toy_dataset.feature("Polygon", ring, "All")])
    call = _call(slides, annotations, tmp_path / "data", "--from", "regions", "--validation", "0.5")
    assert main([*call, "--slide-mpp", "s1.png=0.5"]) == 0
    counts = [sum(row["slide"] == name for row in _rows(tmp_path / "data")) for name in ("s0.png", "s1.png")]
    assert counts == [16, 64]
    assert main([*call[:-1], "0.4", "--out", str(tmp_path / "other"), "--slide-mpp", "s7.png=0.5"]) == 2
    assert "'s7.png', which is not an annotated slide" in capsys.readouterr().err


def test_outlines_become_tiles_that_the_nuclei_recipe_reads(tmp_path: Path) -> None:
    """Images and 16-bit labels; the recipe's own reader puts the held-out slide's tiles, and no others, aside."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 4)
    ring = [[20, 20], [60, 20], [60, 50], [20, 50], [20, 20]]
    hole = [[30, 30], [40, 30], [40, 40], [30, 40], [30, 30]]
    for path in annotations.iterdir():
        toy_dataset.write_annotations(path, [toy_dataset.feature("Polygon", [ring, hole], None)])
    out = tmp_path / "data"
    assert main([*_call(slides, annotations, out, "--from", "outlines"), "--size", "64"]) == 0
    rows = _rows(out)
    held_out = {row["stem"] for row in rows if row["split"] == "validate"}
    assert len(rows) == 4
    assert len(held_out) == 1
    assert {item.stem for item in dsb2018.read_images(out, "validate")} == held_out
    learned = [*dsb2018.read_images(out, "train"), *dsb2018.read_images(out, "tune")]
    assert len(learned) == 3
    assert (learned[0].labels > 0).sum() == 40 * 30 - 10 * 10
    assert learned[0].labels[35, 25] == 1
    assert learned[0].labels[35, 35] == 0


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.lists(st.integers(0, 50), min_size=2, max_size=2),
        min_size=2,
        max_size=8,
    ),
    st.floats(0.05, 0.9),
)
@settings(max_examples=25, deadline=None)
def test_a_split_keeps_slides_whole(counts: dict[str, list[int]], share: float) -> None:
    """Both sides have a slide, and the order in which slides come changes nothing."""
    split = split_by_slide(counts, share=share)
    assert set(split.values()) == {"train", "validate"}
    assert split == split_by_slide(dict(reversed(counts.items())), share=share)


def test_a_split_looks_at_every_class() -> None:
    """The rare class is kept in its share, though it is on two slides only."""
    counts = {f"s{number}": [100, 0] for number in range(8)} | {"r1": [100, 30], "r2": [100, 10]}
    split = split_by_slide(counts, share=0.25)
    kept = [name for name, side in split.items() if side == "validate"]
    assert "r2" in kept
    assert "r1" not in kept
    assert len(kept) in (2, 3)


def _break_points(annotations: Path, name: str | None, place: list[float]) -> None:
    toy_dataset.write_annotations(annotations / "s0.geojson", [toy_dataset.feature("Point", place, name)])


@pytest.mark.parametrize(
    ("more", "code", "reported"),
    [
        (["--classes", "Red,Green"], 2, "the class 'Blue', not one of Red, Green"),
        (["--classes", "Red,Blue,Green"], 2, "no annotation of the class 'Green'"),
        (["--classes", "Red,a:b"], 2, "without a colon"),
        (["--classes", "Red,Red"], 2, "names a class twice"),
        (["--rename", "Red"], 2, "OLD=NEW"),
        (["--size", "2"], 2, "--size"),
        (["--mpp", "nan"], 2, "--mpp"),
        (["--slide-mpp", "0"], 2, "--slide-mpp must be"),
        (["--slide-mpp", "a=b"], 2, "SLIDE=NUMBER"),
        (["--seed", "-1"], 2, "--seed"),
        (["--mpp", "0.001"], 2, "too coarse"),
        (["--validation", "1"], 2, "--validation"),
        (["--from", "cells"], 2, "--from"),
        (["--from", "pipeline"], 2, "--from"),
        (["--from", "pipeline", "nothing"], 2, "no pipeline 'nothing'"),
        (["--from", "regions"], 2, "has points only, and --from regions needs polygons"),
        (["--from", "outlines"], 2, "No annotation is a polygon"),
        (["--slides", "nowhere"], 2, "There is no folder nowhere"),
        (["--annotations", "slides"], 2, "There is no folder slides"),
    ],
)
def test_wrong_calls_get_one_sentence(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    reported: str,
) -> None:
    """One sentence on stderr, the right exit code, and nothing left in the folder, hidden or not."""
    before = set(tmp_path.iterdir())
    try:
        result = main([*_call(*folders, tmp_path / "data"), *more])
    except SystemExit as ended:
        result = int(ended.code or 0)
    stderr = capsys.readouterr().err
    assert result == code
    assert reported in stderr
    assert "Traceback" not in stderr
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "place", "reported"),
    [
        ("Red", [300.0, 20.0], "1 of 1 annotations of s0.geojson lie outside s0.png"),
        ("Red", [-5.0, 20.0], "outside"),
        ("Tumour: Positive", [20.0, 20.0], "--rename 'Tumour: Positive'=NAME"),
    ],
)
def test_annotations_of_another_slide_or_class_are_refused(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    place: list[float],
    reported: str,
) -> None:
    """They are reported before any pixel is read, and can be skipped by an option."""
    _break_points(folders[1], name, place)
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    more = ["--skip-outside", "--rename", "Tumour: Positive=Red"]
    assert main(_call(*folders, tmp_path / "data", *more)) == 0


def test_a_single_slide_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the way out, and the way out works."""
    slides, annotations = toy_dataset.write_slides(tmp_path, 1)
    assert main(_call(slides, annotations, tmp_path / "data")) == 2
    assert "--no-validation" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert main(_call(slides, annotations, tmp_path / "data", "--no-validation")) == 0
    assert {row["split"] for row in _rows(tmp_path / "data")} == {"train"}


def test_a_slide_without_a_pixel_size_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No guessing: the call must state it."""
    call = _call(*folders, tmp_path / "data")
    del call[call.index("--slide-mpp") : call.index("--slide-mpp") + 2]
    assert main(call) == 2
    assert "s0.png does not state a usable pixel size" in capsys.readouterr().err


def test_16_bit_and_transparent_images_are_read_as_the_service_reads_them(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """They become 8-bit RGB, by the rules of uploads."""
    rgb = _stored(folders[0] / "s0.png")
    cv2.imwrite(str(folders[0] / "s0.png"), rgb.astype(np.uint16) * 257)
    with_alpha = np.asarray(cv2.cvtColor(_stored(folders[0] / "s1.png"), cv2.COLOR_BGR2BGRA))
    with_alpha[..., 3] = 0
    cv2.imwrite(str(folders[0] / "s1.png"), with_alpha)
    assert main(_call(*folders, tmp_path / "data")) == 0
    for row in _rows(tmp_path / "data"):
        crop = _stored(tmp_path / "data" / row["file"])
        assert crop.dtype == np.uint8
        assert crop.shape == (24, 24, 3)
        if row["slide"] == "s1.png":
            assert (crop == 255).all()


def test_a_damaged_slide_and_malformed_annotations_leave_nothing_behind(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each error is one sentence."""
    whole = (folders[0] / "s3.png").read_bytes()
    (folders[0] / "s3.png").write_bytes(whole[: len(whole) // 2])
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert "s3.png: The image ends before" in capsys.readouterr().err
    (folders[0] / "s3.png").write_bytes(whole)
    (folders[1] / "s3.geojson").write_text("{", encoding="utf-8")
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert capsys.readouterr().err.startswith("slidecascade: s3.geojson is not valid JSON")
    (folders[1] / "s3.xml").write_text("<a/>", encoding="utf-8")
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert "annotated by s3.geojson and by s3.xml" in capsys.readouterr().err
    (folders[1] / "s3.xml").unlink()
    (folders[1] / "s3.geojson").write_text(" ", encoding="utf-8")
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert "s3.geojson is empty" in capsys.readouterr().err
    (folders[0] / "s3.png").rename(folders[0] / "s3.svs")
    (folders[1] / "s3.geojson").write_text('{"type": "Point", "coordinates": [9, 9]}', encoding="utf-8")
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert "s3.svs: The slide cannot be opened" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"slides", "annotations"}


def test_a_full_disk_leaves_nothing_behind(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Crops are small; the list at the end is what no longer fits."""
    with toy_dataset.disk_full_after(3000):
        assert main(_call(*folders, tmp_path / "data")) == 1
    assert "Results cannot be written to" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"slides", "annotations"}


def test_an_existing_folder_is_not_touched(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a file nor a folder with something in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine", encoding="utf-8")
    assert main(_call(*folders, tmp_path / "data")) == 2
    assert "exists: remove it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine.txt"]


def test_unmatched_annotations_are_reported(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left out silently."""
    shutil.copy(folders[1] / "s0.geojson", folders[1] / "other.geojson")
    (folders[0] / "notes.txt").write_text("not a slide", encoding="utf-8")
    assert main(_call(*folders, tmp_path / "data")) == 0
    assert "Skipped: other.geojson, because no slide has its name" in capsys.readouterr().err
    assert "left_out" in json.loads((tmp_path / "data" / "dataset.json").read_text(encoding="utf-8"))
