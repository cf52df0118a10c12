"""Training of the fluorescence networks: targets that the heads decode back, weights of nuclei-unet, packaging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError
from slidecascade_convert.sessions import open_session
from slidecascade_evaluation.scores import tally_of
from slidecascade_render.fluorescence.masks import MaskOptions, draw_masks
from slidecascade_training.fluorescence import folds
from slidecascade_training.fluorescence.crops import CropDraw, Specimen
from slidecascade_training.fluorescence.network import RAYS, FluorescenceNetwork, Served, network_from_nuclei
from slidecascade_training.fluorescence.package import served_graph
from slidecascade_training.fluorescence.recipe import FluorescenceSettings, train, trained
from slidecascade_training.fluorescence.targets import flow_targets, ray_targets
from slidecascade_training.fluorescence.thresholds import GRIDS, HEADS, Predicted, decoded
from slidecascade_training.nuclei.targets import target_planes
from slidecascade_training.timelimit import TimeLimit

NUCLEI = Path(__file__).parents[2] / "models" / "nuclei-unet" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int32]:
    options = MaskOptions(cells=25, diameter_px=26, elongation=1.5, touching=0.4, overlap=0.05)
    return draw_masks(options, 192, 208, np.random.default_rng(0))


@pytest.fixture(scope="module")
def network() -> FluorescenceNetwork:
    return network_from_nuclei(NUCLEI, seed=0).eval()


def perfect(labels: NDArray[np.int32], head: str) -> dict[str, NDArray[np.float32] | NDArray[np.uint8]]:
    """What a network that has learned its targets returns."""
    planes = target_planes(labels)
    if head == "unet":
        return {"maps": np.ascontiguousarray(planes[..., :2])}
    if head == "flows":
        flows = 5 * flow_targets(labels)
        logit = np.where(labels > 0, 8.0, -8.0)
        return {"flows": np.stack([flows[..., 1], flows[..., 0], logit]).astype(np.float32)}
    depth = (planes[::2, ::2, 1:2] / np.float32(255)).astype(np.float32)
    return {"prob": depth, "dist": ray_targets(labels)[0]}


@pytest.mark.parametrize("head", ["stardist", "flows", "unet"])
def test_heads_decode_the_targets_they_are_trained_on(head: str, labels: NDArray[np.int32]) -> None:
    """The objects come back, so targets have the heads' units and directions."""
    options = HEADS[head].options(**GRIDS[head][-1])
    found = decoded(Predicted(perfect(labels, head), labels), HEADS[head], options)
    inner = np.isin(
        labels, np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])), invert=True
    )
    whole = np.where(inner, labels, 0).astype(np.int32)
    kept = np.where(np.isin(found, np.unique(found[inner])), found, 0).astype(np.int32)
    assert tally_of(whole, kept).figures.recall >= 0.9


def test_rays_end_at_the_edge_of_their_object() -> None:
    """In a disc all are as long as the radius; those that leave the image are not known."""
    disc = np.zeros((64, 64), np.int32)
    cv2.circle(disc, (32, 32), 14, 7, -1)
    distances, known = ray_targets(disc)
    assert distances.shape == (32, 32, RAYS)
    # The disc's edge is one of pixels.
    assert np.abs(distances[16, 16] - 14).max() < 0.8
    assert known[16, 16].all()
    assert not known[0, 0].any()
    assert not ray_targets(np.ones((16, 16), np.int32))[1].any()


def test_grey_images_have_the_maps_of_nuclei_unet(network: FluorescenceNetwork) -> None:
    """The three equal colours are one channel: not a grey level differs."""
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 80, 1), np.uint8)
    image = cv2.GaussianBlur(image[0, :, :, 0], (0, 0), 3)[None, :, :, None]
    session = open_session(onnx.load(NUCLEI))
    wanted = session.run(None, {"image": np.repeat(image, 3, axis=3)})[0]
    with torch.no_grad():
        found = Served(network, "unet")(torch.from_numpy(image.astype(np.float32) / 255))[0].numpy()
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 1


