"""A conversion ends with a picture of what the package finds beside its source, and a sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import toy_onnx
from slidecascade.cli import main
from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade.heads.table import outputs_of
from slidecascade_convert import picture, tiles
from slidecascade_convert.libraries import trial as library_trial
from slidecascade_convert.libraries.network import LibraryNetwork, channel_image
from slidecascade_convert.outcome import TRIED_FILE
from slidecascade_convert.trial import GIVEN, Subject, Trial
from slidecascade_render.liver.slides import write_slide
from slidecascade_render.liver.tissue import TissueOptions

PALE = (230, 190, 210)


def dark_network(folder: Path, *, threshold: float = 0.3) -> Path:
    """An ONNX file whose foreground is what is darker than `threshold`; pixels of 0 to 1."""
    weight = np.full((1, 3, 3, 3), -40 / 27, np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["logits"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logits"], ["maps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dark",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, "h", "w_"])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 1, "h", "w_"])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([40 * threshold], np.float32), "b"),
        ],
    )
    path = folder / "dark.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def discs(side_px: int = 256) -> NDArray[np.uint8]:
    image = np.full((side_px, side_px, 3), PALE, np.uint8)
    for x, y in ((60, 60), (180, 90), (100, 190)):
        cv2.circle(image, (x, y), 14, (40, 20, 60), -1)
    return image


def segment(folder: Path, source: Path, *more: str) -> list[str]:
    return [
        "convert", str(source), "--name", "toy", "--task", "segment", "--head", "semantic", "--scale", "1/255",
        "--mpp", "0.5", "--out", str(folder / "models"), *more,
    ]  # fmt: skip


def test_the_outlines_of_package_and_source_are_shown_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three discs of the caller's own image are outlined in yellow in both columns."""
    Image.fromarray(discs()).save(tmp_path / "own.png")
    assert main(segment(tmp_path, dark_network(tmp_path), "--try", str(tmp_path / "own.png"))) == 0

    said = capsys.readouterr().out
    page = tmp_path / "models" / "toy" / "1" / "tryout.png"
    assert (
        "3 objects of the class Nucleus were found in 1 tile; the source network gives the same outlines.\n"
        in said
    )
    assert f"the picture is {page}" in said
    pixels = np.asarray(Image.open(page).convert("RGB"), np.int64)
    panels = [pixels[80:, left : left + 384] for left in (28, 28 + 398, 28 + 2 * 398)]
    yellow = [int((panel == picture.OUTLINE).all(axis=2)[:460].sum()) for panel in panels]
    assert yellow[0] == 0
    assert yellow[1] == yellow[2] > 3 * 60


def test_rendered_tissue_is_tried_when_no_image_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four tiles with stained nuclei, which a network for dark pixels finds."""
    assert main(segment(tmp_path, dark_network(tmp_path, threshold=0.5))) == 0
    said = capsys.readouterr().out
    assert "objects of the class Nucleus were found in 4 tiles" in said


def test_a_network_for_coarse_pixels_converts_without_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that reads at 8 um per pixel, as those for glomeruli do, is compared on the coarsest rendered tissue."""
    assert main([*segment(tmp_path, dark_network(tmp_path)), "--mpp", "8"]) == 0
    assert "in 4 tiles" in capsys.readouterr().out


def test_nothing_found_is_said_with_what_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that is given pixels of the wrong scale finds nothing, and the package is written all the same."""
    Image.fromarray(np.full((300, 300, 3), PALE, np.uint8)).save(tmp_path / "own.png")
    assert main(segment(tmp_path, dark_network(tmp_path), "--try", str(tmp_path / "own.png"))) == 0
    said = capsys.readouterr().out
    assert "Nothing was found in 1 tile (the image of --try): check --scale, --mean" in said
    assert (tmp_path / "models" / "toy" / "model.yaml").is_file()


def test_a_classifier_shows_tiles_with_the_classes_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve tiles of rendered tissue, the sum of the classes is twelve, and probabilities are compared."""
    source = toy_onnx.save(tmp_path, toy_onnx.classifier())
    code = main([
        "convert", str(source), "--name", "toy", "--task", "classify", "--head", "softmax", "--classes", "a,b,c",
        "--scale", "1/255", "--out", str(tmp_path / "models"),
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0
    assert "12 tiles were classified: " in said
    assert "the source network gives the same classes, with " in said
    with Image.open(tmp_path / "models" / "toy" / "1" / "tryout.png") as page:
        assert page.width > 4 * 236
        assert page.height > 3 * 236


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("no.png", "no.png given to --try does not exist"),
        ("text.png", "is not a PNG, JPEG, TIFF or WebP file"),
        ("small.png", "20 x 20 px at 0.5 um per pixel: give one of 32 px or more"),
    ],
)
def test_an_image_that_cannot_be_tried_is_refused_before_the_conversion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reported: str
) -> None:
    """One sentence, exit code 2, and no package."""
    (tmp_path / "text.png").write_text("not an image", encoding="utf-8")
    Image.fromarray(discs(20)).save(tmp_path / "small.png")
    assert main(segment(tmp_path, dark_network(tmp_path), "--try", str(tmp_path / name))) == 2
    said = capsys.readouterr().err
    assert reported in said
    assert said.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_an_image_is_read_at_the_pixel_size_of_the_network(tmp_path: Path) -> None:
    """A slide that states 0.25 um is halved for a network at 0.5; an image that states none is taken as it is."""
    stated, bare = tmp_path / "stated.tif", tmp_path / "bare.png"
    write_slide(stated, TissueOptions(seed=5, mpp=0.25), 512, 512)
    Image.fromarray(discs()).save(bare)
    assert picture.read(stated, mpp=0.5).shape == (256, 256, 3)
    np.testing.assert_array_equal(picture.read(bare, mpp=0.5), discs())
    with pytest.raises(InvalidRequestError, match="16 x 16 px"):
        picture.read(stated, mpp=8.0)


