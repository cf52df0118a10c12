"""``slidecascade evaluate``: figures, files, and what it says of data that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import toy_kinds
from slidecascade.cli import main
from toy_pipeline import ToyPipeline, blobs


@dataclass(frozen=True)
class Evaluate:
    """The command with the toy pipeline, which finds every dark pixel."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, folder: Path, *more: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        try:
            code = main(["evaluate", "--pipeline", "toy", "--data", str(folder), *more])
        except SystemExit as ended:  # argparse ends calls it cannot parse
            code = int(ended.code or 0)
        reported = self.capsys.readouterr()
        assert "Traceback" not in reported.err
        return code, reported.out, reported.err


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyPipeline:
    return ToyPipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def evaluate(toy: ToyPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    monkeypatch.setenv("SLIDECASCADE_MODELS_DIR", str(toy.models_dir))
    monkeypatch.setenv("SLIDECASCADE_PIPELINES_DIR", str(toy.pipelines_dir))
    return Evaluate(capsys)


def picture(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Blobs, blue first, and the labels of all dark pixels that the toy pipeline takes for cells."""
    image = blobs(seed, 96, 80, 9)
    grey = image.mean(axis=2, dtype=np.float32)
    _, labels = cv2.connectedComponents((255 - grey >= 128).astype(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel())
    kept = np.where(areas >= 16, np.arange(len(areas)), 0)
    return image[:, :, ::-1].copy(), kept[labels].astype(np.uint16)


def write(folder: Path, stem: str = "a", **files: NDArray[Any] | bytes | str) -> Path:
    """Files ``<stem><name>``, dots of their names written as two underscores."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / (stem + name.replace("__", "."))
        if isinstance(content, np.ndarray):
            cv2.imwrite(str(path), content)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_more_cells_than_16_bits_number_want_32(evaluate: Evaluate, tmp_path: Path) -> None:
    """70,000 of them: in 16 bits they begin anew, which is said; in 32 bits they count."""
    side = 3 * 265
    numbers = np.arange(1, 265 * 265 + 1).reshape(265, 265)
    labels = np.zeros((side, side), np.int32)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        labels[row::3, column::3] = numbers
    image = np.full((side, side, 3), 255, np.uint8)
    image[labels > 0] = 0
    wrapped = write(tmp_path / "wrapped", __png=image, _labels__png=labels.astype(np.uint16))
    code, _, err = evaluate(wrapped)
    assert code != 0
    assert "a_labels.png uses all 65535 numbers that 16 bits hold" in err
    whole = write(tmp_path / "whole", __png=image, _labels__tif=labels)
    code, out, err = evaluate(whole, "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == 1


def test_an_exact_pipeline_scores_one(evaluate: Evaluate, tmp_path: Path) -> None:
    """The toy pipeline finds the toy's cells to the pixel, so outlines and filling lose nothing."""
    for seed in range(3):
        image, labels = picture(seed)
        write(tmp_path / "data", f"image{seed}", __png=image, _labels__png=labels)
    code, out, _ = evaluate(tmp_path / "data", "--json")
    reported = json.loads(out)
    assert code == 0
    assert reported["images"] == 3
    assert reported["cells"]["truth"] == reported["cells"]["predicted"] > 9
    assert {reported[name] for name in ("ap50", "map", "f1", "pq", "aji", "dice")} == {1.0}
    assert reported["ap"] == reported["pooled"]["ap"] == dict.fromkeys(reported["ap"], 1.0)
    assert (reported["split"], reported["mpp"], reported["mpp_is"]) == ("all", 0.5, "the segmenter's own")
    assert [model["name"] for model in reported["models"]] == ["toy-segmenter", "toy-classifier", "toy-second"]
    assert all(len(model["sha256"]) == 64 for model in reported["models"])


def test_tiles_of_a_data_set_have_its_pixel_size(evaluate: Evaluate, tmp_path: Path) -> None:
    """What `slidecascade dataset` states counts where --mpp does not; another dataset.json is refused."""
    image, labels = picture()
    folder = write(tmp_path / "data", __png=image, _labels__png=labels)
    stated = {
        "kind": "tiles", "name": "mine", "mpp": 0.25, "size_px": 96, "made_from": "outlines",
        "classes": [{"name": "Cell", "color": [0, 158, 115]}],
    }  # fmt: skip
    write(folder, "dataset", __json=json.dumps(stated))
    reported = [json.loads(evaluate(folder, "--json", *more)[1]) for more in ((), ("--mpp", "0.5"))]
    assert [item["mpp"] for item in reported] == [0.25, 0.5]
    assert reported[0]["mpp_is"] == "given"
    write(folder, "dataset", __json='{"mpp": 0.25}')
    code, _, stderr = evaluate(folder)
    assert code == 2
    assert "dataset.json is wrong at kind" in stderr


def test_metrics_are_reported_by_kind_of_image(evaluate: Evaluate, tmp_path: Path) -> None:
    """One kind is found, of the other the truth is empty; the third image is in another split."""
    image, labels = picture()
    folder = write(tmp_path / "data", "good", __png=image, _labels__png=labels)
    write(folder, "none", __png=image, _labels__png=np.zeros_like(labels))
    write(folder, "other", __png=image, _labels__png=labels)
    index = "stem,kind,split\ngood,stained,validate\nnone,dark,validate\nother,stained,train\n"
    write(folder, "index", __csv=index)
    code, out, _ = evaluate(folder, "--json")
    reported = json.loads(out)
    assert (code, reported["images"], reported["split"]) == (0, 2, "validate")
    assert {kind: group["ap50"] for kind, group in reported["kinds"].items()} == {"stained": 1.0, "dark": 0.0}
    assert reported["ap50"] == 0.5
    assert reported["pooled"]["ap50"] == pytest.approx(0.5)
    table = evaluate(folder)[1]
    assert "stained" in table
    assert "all, pooled" in table


def test_classes_are_compared_in_the_words_of_the_pipeline(evaluate: Evaluate, tmp_path: Path) -> None:
    """Values of the truth take the names given to them; unnamed ones are only found or not."""
    image, labels = picture()
    types = np.where(labels > 0, np.where(labels % 2, 1, 2), 0).astype(np.uint8)
    folder = write(tmp_path / "data", __png=image, _labels__png=labels, _type__png=types)
    unnamed = json.loads(evaluate(folder, "--json")[1])["classes"]
    assert {name: (item["found"], item["f1"]) for name, item in unnamed.items()} == {
        "1": (1.0, None),
        "2": (1.0, None),
    }
    named = json.loads(evaluate(folder, "--json", "--class", "1=Red", "--class", "2=Green")[1])["classes"]
    assert set(named) == {"Red", "Green"}
    assert all(0 <= item["f1"] <= 1 and item["found"] == 1 for item in named.values())
    code, _, err = evaluate(folder, "--class", "1=Rad")
    assert code == 2
    assert "no class 'Rad' for '1' to mean; it has Blue, Green, Red, Red: Blue, " in err
    code, _, err = evaluate(folder, "--class", "1=Red")
    assert code == 2
    assert "class '2', which no --class names" in err


def test_truth_may_be_geojson(evaluate: Evaluate, tmp_path: Path) -> None:
    """Polygons with class names: what QuPath exports as detections."""
    image = np.full((80, 96, 3), 230, np.uint8)
    image[20:40, 30:60] = 20
    ring = [[30, 20], [60, 20], [60, 40], [30, 40], [30, 20]]
    feature = {
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Red"}},
    }
    folder = write(tmp_path / "data", __png=image, __geojson=json.dumps({"features": [feature]}))
    reported = json.loads(evaluate(folder, "--json")[1])
    assert (reported["ap50"], reported["map"], reported["dice"]) == (1.0, 1.0, 1.0)
    assert reported["classes"]["Red"]["found"] == 1.0


def test_transparency_is_laid_on_white(evaluate: Evaluate, tmp_path: Path) -> None:
    """Where an RGBA image is clear there is nothing to find."""
    image, labels = picture()
    clear = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    folder = write(tmp_path / "data", __png=clear, _labels__png=np.zeros_like(labels))
    assert json.loads(evaluate(folder, "--json")[1])["ap50"] == 1.0


IMAGE, LABELS = picture()
PNG = bytes(cv2.imencode(".png", IMAGE)[1])
FAR = '{"features": [{"geometry": {"type": "Polygon", "coordinates": [[[900, 9], [930, 9], [930, 30]]]}}]}'
POINT = '{"features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]}'
UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "has no image with truth"),
    "no truth": ({"__png": IMAGE}, "has no image with truth"),
    "no image": ({"_labels__png": LABELS}, "no image a.png beside its truth"),
    "another size": ({"__png": IMAGE, "_labels__png": LABELS[:50]}, "96 x 50 pixels, its image 96 x 80"),
    "16 bits": ({"__png": IMAGE.astype(np.uint16) * 257, "_labels__png": LABELS}, "save it with 8 bits"),
    "RGB labels": ({"__png": IMAGE, "_labels__png": IMAGE}, "has 3 channels: save one channel"),
    "fractions": ({"__png": IMAGE, "_labels__tiff": LABELS.astype(np.float32)}, "has fractions"),
    "a mask": ({"__png": IMAGE, "_labels__png": ((LABELS > 0) * 255).astype(np.uint8)}, "is a foreground mask"),
    "no picture": ({"__png": "hello", "_labels__png": LABELS}, "a.png cannot be used"),
    "half a picture": ({"__png": PNG[: len(PNG) // 2], "_labels__png": LABELS}, "truncated or damaged"),
    "no labels": ({"__png": IMAGE, "_labels__png": "hello"}, "a_labels.png cannot be decoded"),
    "empty labels": ({"__png": IMAGE, "_labels__png": ""}, "a_labels.png cannot be decoded"),
    "types of another size": (
        {"__png": IMAGE, "_labels__png": LABELS, "_type__png": np.ones((5, 5), np.uint8)},
        "a_type.png has 5 x 5 pixels",
    ),
    "outside": ({"__png": IMAGE, "__geojson": FAR}, "Cell 1 of a.geojson has no pixel in its image"),
    "a point": ({"__png": IMAGE, "__geojson": POINT}, "Cell 1 of a.geojson is not a polygon"),
    "no JSON": ({"__png": IMAGE, "__geojson": "{"}, "a.geojson is not valid JSON (line 1)"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_data_gets_one_sentence(evaluate: Evaluate, tmp_path: Path, case: str) -> None:
    """Exit code 2, nothing on stdout, one line that says which file and what to do."""
    files, reported = UNUSABLE[case]
    code, out, err = evaluate(write(tmp_path / "data", **files))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reported in err


@pytest.mark.parametrize(
    ("index", "reported"),
    [
        ("", "no column 'stem' or no rows"),
        ("name,kind\na,b\n", "no column 'stem' or no rows"),
        ("stem,kind\na,b\n", "The split of 'a' is unknown"),
        ("stem,kind,split\na,b,train\n", "no image in the split 'validate'"),
        ("stem,kind,split\nb,b,validate\n", "no image b.png"),
        (b"\xff\xfe\x00", "not a table in UTF-8"),
    ],
)
def test_an_unusable_index_gets_one_sentence(
    evaluate: Evaluate, tmp_path: Path, index: str | bytes, reported: str
) -> None:
    """An index that cannot be read, has no such split, or names what is not there."""
    folder = write(tmp_path / "data", __png=IMAGE, _labels__png=LABELS)
    write(folder, "index", __csv=index)
    code, _, err = evaluate(folder)
    assert code == 2
    assert reported in err


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (["--split", "holdout"], "holdout"),
        (["--split", "validate"], "has no index.csv and so no splits"),
        (["--mpp", "0"], "mpp"),
        (["--class", "1"], "not value=name"),
        (["--threshold", "toy-segmenter=7"], "thresholds"),
        (["--pipeline", "none"], "no pipeline 'none'"),
        (["--data", "nowhere"], "no folder nowhere"),
    ],
)
def test_wrong_calls_get_one_sentence(evaluate: Evaluate, tmp_path: Path, more: list[str], reported: str) -> None:
    """Exit code 2 and what to do."""
    code, out, err = evaluate(write(tmp_path / "data", __png=IMAGE, _labels__png=LABELS), *more)
    assert (code, out) == (2, "")
    assert reported in err


OPTIONS = {
    "--split": ("validate", ("cells", "areas")),
    "--channels": ("nuclear=0", ("cells",)),
    "--kind": ("stained", ("cells",)),
    "--threshold": ("toy-mask=0.5", ("cells", "areas")),
    "--class": ("1=Red", ("cells",)),
    "--mask-above": ("0", ("patches",)),
    "--mask-class": ("Tumour", ("patches",)),
}
KINDS = {"toy": "cells", "toy-areas": "areas", "toy-patches": "patches"}


@pytest.fixture(scope="module")
def kinds(toy: ToyPipeline) -> None:
    """Pipelines of the other kinds beside the toy pipeline of cells."""
    toy_kinds.write_models(toy.models_dir)
    toy_kinds.write_pipelines(toy.pipelines_dir, toy_kinds.AREAS, toy_kinds.PATCHES)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("pipeline", "option"),
    [
        (name, option)
        for name, kind in KINDS.items()
        for option, (_, takers) in OPTIONS.items()
        if kind not in takers
    ],
)
def test_an_option_of_another_kind_is_rejected(
    evaluate: Evaluate, tmp_path: Path, pipeline: str, option: str
) -> None:
    """It would change nothing; the kinds that take it are named."""
    value, takers = OPTIONS[option]
    code, out, err = evaluate(tmp_path, "--pipeline", pipeline, option, value)
    assert (code, out) == (2, "")
    expected = f"{option} is for pipelines of {' and '.join(takers)}, and '{pipeline}' is one of {KINDS[pipeline]}"
    assert expected in err


@pytest.mark.usefixtures("kinds")
def test_an_option_of_its_kind_is_taken(evaluate: Evaluate, tmp_path: Path) -> None:
    """What is rejected then is the folder, which is empty."""
    for pipeline, kind in KINDS.items():
        more = [text for option, (value, takers) in OPTIONS.items() if kind in takers for text in (option, value)]
        code, _, err = evaluate(tmp_path, "--pipeline", pipeline, *more)
        assert code == 2
        assert str(tmp_path) in err


@pytest.fixture
def drawn(evaluate: Evaluate, tmp_path: Path) -> Callable[[Path], tuple[int, str, str]]:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    folder = write(tmp_path / "data", __png=IMAGE, _labels__png=LABELS)
    return lambda out: evaluate(folder, "--json", "--out", str(out))


def test_out_holds_figures_rows_and_plots(drawn: Callable[[Path], tuple[int, str, str]], tmp_path: Path) -> None:
    """The JSON that was printed, a row per image, and three pictures."""
    code, reported, _ = drawn(tmp_path / "out")
    out = tmp_path / "out"
    assert code == 0
    assert (out / "accuracy.json").read_text(encoding="utf-8") == reported
    assert (out / "images.csv").read_text(encoding="utf-8").splitlines()[1].startswith("a,,")
    for name in ("ap_over_iou.png", "ap50_by_image.png", "worst.png"):
        assert np.asarray(cv2.imread(str(out / name))).std() > 0
    assert len(list(out.iterdir())) == 5


def test_a_full_disk_leaves_what_was_there(drawn: Callable[[Path], tuple[int, str, str]], tmp_path: Path) -> None:
    """The figures are printed, the old file stays whole, nothing half-written is left, exit code 1."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    out = tmp_path / "out"
    out.mkdir()
    (out / "accuracy.json").write_text("before", encoding="utf-8")
    (out / f".worst.png.partial-{os.getpid()}").symlink_to(full)
    code, reported, err = drawn(out)
    assert code == 1
    assert json.loads(reported)["images"] == 1
    assert "cannot be written" in err
    assert "No space left" in err
    assert [path.name for path in out.iterdir()] == ["accuracy.json"]
    assert (out / "accuracy.json").read_text(encoding="utf-8") == "before"
