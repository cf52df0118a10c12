"""Keras models become served packages: small random networks, exported, compared, written."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from slidecascade.heads import semantic, unet
from slidecascade.models.repository import load_package
from slidecascade.models.spec import ModelClass, SegmenterSpec
from slidecascade.models.tensors import rgb_image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="the [convert] extra is not installed")

from slidecascade_convert.keras import onnx_from_keras
from slidecascade_convert.package import ServedGraph, write_package
from slidecascade_convert.parity import ParityError, check_parity

SCALE = 1 / 255


@pytest.fixture(scope="module")
def segmenter() -> Any:
    """A two-level U-Net with random weights and dynamic sizes."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    skip = layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    low = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(layers.MaxPooling2D()(skip)))
    up = ops.depth_to_space(layers.Conv2D(24, 1)(layers.ReLU()(low)), 2)
    maps = layers.Conv2D(2, 1, activation="sigmoid")(layers.Concatenate()([up, skip]))
    return keras.Model(image, maps)


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A small separable network on 24 px crops with three classes."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    image = keras.Input((24, 24, 3))
    tensor = layers.SeparableConv2D(8, 3, strides=2, activation="relu")(image)
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(tensor)))


@pytest.fixture(scope="module")
def segmenter_graph(segmenter: Any) -> Any:
    return onnx_from_keras(segmenter, scale=SCALE, output_name="maps", as_bytes=True)


@pytest.fixture(scope="module")
def classifier_graph(classifier: Any) -> Any:
    return onnx_from_keras(
        classifier, scale=2 * SCALE, offset=-1.0, output_name="probabilities", height_px=24, width_px=24
    )


def dims(value: Any) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def spec_of(graph: ServedGraph, **changes: Any) -> SegmenterSpec:
    """What model.yaml is to state of the tiny U-Net."""
    fields: dict[str, Any] = {
        "name": "tiny-unet",
        "version": 1,
        "task": "segment",
        "head": "unet",
        "mpp": 0.5,
        "inputs": (rgb_image(multiple_of=8),),
        "outputs": unet.OUTPUTS,
        "halo_px": 64,
        "classes": (ModelClass(name="Nucleus", color=(0, 158, 115)),),
        "licence": "Apache-2.0",
        "training_data": (),
        "sha256": graph.sha256,
    }
    return SegmenterSpec(**(fields | changes))


@pytest.fixture(scope="module")
def graph(segmenter_graph: Any) -> ServedGraph:
    return ServedGraph.of(segmenter_graph)


def test_a_segmenter_takes_and_gives_bytes_of_any_size(segmenter_graph: Any) -> None:
    """Input and output are uint8 with named dynamic dimensions, at opset 18."""
    import onnx

    (image,), (maps,) = segmenter_graph.graph.input, segmenter_graph.graph.output
    assert (image.name, dims(image)) == ("image", ["N", "H", "W", 3])
    assert (maps.name, dims(maps)) == ("maps", ["N", "H", "W", 2])
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert maps.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [item.version for item in segmenter_graph.opset_import if not item.domain] == [18]


def test_a_classifier_gives_float_probabilities(classifier: Any, classifier_graph: Any) -> None:
    """The crop size is fixed, the batch dynamic, the output float32, and the offset is inside the graph."""
    (image,), (output,) = classifier_graph.graph.input, classifier_graph.graph.output
    assert dims(image) == ["N", 24, 24, 3]
    assert (output.name, dims(output)) == ("probabilities", ["N", 3])
    parity = check_parity(classifier, classifier_graph, scale=2 * SCALE, offset=-1.0, sizes_px=[(24, 24)])
    assert parity.inputs == 2
    assert parity.max_abs <= parity.tolerance == 1e-4


def test_the_segmenter_keeps_parity_at_every_size(segmenter: Any, segmenter_graph: Any) -> None:
    """Three sizes, each alone and four at once, differ by at most one grey level."""
    parity = check_parity(segmenter, segmenter_graph, scale=SCALE)
    assert parity.inputs == 6
    assert parity.max_abs <= parity.tolerance == 1.0
    assert parity.mean_abs < 0.01


def test_a_wrong_scale_is_found_out(segmenter: Any, segmenter_graph: Any) -> None:
    """A graph that normalises otherwise than its model was trained is refused."""
    with pytest.raises(ParityError, match="differs from its source"):
        check_parity(segmenter, segmenter_graph, scale=3 * SCALE)


