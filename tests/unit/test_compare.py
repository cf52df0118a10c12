"""``slidecascade compare``: ranks with confidence, real beside synthetic images, and where they disagree."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray

import oracles
import slidecascade_evaluation
import toy_models
from found_cells import found_cells
from slidecascade.cli import main
from slidecascade_evaluation.comparison import Comparison, Entry, agreement, disagreements
from slidecascade_evaluation.scores import tally_of
from slidecascade_evaluation.trial import Group, ImageResult, Trial
from toy_pipeline import FIELDS, HALO_PX, ToyPipeline, blobs


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    """The toy pipeline, and one that drops all but the largest cells."""
    toy = ToyPipeline(tmp_path_factory.mktemp("toy"))
    fields = toy_models.segmenter_fields(name="toy-coarse", halo_px=HALO_PX, options={"min_area_um2": 60.0})
    toy_models.write_package(toy.models_dir, fields, toy_models.darkness_segmenter())
    heatmap = {"name": "density", "title": "Nuclei", "kind": "density", "classes": ["Nucleus"]}
    # Without classifiers, which take colours.
    coarse = {**FIELDS, "name": "coarse", "segmenter": "toy-coarse", "cascade": [], "heatmaps": [heatmap]}
    for pipeline in (coarse, {**coarse, "name": "fine", "segmenter": FIELDS["segmenter"]}):
        (toy.pipelines_dir / f"{pipeline['name']}.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    return toy


@pytest.fixture
def models(toy: ToyPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIDECASCADE_MODELS_DIR", str(toy.models_dir))
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(toy.pipelines_dir))


def pictures(folder: Path, kind: str, count: int) -> Path:
    """Images whose truth is every dark pixel, which the toy pipeline finds."""
    folder.mkdir()
    rows = ["stem,kind,split"]
    for seed in range(count):
        image = blobs(seed, 96, 80, 9)
        dark = (255 - image.mean(axis=2, dtype=np.float32) >= 128).astype(np.uint8)
        _, labels = cv2.connectedComponents(dark, connectivity=8)
        areas = np.bincount(labels.ravel())
        kept = np.where(areas >= 16, np.arange(len(areas)), 0)[labels].astype(np.uint16)
        cv2.imwrite(str(folder / f"image{seed}.png"), image[:, :, ::-1])
        cv2.imwrite(str(folder / f"image{seed}_labels.png"), kept)
        rows.append(f"image{seed},{kind},validate")
    (folder / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.mark.usefixtures("models")
def test_pipelines_are_ranked_on_every_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exact pipeline comes first on both sets; the page needs no other file and shows the worst images."""
    real, synthetic = pictures(tmp_path / "real", "photo", 3), pictures(tmp_path / "made", "synthetic", 4)
    out = tmp_path / "out"
    sets = ("--data", str(synthetic), "--data", str(real))
    assert main(["compare", "--pipelines", "coarse,toy", *sets, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "The ranking on synthetic cells is the one on real cells." in said
    document = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [(item["name"], item["is_synthetic"], item["images"]) for item in document["data"]] == [
        ("made", True, 4), ("real", False, 3),
    ]  # fmt: skip
    for item in document["data"]:
        first, second = item["ranking"]
        assert (first["pipeline"], second["pipeline"]) == ("toy", "coarse")
        assert {first[name] for name in ("map", "ap50", "f1", "pq", "aji", "dice", "best_share")} == {1.0}
        assert (first["count_error"], first["interval"]) == (0.0, [1.0, 1.0])
        assert second["count_error"] > 0.1
        assert second["interval"][0] <= second["value"] <= second["interval"][1] < 1
        assert first["seconds_per_image"] > 0 < first["peak_mib"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r"(src|href)=\"(?!data:)|https?:|url\(", page)
    assert (out / "ranking.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("models")
def test_synthesized_stacks_are_compared_by_channel(tmp_path: Path) -> None:
    """Networks of colours are given the channel that is named; spots are another channel of the file."""
    made = ["synthesize", "--out", str(tmp_path / "made"), "--images", "2", "--width", "96", "--height", "96"]
    assert main([*made, "--cells", "5", "--spots", "2"]) == 0
    options = ["--pipelines", "coarse", "--data", str(tmp_path / "made"), "--channel", "nuclear"]
    assert main(["compare", *options, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("models")
def test_stacks_are_evaluated_by_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name or number, as `analyze` takes them; a missing channel or kind is reported."""
    folder = tmp_path / "stacks"
    folder.mkdir()
    image = blobs(0, 96, 80, 9).mean(axis=2).astype(np.uint16) * 257
    labels = cv2.connectedComponents((image < 32768).astype(np.uint8), connectivity=8)[1]
    stack = np.stack([np.full_like(image, 900), image])
    tifffile.imwrite(
        folder / "a.tif", stack, metadata={"axes": "CYX", "Channel": {"Name": ["empty", "nuclear"]}}, ome=True
    )
    cv2.imwrite(str(folder / "a_labels.png"), labels.astype(np.uint16))
    (folder / "index.csv").write_text("stem,kind,split\na,made,validate\n", encoding="utf-8")
    command = ["evaluate", "--pipeline", "fine", "--data", str(folder), "--mpp", "0.25", "--json"]
    found = []
    for channel in ("nuclear", "1", "empty"):
        channels = [f"{colour}={channel}" for colour in ("red", "green", "blue")]
        assert main([*command, "--kind", "made", "--channels", *channels]) == 0
        found.append(json.loads(capsys.readouterr().out)["kinds"]["made"])
    assert found[0]["cells"]["predicted"] > 0 == found[2]["cells"]["predicted"]
    assert found[0] == found[1]
    for options, says in (
        ([], "has 16 bits per sample"),
        (["--channels", "red=DAPI", "green=0", "blue=0"], "0 (empty), 1 (nuclear)"),
        (["--kind", "tissue"], "no image of the kind 'tissue', but made"),
    ):
        assert main([*command, *options]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.usefixtures("models")
def test_classifiers_and_stacks_are_rejected_by_a_sentence_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classifiers take colours; the sentence speaks of pipelines and images, not of a field of requests."""
    made = ["synthesize", "--out", str(tmp_path / "made"), "--images", "1", "--width", "96", "--height", "96"]
    assert main([*made, "--cells", "5"]) == 0
    options = ["--pipelines", "toy", "--data", str(tmp_path / "made"), "--out", str(tmp_path / "out")]
    assert main(["compare", *options]) == 2
    assert "'toy' has classifiers, which take colours" in capsys.readouterr().err


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("pipelines", "more", "words"),
    [
        ("toy,none", (), "none"),
        (",", (), "--pipelines names none"),
        ("toy", ("--kind", "fluorescence"), "has no image of the kind 'fluorescence'"),
    ],
)
def test_calls_that_cannot_be_done_say_why(
    pipelines: str, more: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "real", "photo", 1)
    assert (
        main(["compare", "--pipelines", pipelines, "--data", str(data), "--out", str(tmp_path / "o"), *more]) == 2
    )
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_missing_matplotlib_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the work, with what installs it; no folder is made."""
    monkeypatch.delitem(sys.modules, "slidecascade_evaluation.compareplots", raising=False)
    monkeypatch.delattr(slidecascade_evaluation, "compareplots", raising=False)
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "out"
    assert main(["compare", "--pipelines", "toy", "--data", str(tmp_path), "--out", str(out)]) == 1
    assert "install the extra 'train' for `slidecascade compare`" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.usefixtures("models")
def test_a_truth_of_another_size_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "real", "photo", 1)
    cv2.imwrite(str(data / "image0_labels.png"), np.zeros((40, 40), np.uint16))
    assert main(["compare", "--pipelines", "toy", "--data", str(data), "--out", str(tmp_path / "o")]) == 2
    assert "40 x 40 pixels, its image 96 x 80" in capsys.readouterr().err


def shifted(labels: NDArray[np.int32], by: int) -> NDArray[np.int32]:
    return np.roll(labels, by, axis=1)


def entry(name: str, shifts: list[int]) -> Entry:
    """A pipeline that finds the cells of each image, moved to the right by so many pixels."""
    truth = np.zeros((40, 40), np.int32)
    truth[5:20, 5:20] = 1
    truth[22:38, 5:30] = 2
    results = [
        ImageResult(f"{number}", None, tally_of(truth, shifted(truth, by)), {}) for number, by in enumerate(shifts)
    ]
    trial = Trial(name, (), {}, 0.5, True, frozenset(), Group(results), ())
    return Entry(trial, np.ones(len(shifts)), 1.0)


def test_confidence_grows_with_images() -> None:
    """The interval narrows, and holds the mean; the same images give the same interval."""
    few = Comparison("few", False, "ap50", (entry("a", [0, 9] * 3), entry("b", [0, 0] * 3))).ranking()
    many = Comparison("many", False, "ap50", (entry("a", [0, 9] * 50), entry("b", [0, 0] * 50))).ranking()
    assert [item.entry.pipeline for item in few] == ["b", "a"]
    widths = [ranking[1].high - ranking[1].low for ranking in (few, many)]
    assert 0 < widths[1] < widths[0] / 2
    assert few[1].low < few[1].value < few[1].high
    again = Comparison("few", False, "ap50", (entry("a", [0, 9] * 3), entry("b", [0, 0] * 3))).ranking()
    assert [(item.low, item.high) for item in again] == [(item.low, item.high) for item in few]


def test_pipelines_that_tie_share_the_draws() -> None:
    """Two that find the same are each the best in half of them, whichever is named first."""
    entries = (entry("a", [0, 3, 0]), entry("b", [0, 3, 0]), entry("c", [6, 6, 6]))
    ranking = Comparison("real", False, "map", entries).ranking()
    assert {item.entry.pipeline: item.best_share for item in ranking} == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_a_ranking_that_synthetic_cells_turn_round_is_reported() -> None:
    """Clearly where both sets leave no doubt, else as a matter of chance."""
    synthetic = Comparison("made", True, "map", (entry("a", [0] * 20), entry("b", [4] * 20)))
    real = Comparison("real", False, "map", (entry("a", [5] * 20), entry("b", [1] * 20)))
    found = disagreements((synthetic, real))
    assert [(item.first, item.second, item.is_clear) for item in found] == [("a", "b", True)]
    assert "disagrees with the one on real cells (real), clearly" in agreement((synthetic, real))[0]
    close = Comparison("real", False, "map", (entry("a", [0, 5, 0]), entry("b", [5, 0, 0])))
    unclear = replace(close, entries=(entry("a", [0, 5, 1]), entry("b", [5, 0, 0])))
    assert "within the uncertainty" in agreement((synthetic, unclear))[0]
    assert disagreements((synthetic, replace(synthetic, is_synthetic=False))) == ()


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_quality_is_that_of_its_paper(seed: int) -> None:
    """The sum of the IoU of pairs over TP + FP / 2 + FN / 2, with sets of pixels."""
    truth, predicted = found_cells(seed)
    figures = tally_of(truth, predicted).figures
    assert figures.pq == pytest.approx(oracles.panoptic_quality_cell_by_cell(truth, predicted))
