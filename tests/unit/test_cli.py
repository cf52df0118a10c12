"""The command line: exit codes, one sentence per error, files in the folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade.cli import main
from slidecascade_render.liver.tissue import TissueOptions, render
from unwritten_slide import write_unwritten


@pytest.fixture(scope="module")
def tile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tile.png"
    tissue = render(TissueOptions(seed=5, mpp=0.5), width_px=256, height_px=192)
    cv2.imwrite(str(path), cv2.cvtColor(tissue.image, cv2.COLOR_RGB2BGR))
    return path


def test_analyze_writes_the_files_of_the_zip(
    tile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One folder with GeoJSON, summary, heatmaps and overlay; the counts on stdout agree with the summary."""
    code = main(["analyze", str(tile), "--pipeline", "nash", "--mpp", "0.5", "--out", str(tmp_path / "out")])

    reported = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    cells = json.loads((tmp_path / "out" / "cells.geojson").read_text(encoding="utf-8"))
    assert code == 0
    assert len(cells["features"]) == summary["cells"] > 0
    assert all(f"{count:8d}  {name}\n" in reported for name, count in summary["counts"].items())
    assert {path.name for path in (tmp_path / "out" / "heatmaps").iterdir()} == {
        "steatosis.png", "ballooning.png", "immune.png",
        "steatosis.tiff", "ballooning.tiff", "immune.tiff",
    }  # fmt: skip
    assert cv2.imread(str(tmp_path / "out" / "overlay.png")) is not None


def test_a_missing_pixel_size_names_the_option(
    tile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option of the command line, not the field of a request."""
    assert main(["analyze", str(tile), "--pipeline", "nuclei", "--out", str(tmp_path / "out")]) == 2
    sentence = capsys.readouterr().err
    assert "add --mpp" in sentence
    assert "`mpp`" not in sentence


@pytest.mark.parametrize(
    ("arguments", "code", "reported"),
    [
        (["--pipeline", "nash"], 2, "mpp"),
        (["--pipeline", "nope", "--mpp", "0.5"], 2, "'nope'"),
        (["--pipeline", "nash", "--mpp", "0"], 2, "mpp"),
        (["--pipeline", "nash", "--mpp", "nan"], 2, "mpp"),
        (["--pipeline", "nash", "--mpp", "0.5", "--region=250,0,64,64"], 2, "region"),
        (["--pipeline", "nash", "--mpp", "0.5", "--region=0,0,-5,64"], 2, "region"),
        (["--pipeline", "nash", "--mpp", "0.5", "--region=1,2"], 2, "whole pixels"),
        (["--pipeline", "nash", "--mpp", "0.5", "--threshold", "nash-cell=2"], 2, "thresholds"),
        (["--pipeline", "nash", "--mpp", "0.5", "--threshold", "other=0.5"], 2, "'other'"),
        (["--pipeline", "nash", "--mpp", "0.5", "--models", "nowhere"], 1, "models folder"),
    ],
)
def test_wrong_calls_get_one_sentence(
    tile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, reported: str
) -> None:
    """The exit code distinguishes invalid calls from failures; stderr has no stack trace; no folder remains."""
    with_out = ["analyze", str(tile), "--out", str(tmp_path / "out"), *arguments]
    try:
        result = main(with_out)
    except SystemExit as ended:  # argparse ends calls it cannot parse
        result = int(ended.code or 0)

    stderr = capsys.readouterr().err
    assert result == code
    assert reported in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_images_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text file called .png and a file that is not there."""
    text = tmp_path / "text.png"
    text.write_text("not an image", encoding="utf-8")
    out = str(tmp_path / "out")
    assert main(["analyze", str(text), "--pipeline", "nuclei", "--mpp", "1", "--out", out]) == 2
    assert main(["analyze", str(tmp_path / "no.png"), "--pipeline", "nuclei", "--mpp", "1", "--out", out]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_slides_are_read_by_path(tmp_path: Path) -> None:
    """A pyramidal TIFF is opened as a slide and brings its own pixel size."""
    from slidecascade_render.liver.slides import write_slide

    slide = tmp_path / "liver.tiff"
    write_slide(slide, TissueOptions(seed=5, mpp=0.25), 512, 512)
    out = tmp_path / "out"
    assert main(["analyze", str(slide), "--pipeline", "nuclei", "--region=0,0,512,256", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["coordinate_space"] == "level0-pixels"
    assert summary["mpp"] == pytest.approx(0.25, rel=1e-3)


def test_warnings_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What makes the answer doubtful is said on stderr, and the work is done all the same."""
    slide, out = tmp_path / "slide.tif", tmp_path / "out"
    write_unwritten(slide, np.full((256, 256, 3), 230, np.uint8), tile_px=128, unwritten=2)

    assert main(["analyze", str(slide), "--pipeline", "nuclei", "--mpp", "0.5", "--out", str(out)]) == 0
    assert "Warning (no-stored-pixels): 50% of the region has no stored pixels" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [warning["code"] for warning in summary["warnings"]] == ["no-stored-pixels", "nothing-analysed"]


def test_models_can_be_listed_shown_and_verified(capsys: pytest.CaptureFixture[str]) -> None:
    """Every bundled model is listed and verified; an unknown one is refused by name."""
    assert main(["models", "list"]) == 0
    assert main(["models", "verify"]) == 0
    assert main(["models", "show", "nuclei-unet"]) == 0
    out = capsys.readouterr().out
    assert out.count("nuclei-unet") >= 3
    assert "sha256" in out
    assert main(["models", "show", "absent"]) == 2
    assert "'absent'" in capsys.readouterr().err


def test_an_image_in_a_slide_format_is_still_an_image(tmp_path: Path) -> None:
    """A plain TIFF that is no slide is read as an image."""
    path = tmp_path / "plain.tif"
    cv2.imwrite(str(path), np.full((64, 64, 3), 240, np.uint8))
    assert main(["analyze", str(path), "--pipeline", "nuclei", "--mpp", "1", "--out", str(tmp_path / "o")]) == 0