def test_several_outputs_are_refused() -> None:
    """A model with two outputs is an error that says what to do."""
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, [layers.Flatten()(image), layers.GlobalMaxPooling2D()(image)])
    with pytest.raises(ValueError, match="one output"):
        onnx_from_keras(model, scale=SCALE, output_name="both", height_px=8, width_px=8)


def test_a_package_holds_what_runners_and_triton_need(tmp_path: Path, graph: ServedGraph) -> None:
    """Four files: model.yaml reads as the given spec and states the field, Triton's config names the tensors."""
    folder = write_package(tmp_path, spec_of(graph), graph, "# tiny\n", max_batch=8)
    assert folder == tmp_path / "tiny-unet"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-unet"]
    fields = yaml.safe_load((folder / "model.yaml").read_text())
    assert fields["sha256"] == hashlib.sha256((folder / "1" / "model.onnx").read_bytes()).hexdigest()
    field_px = load_package(folder).spec.receptive_field_px
    assert isinstance(field_px, int)
    assert load_package(folder).spec == spec_of(graph).model_copy(update={"receptive_field_px": field_px})
    assert (folder / "README.md").read_text() == "# tiny\n"
    config = (folder / "config.pbtxt").read_text()
    for line in ('name: "image"', "dims: [ -1, -1, 3 ]", 'name: "maps"', "max_batch_size: 8", "TYPE_UINT8"):
        assert line in config
    assert f'value: {{ string_value: "{fields["sha256"]}" }}' in config


def test_a_package_replaces_its_older_self(tmp_path: Path, graph: ServedGraph) -> None:
    """Writing again leaves one folder with the new content only."""
    folder = write_package(tmp_path, spec_of(graph), graph, "old")
    (folder / "leftover.txt").write_text("stale")
    write_package(tmp_path, spec_of(graph), graph, "new")
    assert (folder / "README.md").read_text() == "new"
    assert not (folder / "leftover.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-unet"]


def test_a_failing_check_leaves_nothing_behind(
    tmp_path: Path, segmenter: Any, segmenter_graph: Any, graph: ServedGraph
) -> None:
    """When parity fails at the last moment neither the package nor its temporary folder stays."""

    def refuse(graph_path: Path) -> None:
        assert graph_path.is_file()
        check_parity(segmenter, segmenter_graph, scale=3 * SCALE)

    with pytest.raises(ParityError):
        write_package(tmp_path, spec_of(graph), graph, "card", verify=refuse)
    assert not list(tmp_path.iterdir())


def test_a_failing_check_keeps_the_older_package(tmp_path: Path, graph: ServedGraph) -> None:
    """A refused replacement leaves the package that was there untouched."""

    def refuse(_: Path) -> None:
        raise ParityError("no")

    folder = write_package(tmp_path, spec_of(graph), graph, "old")
    with pytest.raises(ParityError):
        write_package(tmp_path, spec_of(graph), graph, "new", verify=refuse)
    assert (folder / "README.md").read_text() == "old"


@pytest.mark.parametrize("name", ["../escape", "Nuclei", "", "a/b"])
def test_names_that_are_not_folder_names_are_rejected(graph: ServedGraph, name: str) -> None:
    """A spec cannot name a package outside the repository."""
    with pytest.raises(ValidationError, match="name"):
        spec_of(graph, name=name)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "0" * 64}, "another graph"),
        ({"inputs": (rgb_image(multiple_of=8, name="pixels"),)}, "has the inputs"),
        ({"inputs": (rgb_image(multiple_of=8).model_copy(update={"dtype": "uint16"}),)}, "has the inputs"),
        ({"head": "semantic", "outputs": semantic.OUTPUTS}, "has the outputs"),
        ({"outputs": (*unet.OUTPUTS, unet.OUTPUTS[0].model_copy(update={"name": "more"}))}, "has the outputs"),
    ],
)
def test_a_graph_that_is_not_as_stated_is_not_written(
    tmp_path: Path, graph: ServedGraph, changes: dict[str, Any], says: str
) -> None:
    """Whatever model.yaml would state of another graph, nothing is left in the repository."""
    with pytest.raises(ValueError, match=says):
        write_package(tmp_path, spec_of(graph, **changes), graph, "card")
    assert not list(tmp_path.iterdir())


def test_parity_refuses_graphs_that_answer_nan(segmenter: Any, segmenter_graph: Any) -> None:
    """NaN compares as neither within nor beyond a tolerance; it is refused."""

    def broken(images: np.ndarray, **_: object) -> np.ndarray:
        answer: np.ndarray = segmenter(images).numpy() * np.nan
        return answer

    with pytest.raises(ParityError):
        check_parity(broken, segmenter_graph, scale=SCALE)
