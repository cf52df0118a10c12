"""Training of the image translator: resuming, drawing, packaging; by the command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from slidecascade.cli import main
from slidecascade.errors import InvalidRequestError
from slidecascade.models.masks import mask_planes
from slidecascade.models.repository import load_package
from slidecascade_render.fluorescence.networks import Translator
from slidecascade_training.translator.package import served_graph
from slidecascade_training.translator.recipe import Pair, TranslatorSettings, draw, train, trained


def pairs(count: int = 2) -> list[Pair]:
    """Squares on black, brighter in the middle; smaller than a crop and larger."""
    found = []
    for side in (70, 130)[:count]:
        labels = np.zeros((side, side + 10), np.int32)
        labels[10:30, 12:32], labels[10:30, 32:50], labels[45:60, 20:44] = 1, 2, 3
        found.append(Pair(labels, cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 2) * 0.8))
    return found


def test_crops_depend_on_the_step_alone_and_keep_masks_and_images_together() -> None:
    masks, images = draw(pairs(), 4, seed=1, step=3)
    assert (masks.shape, images.shape) == ((4, 2, 96, 96), (4, 1, 96, 96))
    assert all(
        np.array_equal(*each) for each in zip((masks, images), draw(pairs(), 4, seed=1, step=3), strict=True)
    )
    assert np.corrcoef(masks[:, 0].ravel(), images[:, 0].ravel())[0, 1] > 0.8


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights from the checkpoint on; other settings are rejected."""
    monkeypatch.setattr("slidecascade_training.translator.recipe._CHECKPOINT_STEPS", 2)
    settings = TranslatorSettings(steps=4, batch=1)
    whole = train(pairs(), tmp_path / "whole", settings)
    stopped = iter([True, True, False])

    def interrupt(*arguments: object) -> float:
        if not next(stopped):
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    from slidecascade_training.translator import recipe

    step = recipe._step
    with monkeypatch.context() as patched:
        patched.setattr(recipe, "_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(pairs(), tmp_path / "parts", settings)
    assert trained(tmp_path / "parts")[2] == 2
    resumed = train(pairs(), tmp_path / "parts", settings)
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidRequestError, match="other settings"):
        train(pairs(), tmp_path / "parts", TranslatorSettings(steps=5, batch=1))


def test_training_learns_to_draw_objects(tmp_path: Path) -> None:
    """After a few steps objects are brighter than background, at any size that the graph is asked for."""
    network = train(pairs(), tmp_path / "run", TranslatorSettings(steps=30, batch=2))
    labels = pairs()[1].labels
    graph, difference = served_graph(network)
    assert difference < 1e-4
    (tmp_path / "model.onnx").write_bytes(graph.content)
    image = Translator.open(tmp_path / "model.onnx", multiple_of=4).image(labels)[..., 0]
    assert image.shape == labels.shape
    assert image[labels > 0].mean() > image[labels == 0].mean() + 0.1


def test_the_command_trains_and_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder of the DSB set to a package below 8 MB, whose card says on what it was measured."""
    data, rows = tmp_path / "data", ["stem,kind"]
    data.mkdir()
    for pair, stem in zip(pairs(), ("0001a1b1", "0000a1b1"), strict=True):  # training, validation
        cv2.imwrite(
            str(data / f"{stem}.png"), np.repeat((255 * pair.image).astype(np.uint8)[..., None], 3, axis=2)
        )
        cv2.imwrite(str(data / f"{stem}_labels.png"), pair.labels.astype(np.uint16))
        rows.append(f"{stem},fluorescence")
    (data / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = ["train", "translator", "--data", str(data), "--out", str(tmp_path / "run"), "--steps", "2"]
    models = tmp_path / "models"
    assert main([*command, "--package", "--name", "drawn", "--models", str(models), "--licence", "CC0-1.0"]) == 0
    assert "step 2 difference" in capsys.readouterr().out
    package = load_package(models / "drawn")
    assert (package.spec.task, package.spec.licence) == ("translate", "CC0-1.0")
    assert set(package.spec.accuracy) == {"difference", "difference_of_own_means"}
    assert package.onnx_path.stat().st_size < 8_000_000
    assert "slidecascade train translator" in (models / "drawn" / "README.md").read_text(encoding="utf-8")
    for wrong, says in ((["--epochs", "3"], "no --epochs"), (["--steps", "0"], "at least 1")):
        assert main([*command, *wrong]) == 2
        assert says in capsys.readouterr().err


def test_edges_lie_where_objects_touch() -> None:
    labels = np.zeros((6, 9), np.int32)
    labels[1:5, 1:4], labels[1:5, 4:8] = 1, 2
    planes = mask_planes(labels, 2, multiple_of=4)
    assert planes.shape == (1, 2, 8, 12)
    assert planes[0, 0, 2, :9].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    assert planes[0, 1, 2, :9].tolist() == [0, 1, 0, 1, 1, 0, 0, 1, 0]
    assert mask_planes(labels, 1).shape == (1, 1, 6, 9)
