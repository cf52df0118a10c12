"""Networks that take one channel, one size or one image at a time are served all the same, and that is stated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

import tensorflow as tf
import torch

from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade_convert.outcome import GRAPH_FILE, Outcome
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.worker import convert as convert_here

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow and its exporter warn about their own code

RNG = np.random.default_rng(8)
SCALED = Normalisation.scaled(1 / 255)


def convert(folder: Path, source: Path, **fields: Any) -> tuple[Outcome, Any]:
    """Outcome and session of the served graph."""
    defaults = {"task": "segment", "head": "semantic", "classes": ("Nucleus",), "normalisation": SCALED}
    request = ConversionRequest(source=source, name="toy", out=folder / "models", **{**defaults, **fields})
    scratch = folder / "scratch"
    scratch.mkdir()
    outcome = convert_here(request, scratch, network_was_reachable=True)
    return outcome, onnxruntime.InferenceSession(scratch / GRAPH_FILE, providers=["CPUExecutionProvider"])


def served(session: Any, images: NDArray[np.uint8]) -> NDArray[Any]:
    answer: NDArray[Any] = session.run(None, {"image": images})[0]
    return answer


def picture(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Structures larger than a pixel, so that a margin matters."""
    small = RNG.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3), np.uint8)
    large = [cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in small]
    return np.stack(large)