def bright_network() -> tuple[LibraryNetwork, onnx.ModelProto]:
    """As a library's: one nuclear channel of 0 to 1, whose foreground is the channel itself; and its graph."""
    image = channel_image(("nuclear",), layout="NHWC", multiple_of=1)
    outputs = outputs_of("semantic", ("Nucleus",))
    nodes = [
        helper.make_node("Mul", ["image", "255"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["maps"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "h", "w", 1])],
        [helper.make_tensor_value_info("maps", TensorProto.UINT8, ["n", "h", "w", 1])],
        [numpy_helper.from_array(np.array(255, np.float32), "255")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = LibraryNetwork(
        title="toy", head="semantic", image=image, outputs=outputs, options={}, mpp=0.5, versions={},
        predict=lambda given: {"maps": (255 * given).astype(np.uint8)},
        export=lambda: model,
    )  # fmt: skip
    return network, model


def test_a_librarys_network_is_tried_on_synthesized_nuclei() -> None:
    """It finds most of them, as its source does."""
    found = library_trial.run(*bright_network())
    assert found.tiles.shape == (4, 256, 256, 3)
    assert found.served.max(axis=(1, 2)).min() >= 5
    np.testing.assert_array_equal(found.source, found.served)
    said = picture.sentence(found, subject())
    assert "the source network gives the same outlines" in said


def subject(task: str = "segment") -> Subject:
    classes = ("Nucleus",) if task == "segment" else ("a", "b")
    return Subject(name="toy", task=task, mpp=0.25, classes=classes, check="give an image")  # type: ignore[arg-type]


def labels(*boxes: tuple[int, int]) -> NDArray[np.int32]:
    image = np.zeros((1, 64, 64), np.int32)
    for index, (x, y) in enumerate(boxes):
        image[0, y : y + 10, x : x + 10] = index + 1
    return image


def test_differences_from_the_source_are_said() -> None:
    """Fewer objects, and the same ones with other pixels."""
    image, both = np.zeros((1, 64, 64, 3), np.uint8), labels((0, 0), (30, 30))
    lost = picture.sentence(Trial(image, GIVEN, both, labels((0, 0))), subject())
    assert "1 object of the class Nucleus was found in 1 tile; the source network finds 2, of which 1" in lost
    moved = picture.sentence(Trial(image, GIVEN, both, labels((1, 0), (30, 30))), subject())
    assert "finds the same objects; pixels that differ: 20 of 4,096" in moved
    none = picture.sentence(Trial(image, GIVEN, both, labels()), subject())
    assert "although the source network finds 2 objects" in none


def test_one_probability_for_all_tiles_is_said() -> None:
    """A classifier that sees no difference between tiles has not recognised anything."""
    images, same = np.zeros((3, 8, 8, 3), np.uint8), np.full((3, 2), 0.5, np.float32)
    assert "All tiles have the same probabilities" in picture.sentence(
        Trial(images, GIVEN, same, same), subject("classify")
    )


def test_what_a_hostile_source_left_is_not_trusted(tmp_path: Path) -> None:
    """Objects that need unpickling, and arrays of other shapes or types, are refused."""
    image, found = np.zeros((1, 64, 64, 3), np.uint8), labels((0, 0))
    Trial(image, GIVEN, found, found).save(tmp_path)
    assert Trial.load(tmp_path, subject()).origin == GIVEN
    for tampered in (
        Trial(image, GIVEN, found, found[:, :32]),
        Trial(image, GIVEN, found.astype(np.int64), found),
        Trial(image[..., :1], GIVEN, found, found),
        Trial(image[:0], GIVEN, found[:0], found[:0]),
        Trial(image, "elsewhere", found, found),
        Trial(image, GIVEN, np.array([object()]), found),
    ):
        tampered.save(tmp_path)
        with pytest.raises(ConversionError, match="The conversion left"):
            Trial.load(tmp_path, subject())
    (tmp_path / TRIED_FILE).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ConversionError, match="no tiles to show"):
        Trial.load(tmp_path, subject())


def test_the_squares_with_most_contrast_are_shown_in_their_order() -> None:
    """Of nine squares the two with discs, left to right; an image smaller than a square is mirrored on."""
    image = np.full((192, 192, 3), PALE, np.uint8)
    cv2.circle(image, (160, 32), 10, (0, 0, 0), -1)
    cv2.circle(image, (32, 160), 14, (0, 0, 0), -1)
    found = tiles.lively(image, 64, 2)
    np.testing.assert_array_equal(found, np.stack([image[:64, 128:], image[128:, :64]]))
    assert tiles.lively(image[:40, :50], 64, 4).shape == (1, 64, 64, 3)
