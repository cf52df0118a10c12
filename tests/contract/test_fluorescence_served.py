"""Whole cells of two channels, images drawn for masks, and unusable stacks, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper

import toy_models
from served_jobs import problem
from served_process import Server, StartServer
from slidecascade import wire
from slidecascade.cli import main
from slidecascade.errors import ModelPackageError
from slidecascade.heads.mesmer import MESMER, MesmerOptions
from slidecascade.models.repository import load_package
from slidecascade_client import Client, InvalidRequestError
from toy_channels import GREY, tiff, write_pipeline
from toy_translator import TRANSLATOR, saved, tensor, translator, translator_fields

RADIUS_PX, NUCLEUS_PX = 11, 4
CENTRES = [(x, y) for y in (40, 100, 160) for x in (40, 90, 140, 200)]


def whole_cell_network() -> bytes:
    """The nuclear channel is the inner distance, the membrane's the interior."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Split", ["image"], ["nuclear", "membrane"], axis=3, num_outputs=2),
        helper.make_node("Identity", ["nuclear"], ["whole_cell_inner_distance"]),
        helper.make_node("Sub", ["one", "membrane"], ["outside"]),
        helper.make_node("Sub", ["membrane", "membrane"], ["edge"]),
        helper.make_node("Concat", ["edge", "membrane", "outside"], ["whole_cell_pixelwise"], axis=3),
    ]
    outputs = [
        tensor("whole_cell_inner_distance", "N", "H", "W", 1),
        tensor("whole_cell_pixelwise", "N", "H", "W", 3),
    ]
    return saved(nodes, tensor("image", "N", "H", "W", 2), outputs, [one])


def whole_cell_pipeline(folder: Path) -> None:
    options = MesmerOptions(compartment="whole-cell", foreground=0.4, maximum=0.3, min_area_um2=4.0)
    image = {"name": "image", "dtype": "float32", "layout": "NHWC", "shape": ["batch", "height", "width", 2],
             "channels": ["nuclear", "membrane"], "range": [0, 1], "multiple_of": 8}  # fmt: skip
    outputs = [output.model_dump(mode="json") for output in MESMER.outputs_with(("Cell",), options)]
    fields = toy_models.segmenter_fields(
        "whole-net", head="mesmer", inputs=[image], outputs=outputs, halo_px=32, options=options.model_dump(),
        classes=[{"name": "Cell", "color": [0, 158, 115]}], mpp=0.5,
    )  # fmt: skip
    toy_models.write_package(folder / "models", fields, whole_cell_network())
    heatmap = {"name": "density", "title": "Density", "kind": "density", "classes": ["Cell"]}
    pipeline = {"name": "whole", "title": "Whole cells", "description": "Whole cells.", "segmenter": "whole-net",
                "heatmaps": [heatmap]}  # fmt: skip
    (folder / "pipelines").mkdir(exist_ok=True)
    (folder / "pipelines" / "whole.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")


def cells_of_two_channels() -> NDArray[np.uint16]:
    """``(2, 208, 256)``: nuclei, and the cells around them."""
    drawn = np.zeros((2, 208, 256), np.float32)
    for centre in CENTRES:
        cv2.circle(drawn[0], centre, NUCLEUS_PX, 1, -1)
        cv2.circle(drawn[1], centre, RADIUS_PX, 1, -1)
    drawn[0] = cv2.GaussianBlur(drawn[0], (0, 0), 2)
    return (200 + 3000 * drawn).astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fluorescence")
    whole_cell_pipeline(folder)
    write_pipeline(folder, "bright", ["nuclear"])
    toy_models.write_package(folder / "models", translator_fields(), translator())
    return folder


@pytest.fixture(scope="module")
def served(folder: Path, start_server: StartServer) -> Server:
    return start_server(models=folder / "models", pipelines_dir=folder / "pipelines", threads=2)


def ask(served: Server, image: bytes, **fields: Any) -> httpx.Response:
    """The summary of a stack sent as an image."""
    request = {"pipeline": "bright", "mpp": 0.5, "channels": {"nuclear": 0}} | fields
    files: dict[str, Any] = {"request": (None, json.dumps(request)), "image": ("image", image)}
    return httpx.post(f"{served.url}/v1/regions", files=files, headers={"Accept": wire.JSON}, timeout=120)