def segmenter(*, channels: int, size: tuple[Any, Any], batch: Any = "n", layout: str = "NCHW") -> onnx.ModelProto:
    """Two 3 x 3 convolutions with a pooling and an upsampling between them: what is around a pixel counts."""
    shape = [batch, channels, *size] if layout == "NCHW" else [batch, *size, channels]
    out = [batch, 1, *size] if layout == "NCHW" else [batch, *size, 1]
    rng = np.random.default_rng(3)
    constants = {
        "first": rng.normal(0, 0.5, (4, channels, 3, 3)).astype(np.float32),
        "second": rng.normal(0, 0.5, (1, 4, 3, 3)).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [helper.make_node("Transpose", ["pixels"], ["in"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    nodes += [
        helper.make_node("Conv", ["in" if nodes else "pixels", "first"], ["a"], pads=[1] * 4),
        helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["b", "", "scales"], ["c"], mode="nearest"),
        helper.make_node("Conv", ["c", "second"], ["d"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["d"], ["maps" if layout == "NCHW" else "e"]),
    ]
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["e"], ["maps"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", 1, shape)],
        [helper.make_tensor_value_info("maps", 1, out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def original(model: onnx.ModelProto, pixels: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: NDArray[Any] = session.run(None, {"pixels": pixels})[0]
    return answer


def grey(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As OpenCV makes it, ``(N, H, W, 1)``, 0 to 1."""
    levels = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in images])
    return levels[..., None].astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_segmenter_of_one_channel_is_given_grey(tmp_path: Path, layout: str) -> None:
    """The graph makes grey of RGB as OpenCV does, and the report states how."""
    model = segmenter(channels=1, size=("h", "w"), layout=layout)
    (tmp_path / "grey.onnx").write_bytes(model.SerializeToString())
    outcome, session = convert(tmp_path, tmp_path / "grey.onnx")
    images = picture(2, 64, 96)
    pixels = grey(images) if layout == "NHWC" else grey(images).transpose(0, 3, 1, 2)
    expected = original(model, pixels)
    expected = expected if layout == "NHWC" else expected.transpose(0, 2, 3, 1)

    # OpenCV's fixed-point arithmetic rounds a few pixels the other way: one grey level, of 255.
    assert np.abs(served(session, images).astype(int) - np.round(255 * expected)).max() <= 2
    assert outcome.parity is not None
    assert any("0.299 red + 0.587 green + 0.114 blue" in note for note in outcome.parity.notes)


def test_grey_takes_one_mean_and_no_order_of_channels(tmp_path: Path) -> None:
    """Three different means, or BGR, contradict one channel."""
    (tmp_path / "grey.onnx").write_bytes(segmenter(channels=1, size=("h", "w")).SerializeToString())
    three = Normalisation.standardised((0.4, 0.5, 0.6), (0.2, 0.2, 0.2), scale=1 / 255)
    wrong: list[dict[str, Any]] = [{"normalisation": three}, {"bgr": True}]
    for number, fields in enumerate(wrong):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(InvalidRequestError, match="one channel, grey"):
            convert(folder, tmp_path / "grey.onnx", **fields)


@pytest.mark.parametrize(("size", "step"), [((64, 64), 32), ((96, 128), 32), ((160, 160), 64), ((512, 512), 256)])
def test_a_segmenter_of_one_size_is_run_on_windows(tmp_path: Path, size: tuple[int, int], step: int) -> None:
    """At any height and width; every pixel is the middle of a window, which an obvious loop finds alike."""
    model = segmenter(channels=3, size=size)
    (tmp_path / "fixed.onnx").write_bytes(model.SerializeToString())
    outcome, session = convert(tmp_path, tmp_path / "fixed.onnx")
    images = picture(2, 3 * step, 2 * step)

    found = served(session, images)

    assert outcome.multiple_of == step
    assert found.shape == (2, 3 * step, 2 * step, 1)
    assert outcome.parity is not None
    assert any(f"{size[1]} x {size[0]} px" in note and f"{step} px apart" in note for note in outcome.parity.notes)
    margins = [(side - step) // 2 for side in size]
    around = np.pad(images, ((0, 0), (margins[0],) * 2, (margins[1],) * 2, (0, 0)), mode="symmetric")
    for y in range(0, 3 * step, step):
        for x in range(0, 2 * step, step):
            window = around[:, y : y + size[0], x : x + size[1]].astype(np.float32) / 255
            maps = original(model, window.transpose(0, 3, 1, 2))[:, 0]
            middle = maps[:, margins[0] : margins[0] + step, margins[1] : margins[1] + step]
            part = found[:, y : y + step, x : x + step, 0].astype(int)
            assert np.abs(part - np.round(255 * middle)).max() <= 1


def test_windows_lie_alike_however_a_slide_is_cut(tmp_path: Path) -> None:
    """A tile that begins at a multiple of the step has the maps of the whole slide, but for its margin."""
    (tmp_path / "fixed.onnx").write_bytes(segmenter(channels=3, size=(64, 64)).SerializeToString())
    _, session = convert(tmp_path, tmp_path / "fixed.onnx")
    whole = picture(1, 256, 320)
    maps = served(session, whole)
    tile = served(session, np.ascontiguousarray(whole[:, 64:224, 96:288]))

    np.testing.assert_array_equal(tile[:, 32:-32, 32:-32], maps[:, 96:192, 128:256])


def test_a_network_too_small_for_windows_is_refused(tmp_path: Path) -> None:
    """Nothing can be put together of windows without a middle."""
    (tmp_path / "tiny.onnx").write_bytes(segmenter(channels=3, size=(24, 24)).SerializeToString())
    with pytest.raises(ConversionError, match="24 x 24 px, too few"):
        convert(tmp_path, tmp_path / "tiny.onnx")


class _Net(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A convolution with weights of its own, in TensorFlow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        rng = np.random.default_rng(2)
        self.kernel = tf.Variable(rng.normal(0, 0.5, (5, 5, channels, 1)).astype(np.float32))

    def answer(self, pixels: Any) -> Any:
        return tf.nn.sigmoid(tf.nn.conv2d(pixels, self.kernel, 1, "SAME"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(None, None), (64, 64)])
def test_a_saved_model_of_one_image_runs_image_by_image(
    tmp_path: Path, channels: int, size: tuple[int | None, int | None]
) -> None:
    """A batch of 1 is frozen in many exports; of one size and one channel besides, too."""
    net = _Net(channels)
    spec = tf.TensorSpec([1, *size, channels], tf.float32)
    function = tf.function(net.answer, input_signature=[spec])
    tf.saved_model.save(net, str(tmp_path / "saved"), signatures=function.get_concrete_function())
    outcome, session = convert(tmp_path, tmp_path / "saved")
    images = picture(3, 64, 64)
    pixels = grey(images) if channels == 1 else images.astype(np.float32) / 255
    expected = np.concatenate([net.answer(tf.constant(each[None])).numpy() for each in pixels])

    found = served(session, images).astype(int)

    middle = slice(16, 48) if size[0] else slice(None)  # of windows, the edge sees a mirror image
    difference = np.abs(found - np.round(255 * expected))[:, middle, middle]
    assert difference.max() <= 2
    assert outcome.parity is not None
    assert any("one image at a time" in note for note in outcome.parity.notes)


def test_a_classifier_of_one_image_runs_image_by_image(tmp_path: Path) -> None:
    """Each image of a batch gets its own answer."""

    class Classifier(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.dense = tf.Variable(np.random.default_rng(1).normal(0, 3, (3, 3)).astype(np.float32))

        def answer(self, pixels: Any) -> Any:
            return tf.nn.softmax(tf.reduce_mean(pixels, axis=[1, 2]) @ self.dense)

    module = Classifier()
    function = tf.function(module.answer, input_signature=[tf.TensorSpec([1, 24, 24, 3], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=function.get_concrete_function())
    _, session = convert(
        tmp_path, tmp_path / "saved", task="classify", head="softmax", classes=("a", "b", "c"), input_px=24
    )
    images = picture(5, 24, 24)
    expected = module.answer(tf.constant(images.astype(np.float32) / 255)).numpy()
    np.testing.assert_allclose(served(session, images), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01


class _Torch(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body = torch.nn.Conv2d(channels, 1, 5, padding=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.body(pixels))


@pytest.mark.parametrize("kind", ["script", "program", "program of one image"])
def test_a_torch_segmenter_of_one_channel_is_given_grey(tmp_path: Path, kind: str) -> None:
    """TorchScript does not state its input: it is found out by trying."""
    net = _Torch(1).eval()
    path = tmp_path / ("net.pt" if kind == "script" else "net.pt2")
    if kind == "script":
        torch.jit.script(net).save(str(path))  # type: ignore[no-untyped-call]  # torch's own
    else:
        dynamic = torch.export.Dim.DYNAMIC
        shapes = {2: dynamic, 3: dynamic} if "one image" in kind else {0: dynamic, 2: dynamic, 3: dynamic}
        example = torch.zeros(1 if "one image" in kind else 2, 1, 64, 96)
        torch.export.save(torch.export.export(net, (example,), dynamic_shapes=(shapes,)), path)
    _, session = convert(tmp_path, path)
    images = picture(2, 64, 64)
    with torch.no_grad():
        expected = net(torch.from_numpy(grey(images).transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert np.abs(served(session, images).astype(int) - np.round(255 * expected)).max() <= 2


def test_a_keras_segmenter_of_one_channel_is_given_grey(tmp_path: Path) -> None:
    """Rebuilt for any size, as one of three channels is."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    image = keras.Input((64, 64, 1))
    model = keras.Model(image, layers.Conv2D(1, 5, padding="same", activation="sigmoid")(image))
    model.save(tmp_path / "grey.keras")
    _, session = convert(tmp_path, tmp_path / "grey.keras")
    images = picture(2, 64, 64)
    expected = model(grey(images), training=False).numpy()
    assert np.abs(served(session, images).astype(int) - np.round(255 * expected)).max() <= 2
    assert served(session, picture(1, 80, 48)).shape == (1, 80, 48, 1)


def test_tiles_without_an_object_prove_nothing(tmp_path: Path) -> None:
    """The report says so in place of a share of none, and the card too."""
    from slidecascade.commands.convert import describe
    from slidecascade_convert.card import card

    model = segmenter(channels=3, size=("h", "w"))
    for tensor in model.graph.initializer:
        if tensor.name in {"first", "second"}:  # positive maps, then far below the sigmoid's middle
            sign, shape = (1, (4, 3, 3, 3)) if tensor.name == "first" else (-1, (1, 4, 3, 3))
            tensor.CopyFrom(numpy_helper.from_array(np.full(shape, sign, np.float32), tensor.name))
    (tmp_path / "blind.onnx").write_bytes(model.SerializeToString())
    outcome, _ = convert(tmp_path, tmp_path / "blind.onnx")
    assert outcome.parity is not None
    assert outcome.parity.agreement.objects == 0
    assert outcome.parity.agreement.object_agreement is None
    report = describe(outcome.parity)
    assert "Objects: none on these tiles" in report
    assert "100" not in report.split("Objects")[1].split("\n")[0]
    request = ConversionRequest(
        source=tmp_path / "blind.onnx", name="toy", out=tmp_path, task="segment", head="semantic", classes=("N",)
    )
    assert "agreement on objects is untested" in card(request, outcome.parity).measured


def test_messages_hold_no_terminal_codes() -> None:
    """PyTorch's exporter writes colours and progress into what it raises."""
    from slidecascade_convert.sessions import first_line

    coloured = RuntimeError(
        "\x1b[96m\r\n\x1b[2K  \x1b[1;31mNo ONNX function\x1b[0m found for \x1b]8;;aten\x07op\n more"
    )
    assert first_line(coloured).startswith("No ONNX function found for")
    assert first_line(coloured).isprintable()
    assert first_line(ValueError("")) == "ValueError"


def test_a_torch_operator_without_export_is_one_plain_sentence(tmp_path: Path) -> None:
    """The real exporter's message, as a user sees it."""

    class Odd(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = torch.linalg.matrix_exp(pixels).sigmoid()
            return answer

    shapes = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Odd(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(shapes,))
    torch.export.save(program, tmp_path / "odd.pt2")
    with pytest.raises(ConversionError) as caught:
        convert(tmp_path, tmp_path / "odd.pt2", channels=(0,))
    assert caught.value.detail.isprintable()
    assert "cannot be exported to ONNX" in caught.value.detail


def test_a_pickled_module_is_called_one_also_without_an_architecture(tmp_path: Path) -> None:
    """It does not hold weights alone; what to save instead is said."""
    torch.save(_Torch(3), tmp_path / "module.pth")
    with pytest.raises(ConversionError) as caught:
        convert(tmp_path, tmp_path / "module.pth")
    assert "pickled" in caught.value.detail
    assert "alone" not in caught.value.detail
    assert "state_dict" in caught.value.detail
