"""The bundled pipeline `tumor-heatmap`: over HTTP, by the client and on the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from served_process import Server
from slidecascade import wire
from slidecascade.cli import main
from slidecascade_client import Client
from slidecascade_evaluation.curves import Curve
from slidecascade_render.lymph.node import RenderedNode, render
from slidecascade_render.lymph.specimen import NodeOptions

SIDE, STRIDE, MPP = 1024, 128, 0.25
SHARED = "tumour/camelyon"


@pytest.fixture(scope="module")
def node() -> RenderedNode:
    """Tumour beside lymphocytes."""
    options = NodeOptions(seed=77, mpp=MPP, tumour=0.45, edge=2.0, single_cells=0.0)
    return render(options, x_px=5600, y_px=2200, width_px=SIDE, height_px=SIDE)


@pytest.fixture(scope="module")
def image(node: RenderedNode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("node") / "node.png"
    cv2.imwrite(str(path), node.image[:, :, ::-1])
    return path


def test_the_map_follows_the_tumour(server: Server, node: RenderedNode, image: Path) -> None:
    """Squares that hold tumour are far more probable; the client gives tiles, outlines and figures."""
    with Client(server.url) as client, client.analyze_region(image, pipeline="tumor-heatmap", mpp=MPP) as result:
        grid = np.load(io.BytesIO(result.file("grid.npy")))
        assert len(result.tiles) == grid.size == (SIDE // STRIDE) ** 2
        assert {"figures/tumor.png", "figures/tumor_jet.png", "figures/overlay.png"} <= set(result.files)
        figures = result.summary.patches
    truth = node.tumour.reshape(SIDE // STRIDE, STRIDE, SIDE // STRIDE, STRIDE).any(axis=(1, 3))
    assert 5 < truth.sum() < truth.size - 5
    assert Curve.of(truth.ravel(), grid.ravel()).roc_auc > 0.9
    assert figures is not None
    assert figures.classes["Tumour"].area_mm2 == pytest.approx((grid >= 0.5).sum() * 0.032**2, abs=1e-6)


def test_a_figure_is_one_request_away(server: Server, image: Path) -> None:
    """In jet over the tissue."""
    answer = httpx.post(
        f"{server.url}/v1/regions?style=figure&colormap=jet",
        files={
            "request": (None, json.dumps({"pipeline": "tumor-heatmap", "mpp": MPP})),
            "image": image.read_bytes(),
        },
        headers={"Accept": wire.PNG},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[1] > SIDE


def test_real_tissue_is_mapped(shared_data: Path, tmp_path: Path) -> None:
    """Glass and fat of CAMELYON16 are negative. No figure of accuracy: there are no labels."""
    for name in ("cam16_06", "cam16_13"):
        source = str(shared_data / SHARED / f"{name}.png")
        out = tmp_path / name
        assert main(["analyze", source, "--pipeline", "tumor-heatmap", "--mpp", "0.25", "--out", str(out)]) == 0
        assert json.loads((out / "summary.json").read_text())["counts"] == {"Tumour": 0}