def test_whole_cells_are_found_by_nuclei_and_membranes(served: Server) -> None:
    """As large as the membrane shows them; the channels are not interchangeable, and both are needed."""
    image = tiff(cells_of_two_channels(), **GREY)
    with Client(served.url) as client:
        found = client.analyze_region(image, pipeline="whole", mpp=0.5, channels={"nuclear": 0, "membrane": 1})
        swapped = client.analyze_region(image, pipeline="whole", mpp=0.5, channels={"nuclear": 1, "membrane": 0})
    assert len(found.cells) == len(CENTRES)
    areas = [cell.area_um2 for cell in found.cells]
    whole_um2 = np.pi * (RADIUS_PX * 0.5) ** 2
    assert all(0.8 * whole_um2 < area < 1.25 * whole_um2 for area in areas), areas
    # By a flat membrane as the distance and small nuclei as the interior, cells are as small as nuclei.
    assert all(cell.area_um2 < 0.6 * whole_um2 for cell in swapped.cells)
    alone = ask(served, image, pipeline="whole", channels={"nuclear": 0})
    assert problem(alone) == (404, "unknown-channel")
    assert "membrane" in alone.json()["detail"]


def labels_of(count: int = 3) -> NDArray[np.uint16]:
    """Touching squares of 10 px with the numbers 1 to `count`, of a size that 16 does not divide."""
    labels = np.zeros((21, 45), np.uint16)
    for index in range(count):
        labels[5:15, 5 + 10 * index : 15 + 10 * index] = index + 1
    return labels


def test_an_image_is_drawn_for_a_mask(served: Server) -> None:
    """From an array as from a file; of the mask's size, in 16 bits, with edges where objects touch."""
    labels = labels_of()
    with Client(served.url) as client:
        by_array = client.translate(labels, model=TRANSLATOR)
        by_file = client.translate(cv2.imencode(".png", labels)[1].tobytes(), model=TRANSLATOR)
        assert client.model(TRANSLATOR).task == "translate"
        with pytest.raises(InvalidRequestError, match="translate"):
            client.translate(labels, model="bright-net")
        with pytest.raises(ValueError, match="at most 65535 objects"):
            client.translate(np.arange(70_000, dtype=np.uint32).reshape(100, 700), model=TRANSLATOR)  # type: ignore[arg-type]
    assert by_array == by_file
    image = np.asarray(cv2.imdecode(np.frombuffer(by_array, np.uint8), cv2.IMREAD_UNCHANGED))
    assert image.dtype == np.uint16
    assert image.shape == labels.shape
    assert np.unique(np.round(image[labels > 0] / 65535, 2)).tolist() == [0.25, 0.75]
    assert image[10, 14] == image[10, 15] < image[10, 10]
    assert not image[labels == 0].any()