@pytest.mark.parametrize("head", ["stardist", "flows", "unet"])
def test_graphs_return_what_their_head_needs(head: str, network: FluorescenceNetwork) -> None:
    """Names, types and strides, for an image of another size than the export's; half the bytes of its weights."""
    graph = served_graph(network, head)
    assert len(graph.content) < 3 * 2**20
    outputs = open_session(onnx.load_model_from_string(graph.content)).run(
        None, {"image": np.zeros((2, 40, 56, 1), np.float32)}
    )
    wanted = HEADS[head].outputs_with(("Nucleus",), HEADS[head].options(**GRIDS[head][0]))
    for array, spec in zip(outputs, wanted, strict=True):
        free = {"batch": 2, "height": 40 // spec.stride, "width": 56 // spec.stride}
        shape = [free[size] if isinstance(size, str) else size for size in spec.shape]
        assert (list(array.shape), array.dtype) == (shape, spec.numpy_dtype)


def test_an_interrupted_run_resumes_and_other_settings_are_rejected(
    tmp_path: Path, labels: NDArray[np.int32]
) -> None:
    """Crops are functions of seed and step; a finished run does no more steps."""
    pool = [Specimen.of((labels > 0).astype(np.float32), labels)]
    draw = CropDraw(pool, [1.0], 2, 3)
    assert np.array_equal(draw(4).images, draw(4).images)
    settings = FluorescenceSettings(seed=0, steps=2, batch=1, synthesized=1)
    train(pool, NUCLEI, tmp_path, settings, TimeLimit(0.0, clock=lambda: 0.0))
    assert trained(tmp_path)[2] == 1
    train(pool, NUCLEI, tmp_path, settings)
    _, stored, step = trained(tmp_path)
    assert (stored, step) == (settings, 2)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    train(pool, NUCLEI, tmp_path, settings)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    with pytest.raises(InvalidRequestError, match="other settings"):
        train(pool, NUCLEI, tmp_path, FluorescenceSettings(seed=1, steps=2, batch=1, synthesized=1))


def test_a_source_left_out_is_measured_and_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sources by size: images of the one that is left out never reach the training."""
    data = tmp_path / "data"
    seen: list[int] = []
    data.mkdir()
    rows = ["stem,kind,width_px,height_px"]
    for number, side in enumerate([64] * 14 + [96] * 14):
        stem = f"0001{number:04x}"
        labels = np.zeros((side, side), np.uint16)
        labels[10:30, 12:30] = 1
        cv2.imwrite(str(data / f"{stem}.png"), np.repeat((labels * 200).astype(np.uint8)[..., None], 3, axis=2))
        cv2.imwrite(str(data / f"{stem}_labels.png"), labels)
        rows.append(f"{stem},fluorescence,{side},{side}")
    (data / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def trained_on(real: list[Specimen], nuclei: Path, out: Path, settings: FluorescenceSettings) -> Any:  # noqa: ARG001 - of `train`
        seen.extend(item.labels.shape[0] for item in real)
        return network_from_nuclei(nuclei, settings.seed)

    monkeypatch.setattr(folds, "train", trained_on)
    command = ["--data", str(data), "--nuclei", str(NUCLEI), "--out", str(tmp_path / "runs"), "--heads", "unet"]
    assert folds.main([*command, "--leave-out", "fluorescence-64x64"]) == 0
    assert set(seen) == {96}
    (figure,) = json.loads((tmp_path / "runs" / "folds.json").read_text(encoding="utf-8"))
    assert (figure["source"], figure["head"], figure["images"]) == ("fluorescence-64x64", "unet", 14)
    assert "fluorescence-64x64" in capsys.readouterr().out
    with pytest.raises(InvalidRequestError, match="fluorescence-96x96"):
        folds.main([*command, "--leave-out", "none"])
