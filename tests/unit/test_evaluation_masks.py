"""Figures of areas against known masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import toy_kinds
from slidecascade.cli import main
from slidecascade.errors import InvalidRequestError
from slidecascade_evaluation.masks import MaskTally, find_pairs, tally_of


def test_pixels_and_areas_are_compared() -> None:
    """By hand: 8 and 6 pixels that share 4; of two true areas one is matched."""
    true, found = np.zeros((6, 8), np.bool_), np.zeros((6, 8), np.bool_)
    true[0, :5], true[4, 0:3] = True, True
    found[0, :4], found[2, 0:2] = True, True
    tally = tally_of(true, found)
    assert (tally.both_px, tally.found_px, tally.true_px) == (4, 6, 8)
    assert tally.figures == pytest.approx(
        {"dice": 8 / 14, "iou": 4 / 10, "precision": 4 / 6, "recall": 4 / 8, "object_f1": 0.5}
    )
    assert (tally + tally).figures == tally.figures
    assert set(MaskTally().figures.values()) == {1.0}
    with pytest.raises(ValueError, match="cannot be compared"):
        tally_of(true, found[:2])


@pytest.mark.parametrize(("true", "found"), [(True, False), (False, True)])
def test_all_figures_are_0_where_one_mask_is_empty(true: bool, found: bool) -> None:
    """Nothing found of what is true, and something found where nothing is."""
    tally = tally_of(np.full((6, 8), true), np.full((6, 8), found))
    assert set(tally.figures.values()) == {0.0}


def test_a_folder_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By slide and pooled, of every class, on the command line; a mask of another size is one sentence."""
    toy_kinds.write_models(tmp_path / "models")
    pipelines = toy_kinds.write_pipelines(tmp_path / "pipelines", toy_kinds.AREAS)
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(pipelines))
    data = tmp_path / "data"
    data.mkdir()
    for stem, shift in (("one_a", 0), ("one_b", 10), ("two_a", 0)):
        image = np.full((200, 240, 3), toy_kinds.TISSUE, np.uint8)
        mask = np.zeros((200, 240), np.uint8)
        image[40:80, 40:100], mask[40:80, 40 + shift : 100 + shift] = (230, 40, 40), 1
        image[120:140, 40:60], mask[120:140, 40:60] = (40, 210, 40), 2
        cv2.imwrite(str(data / f"{stem}_image.png"), image[:, :, ::-1])
        cv2.imwrite(str(data / f"{stem}_mask.png"), mask)
    call = ["evaluate", "--pipeline", "toy-areas", "--data", str(data), "--models", str(tmp_path / "models")]
    assert main([*call, "--json", "--out", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert document["slides"]["two"]["Red"]["dice"] == 1.0
    assert document["slides"]["one"]["Red"]["dice"] == pytest.approx((2400 + 2000) / (2 * 2400), abs=1e-4)
    assert document["pooled"]["Green"]["object_f1"] == 1.0
    assert next(iter(document["worst"])) == "one_b"
    assert main(call) == 0
    assert "pooled" in capsys.readouterr().out
    cv2.imwrite(str(data / "one_a_mask.png"), np.zeros((20, 20), np.uint8))
    assert main(call) != 0
    assert "one_a_mask.png has 20 x 20 px and 1 channels, and its image 240 x 200 px" in capsys.readouterr().err
    (data / "one_a_mask.png").write_bytes(b"nothing")
    assert main(call) != 0
    assert "one_a_mask.png cannot be read" in capsys.readouterr().err


def test_polygons_are_truth_as_masks_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of a folder do not change when its masks are replaced by their outlines, holes included."""
    toy_kinds.write_models(tmp_path / "models")
    pipelines = toy_kinds.write_pipelines(tmp_path / "pipelines", toy_kinds.AREAS)
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(pipelines))
    data = tmp_path / "data"
    data.mkdir()
    image = np.full((200, 240, 3), toy_kinds.TISSUE, np.uint8)
    mask = np.zeros((200, 240), np.uint8)
    image[40:80, 40:100], mask[45:80, 40:100] = (230, 40, 40), 1
    mask[50:60, 50:60] = 0
    image[120:140, 40:60], mask[120:140, 40:60] = (40, 210, 40), 2
    cv2.imwrite(str(data / "one_image.png"), image[:, :, ::-1])
    cv2.imwrite(str(data / "one_mask.png"), mask)
    call = ["evaluate", "--pipeline", "toy-areas", "--data", str(data), "--models", str(tmp_path / "models")]
    assert main([*call, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    (data / "one_mask.png").unlink()
    write_polygons(
        data / "one.geojson",
        ("Red", [[[40, 45], [100, 45], [100, 80], [40, 80]], [[50, 50], [60, 50], [60, 60], [50, 60]]]),
        ("Green", [[[40, 120], [60, 120], [60, 140], [40, 140]]]),
    )
    assert main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert expected["pooled"]["Red"]["dice"] < 1.0
    write_polygons(data / "one.geojson", ("Blue", [[[40, 45], [100, 45], [100, 80]]]))
    assert main(call) != 0
    assert "one.geojson has polygons of 'Blue', and the pipeline finds Red, Green" in capsys.readouterr().err


def write_polygons(path: Path, *polygons: tuple[str, list[list[list[int]]]]) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
            "properties": {"classification": {"name": name}},
        }
        for name, rings in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def test_a_folder_without_masks_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no image with a mask"):
        find_pairs(tmp_path)
