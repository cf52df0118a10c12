"""``slidecascade try``: a picture and a sentence about what one model finds in an image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import toy_kinds
import toy_models
from slidecascade.cli import main
from slidecascade.commands.tryout import PANEL_PX

GREEN = (0, 158, 115)
LEFT, GAP = 28, 14
"""Where the first picture of a page begins, and how far the second is from its end."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of each task: dark objects, red and green areas, dark patches, four channels."""
    folder = tmp_path_factory.mktemp("models")
    toy_kinds.write_models(folder)
    toy_models.write_package(folder, toy_models.segmenter_fields("toy-objects"), toy_models.darkness_segmenter())
    toy_models.write_package(folder, toy_models.stain_fields("toy-stain"), toy_models.stain_segmenter())
    return folder


def tissue(side_px: int = 256) -> NDArray[np.uint8]:
    """Pale tissue with three black discs, a red and a green square."""
    picture = np.full((side_px, side_px, 3), toy_kinds.TISSUE, np.uint8)
    for x, y in ((60, 60), (120, 70), (70, 150)):
        cv2.circle(picture, (x, y), 12, (0, 0, 0), -1)
    picture[180:230, 30:80] = (255, 0, 0)
    picture[180:230, 150:200] = (0, 255, 0)
    return picture


def written(path: Path, picture: NDArray[np.uint8]) -> Path:
    Image.fromarray(picture).save(path)
    return path


def panels(page: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two pictures of a page: the longest run of rows that hold no paper at their left edge."""
    pixels = np.asarray(Image.open(page).convert("RGB"), np.int64)
    is_frame = (pixels[:, LEFT - 1] == (150, 150, 155)).all(axis=1)
    top = int(np.flatnonzero(is_frame)[0]) + 1
    second = LEFT + PANEL_PX + GAP
    return (
        pixels[top : top + PANEL_PX, LEFT : LEFT + PANEL_PX],
        pixels[top : top + PANEL_PX, second : second + PANEL_PX],
    )


def test_objects_are_outlined_beside_the_image_and_counted(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package's folder will do; the sentence has the count, and only the right picture is drawn on."""
    image, out = written(tmp_path / "discs.png", tissue()), tmp_path / "page.png"
    assert main(["try", str(models / "toy-objects"), str(image), "--mpp", "0.5", "--out", str(out)]) == 0

    said = capsys.readouterr().out
    assert "objects were found in discs.png: Nucleus" in said
    assert str(out) in said
    plain, drawn = panels(out)
    differing = (np.abs(plain - drawn).sum(axis=2) > 30).mean()
    assert 0.001 < differing < 0.2


def test_areas_are_found_by_a_network_that_makes_a_mask(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The red and the green square, each by its class; the picture has the name of image and model."""
    image = written(tmp_path / "squares.png", tissue())
    out = tmp_path / "squares.png.toy-mask.png"
    code = main(["try", "toy-mask", str(image), "--mpp", "0.5", "--models", str(models), "--out", str(out)])
    assert code == 0
    assert "2 areas were found in squares.png: Red 1, Green 1." in capsys.readouterr().out
    _, drawn = panels(out)
    is_outline = (np.abs(drawn - GREEN).sum(axis=2) < 60).any(axis=0)
    columns = np.flatnonzero(is_outline) * 256 / PANEL_PX
    assert columns.min() == pytest.approx(150, abs=3)
    assert columns.max() == pytest.approx(200, abs=3)


def test_a_classifier_colours_squares_and_states_probabilities(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark squares are tinted where they lie; the picture lands in the current folder when --out is not given."""
    monkeypatch.chdir(tmp_path)
    picture = tissue()
    picture[:, :128] = 40
    image = written(tmp_path / "half.png", picture)
    assert main(["try", "toy-dark", str(image), "--mpp", "0.5", "--models", str(models)]) == 0
    assert "squares were classified in half.png: Dark" in capsys.readouterr().out
    plain, drawn = panels(tmp_path / "half.toy-dark.png")
    changed = np.abs(plain - drawn).sum(axis=2) > 20
    assert changed[:, : PANEL_PX // 3].mean() > 0.9
    assert changed[:, -PANEL_PX // 3 :].mean() < 0.1


def test_nothing_found_is_said_with_what_to_check(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pale tissue without objects, an empty slide, an image of seven pixels: each its own remedy."""
    pale = np.full((256, 256, 3), toy_kinds.TISSUE, np.uint8)
    for name, picture, reason in (
        ("pale.png", pale, "check that its pixel size (0.5 um), its stain and its channels"),
        ("glass.png", np.full_like(pale, 255), "no tissue was found in it"),
        ("tiny.png", pale[:7, :9], "give a larger image"),
    ):
        image = written(tmp_path / name, picture)
        package = str(models / "toy-objects")
        assert main(["try", package, str(image), "--mpp", "0.5", "--out", str(tmp_path / "page.png")]) == 0
        said = capsys.readouterr().out
        assert f"Nothing was found in {name}" in said
        assert reason in said
        assert (tmp_path / "page.png").is_file()


def test_an_image_smaller_than_the_crop_says_what_lies_beyond_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled network of lymph nodes looks at 299 px."""
    image = written(tmp_path / "small.png", tissue())
    code = main(["try", "lymph-tumour", str(image), "--mpp", "0.25", "--out", str(tmp_path / "page.png")])
    assert code == 0
    assert "256 px at the network's resolution, less than the 299 px" in capsys.readouterr().out


def _wrong_calls(tmp_path: Path, models: Path) -> list[tuple[list[str], str]]:
    image = str(written(tmp_path / "image.png", tissue()))
    five = tmp_path / "five.tif"
    tifffile.imwrite(five, np.zeros((300, 300, 5), np.uint8), planarconfig="contig")
    huge = written(tmp_path / "huge.png", np.zeros((10_001, 10_000, 3), np.uint8))
    objects, mpp = str(models / "toy-objects"), ["--mpp", "0.5"]
    return [
        ([objects, str(tmp_path / "no.png"), *mpp], "does not exist: give the path of an image"),
        ([objects, str(tmp_path), *mpp], "is a folder: give the path of an image"),
        ([objects, image], "does not state a usable pixel size: add --mpp"),
        ([objects, image, "--mpp", "30"], "too coarse for a model that reads at 0.5"),
        ([objects, str(five), *mpp], "it has 0 (channel-0), 1 (channel-1)"),
        ([objects, str(huge), *mpp], "at most 100000000 are taken at a time"),
        (["nope", image, *mpp], "There is no model 'nope': give a package's folder, or one of"),
        ([str(models), image, *mpp], "has no model.yaml: give the folder of one package"),
        ([str(models / "toy-stain"), image, *mpp], "'toy-stain'"),
        ([objects, image, *mpp, "--out", "page.jpg"], "end its name with .png"),
        ([objects, image, *mpp, "--out", image], "--out is the image itself"),
        ([objects, image, *mpp, "--out", str(tmp_path / "no" / "page.png")], "does not exist: create it"),
        ([objects, image, *mpp, "--region=200,0,128,128"], "is not inside the image"),
    ]


def test_wrong_calls_get_one_sentence_with_the_remedy(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, no stack trace, and no picture is left behind."""
    monkeypatch.chdir(tmp_path)
    for arguments, reported in _wrong_calls(tmp_path, models):
        before = sorted(tmp_path.iterdir())
        assert main(["try", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert reported in said, arguments
        assert said.count("\n") == 1, said
        assert sorted(tmp_path.iterdir()) == before