def test_a_translator_runs_on_tensors(served: Server) -> None:
    mask = {"name": "mask", "datatype": "FP32", "shape": [1, 2, 16, 16], "data": [1.0] * 512}
    answer = httpx.post(f"{served.url}/v2/models/{TRANSLATOR}/infer", json={"inputs": [mask]}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [0.25] * 256


@pytest.mark.parametrize(
    ("model", "kind", "body", "expected"),
    [
        ("nothing", "image/png", b"", (404, "unknown-model")),
        ("bright-net", "image/png", b"", (422, "invalid-request")),
        (TRANSLATOR, "image/jpeg", b"", (415, "unsupported-media-type")),
        (TRANSLATOR, "image/png", b"", (422, "undecodable-image")),
        (TRANSLATOR, "image/png", b"\x89PNG\r\n", (422, "undecodable-image")),
        (TRANSLATOR, "image/png", cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(),
         (422, "undecodable-image")),
        (TRANSLATOR, "image/png", cv2.imencode(".png", labels_of())[1].tobytes()[:-40],
         (422, "undecodable-image")),
        (None, "image/png", b"", (422, "invalid-request")),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said_in_a_sentence(
    served: Server, model: str | None, kind: str, body: bytes, expected: tuple[int, str]
) -> None:
    query = {} if model is None else {"model": model}
    answer = httpx.post(
        f"{served.url}/v1/translate", params=query, content=body, headers={"Content-Type": kind}, timeout=60
    )
    assert problem(answer) == expected


COUNTS = np.random.default_rng(0).integers(100, 900, (2, 64, 64)).astype(np.uint16)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (tiff(np.full((2, 64, 64), np.nan, np.float32), **GREY), "NaN and negative values"),
        (tiff(np.full((2, 64, 64), np.inf, np.float32), **GREY), "NaN and negative values"),
        (tiff(np.zeros((40, 64, 64), np.uint16), **GREY), "40 channels, at most 8"),
        (tiff(COUNTS, imagej=True, metadata={"axes": "TYX"}), "points in time: send one"),
    ],
)
def test_an_unusable_stack_is_rejected_in_a_sentence(served: Server, image: bytes, says: str) -> None:
    answer = ask(served, image)
    assert problem(answer) == (422, "undecodable-image")
    assert says in answer.json()["detail"]


def test_two_images_of_other_sizes_in_a_file_are_rejected(served: Server, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(COUNTS[0], photometric="minisblack")
        file.write(COUNTS[1][:40, :50], photometric="minisblack")
    answer = ask(served, (tmp_path / "two.tif").read_bytes())
    assert problem(answer) == (422, "undecodable-image")
    assert "differ in size" in answer.json()["detail"]


@pytest.mark.parametrize("value", [0, 65535])
def test_a_channel_of_one_value_has_no_cells(served: Server, value: int) -> None:
    """All zero, or saturated: an answer without cells."""
    answer = ask(served, tiff(np.full((2, 64, 64), value, np.uint16), **GREY))
    assert answer.status_code == 200, answer.text
    assert sum(answer.json()["counts"].values()) == 0


def test_synthesize_draws_by_an_installed_translator(folder: Path, tmp_path: Path) -> None:
    """By its name, of any size; an unknown name is reported with those there are."""
    made = ["synthesize", "--out", str(tmp_path / "made"), "--images", "1", "--width", "90", "--height", "70"]
    options = ["--cells", "4", "--models", str(folder / "models"), "--translator"]
    assert main([*made, *options, TRANSLATOR]) == 0
    image, labels = (tifffile.imread(next((tmp_path / "made").glob(f"*{end}.tif"))) for end in ("00", "_labels"))
    assert image.shape == labels.shape == (70, 90)
    assert np.unique(image).tolist() == [0, 16384, 49151]
    assert ((image > 0) == (labels > 0)).all()
    assert main([*made[:2], str(tmp_path / "none"), *made[3:], *options, "nothing"]) == 2
    assert not (tmp_path / "none").exists()


def test_the_bundled_translator_draws_bright_nuclei_on_a_dark_ground(tmp_path: Path) -> None:
    """By its name, without a folder of models; the same seed gives the same picture."""
    for name in ("one", "two"):
        made = ["synthesize", "--out", str(tmp_path / name), "--images", "1", "--width", "200", "--height", "200"]
        assert main([*made, "--cells", "12", "--translator", "nuclei-translator"]) == 0
    image, labels = (tifffile.imread(next((tmp_path / "one").glob(f"*{end}.tif"))) for end in ("00", "_labels"))
    again = tifffile.imread(next((tmp_path / "two").glob("*00.tif")))
    assert np.array_equal(image, again)
    assert image[labels > 0].mean() > 8 * image[labels == 0].mean()


def test_a_translator_is_verified_and_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the commands for models; it makes no pipeline of its own."""
    assert main(["models", "verify", TRANSLATOR, "--models", str(folder / "models")]) == 0
    assert "it draws an image" in capsys.readouterr().out
    assert main(["models", "list", "--models", str(folder / "models")]) == 0
    assert "translate" in capsys.readouterr().out


MASK, IMAGE = translator_fields()["inputs"][0], translator_fields()["outputs"][0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"inputs": [MASK | {"channels": ["edges", "foreground"]}]},
            "foreground, edges",
        ),
        ({"outputs": [IMAGE | {"shape": ["batch", 2, "height", "width"]}]}, "1 or 3"),
        ({"outputs": [IMAGE | {"dtype": "uint8"}]}, "one float32 NCHW image"),
        ({"inputs": [MASK | {"dtype": "uint8", "range": [0, 255]}]}, "float32 NCHW mask"),
    ],
)
def test_a_translator_of_other_tensors_is_rejected(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    toy_models.write_package(tmp_path, translator_fields() | changes, translator())
    with pytest.raises(ModelPackageError, match=says):
        load_package(tmp_path / TRANSLATOR)
