"""``model.yaml``: read as it was written, in this format and that of version 0.1.0, and checked with its head."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from google.protobuf import text_format
from pydantic import TypeAdapter
from tritonclient.grpc import model_config_pb2

import toy_models
from slidecascade.errors import ModelPackageError, PipelineSpecError
from slidecascade.heads import semantic, unet
from slidecascade.models.edition1 import with_tensors
from slidecascade.models.repository import load_package, load_repository, model_yaml
from slidecascade.models.spec import ModelSpec, SegmenterSpec
from slidecascade.models.tensors import ElementType, InputSpec, OutputSpec, rgb_image
from slidecascade.models.triton_config import triton_config
from slidecascade.pipelines.cells import FILE
from slidecascade.pipelines.load import load_pipelines
from slidecascade.runners.local import LocalRunner, Placement
from slidecascade.settings import bundled_models_dir
from slidecascade.web.tensors import metadata

OLD = Path(__file__).parents[1] / "golden" / "packages_0_1_0"
BUNDLED = load_repository(bundled_models_dir())
READ: TypeAdapter[Any] = TypeAdapter(ModelSpec)


def read_old(name: str) -> Any:
    """A stored ``model.yaml`` of version 0.1.0, as fields."""
    return yaml.safe_load((OLD / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["nash-cell", "nuclei-unet"])
def test_a_package_of_version_0_1_0_loads_and_runs_unchanged(tmp_path: Path, name: str) -> None:
    """Its tensors are derived; the bundled one is the same, and states them, its field, the size of its
    objects and its int8 graph."""
    folder = shutil.copytree(bundled_models_dir() / name, tmp_path / name)
    (folder / "model.yaml").write_bytes((OLD / f"{name}.yaml").read_bytes())
    package = load_package(folder)
    assert package.spec.receptive_field_px is None
    bundled = BUNDLED[name].spec
    stated: dict[str, object] = {
        "receptive_field_px": bundled.receptive_field_px,
        "int8": bundled.int8 and bundled.int8.model_dump(),
    }
    if isinstance(bundled, SegmenterSpec):
        stated["object_diameter_px"] = bundled.object_diameter_px
    assert package.spec.model_dump() | stated == bundled.model_dump()
    LocalRunner([package]).close()


def test_tensors_are_derived_from_size_and_head() -> None:
    """Sizes, multiples and classes of version 0.1.0 become an RGB image and what each head wants."""
    cell, nuclei, area = (READ.validate_python(with_tensors(read_old(name))) for name in
                          ("nash-cell", "nuclei-unet", "semantic"))  # fmt: skip
    assert cell.inputs == (rgb_image(height_px=72, width_px=72),)
    assert cell.outputs[0].channels == ("Hepatocyte", "Immune", "Other")
    assert nuclei.inputs == (rgb_image(multiple_of=8),)
    assert (nuclei.outputs, area.outputs) == (unet.OUTPUTS, semantic.OUTPUTS)
    assert area.input.multiple_of == 32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input": {"height_px": 72, "width_px": 72}}, "takes any height"),
        ({"input": {"multiple_of": 0}}, r"input\.multiple_of"),
        ({"input": {"side_px": 72}}, r"input\.side_px"),
        ({"input": 72}, "input"),
        ({"head": "stardist"}, "head"),
        ({"classes": 3}, "classes"),
        ({"inputs": []}, "input"),
    ],
)
def test_a_wrong_old_model_yaml_names_its_field(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """As it did when it was new."""
    folder = shutil.copytree(bundled_models_dir() / "nuclei-unet", tmp_path / "nuclei-unet")
    text = yaml.safe_dump(read_old("nuclei-unet") | changes)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelPackageError, match=f"'nuclei-unet'.*({says})"):
        load_package(folder)


def test_the_documented_example_is_read() -> None:
    """docs/models.md shows a model.yaml that this service takes, with all fields that there are."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    spec = READ.validate_python(yaml.safe_load(example))
    assert spec.signature.output_shapes({"image": (2, 16, 24, 4)})["distance"] == (2, 8, 12, 1)
    fields = {*InputSpec.model_fields, *OutputSpec.model_fields, *SegmenterSpec.model_fields, "crop"}
    assert [name for name in fields if f"`{name}`" not in page] == []
    types = get_args(ElementType)
    assert [name for name in types if f"`{name}`" not in page] == []


def stain() -> Any:
    """The spec of a network of two inputs and two outputs."""
    return READ.validate_python(toy_models.stain_fields() | {"sha256": "0" * 64})


@pytest.mark.parametrize(
    "spec", [*(package.spec for package in BUNDLED.values()), stain()], ids=lambda it: it.name
)
def test_what_is_written_reads_as_it_was(spec: Any) -> None:
    """The writer and the reader are one type."""
    fields = yaml.safe_load(model_yaml(spec))
    assert "input" not in fields
    assert READ.validate_python(fields) == spec
    assert model_yaml(READ.validate_python(fields)) == model_yaml(spec)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_files_are_those_that_would_be_written(name: str) -> None:
    """model.yaml states its tensors, and config.pbtxt is derived from it."""
    folder, spec = bundled_models_dir() / name, BUNDLED[name].spec
    assert (folder / "model.yaml").read_text(encoding="utf-8") == model_yaml(spec)
    max_batch = 32 if spec.task == "classify" else 8
    assert (folder / "config.pbtxt").read_text(encoding="utf-8") == triton_config(spec, max_batch=max_batch)


MAPS = toy_models.maps_fields("foreground", "interior")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outputs": []}, "outputs"),
        ({"outputs": [MAPS | {"name": "masks"}]}, "the unet head needs an output 'maps'"),
        ({"outputs": [toy_models.maps_fields("foreground")]}, r"needs 'maps' as uint8 NHWC \(.*2\)"),
        ({"outputs": [toy_models.maps_fields("interior", "foreground")]}, "of foreground, interior"),
        ({"outputs": [MAPS | {"dtype": "float32"}]}, "stated is float32"),
        ({"outputs": [MAPS | {"stride": 2}]}, "stride 2"),
        ({"outputs": [MAPS | {"meaning": "logit"}]}, "logit"),
        ({"inputs": [toy_models.image_fields(64, 64)]}, "takes any height"),
        ({"head": "semantic", "options": {}}, "the semantic head needs 'maps'"),
    ],
)
def test_a_network_without_what_its_head_wants_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """When the package is loaded, by name, and with what the head needs."""
    fields = toy_models.segmenter_fields(**changes)
    folder = toy_models.write_package(tmp_path, fields, toy_models.darkness_segmenter())
    with pytest.raises(ModelPackageError, match=f"'toy-segmenter'.*{says}"):
        load_package(folder)


def test_a_classifier_states_a_probability_for_each_class(tmp_path: Path) -> None:
    """Fewer, or in another order, would misname every cell."""
    for number, outputs in enumerate(
        (
            toy_models.probabilities_fields(2),
            toy_models.probabilities_fields(3) | {"channels": ["Blue", "Red", "Green"]},
        )
    ):
        fields = toy_models.classifier_fields(outputs=[outputs])
        folder = toy_models.write_package(tmp_path / str(number), fields, toy_models.redness_classifier(72))
        with pytest.raises(ModelPackageError, match=r"softmax head needs 'probabilities' .* of Red, Green, Blue"):
            load_package(folder)


def test_a_crop_has_one_size(tmp_path: Path) -> None:
    """Crops are resized to it, so a classifier cannot leave it open."""
    fields = toy_models.classifier_fields(inputs=[toy_models.image_fields("height", "width")])
    folder = toy_models.write_package(tmp_path, fields, toy_models.redness_classifier(72))
    with pytest.raises(ModelPackageError, match="takes one size: state height and width"):
        load_package(folder)


@pytest.mark.parametrize("head", ["unet", "semantic"])
def test_metadata_of_each_head_states_the_maps_it_has(head: str) -> None:
    """A semantic network returns one map, a U-Net two: /v2, config.pbtxt and model.yaml cannot disagree."""
    channels = {"unet": ("foreground", "interior"), "semantic": ("foreground",)}[head]
    changes: dict[str, Any] = {"head": head, "outputs": [toy_models.maps_fields(*channels)], "options": {}}
    spec = READ.validate_python(toy_models.segmenter_fields(**changes) | {"sha256": "0" * 64})
    count = len(channels)
    assert metadata(spec)["outputs"] == [{"name": "maps", "datatype": "UINT8", "shape": [-1, -1, -1, count]}]
    config = text_format.Parse(triton_config(spec), model_config_pb2.ModelConfig())
    assert list(config.output[0].dims) == [-1, -1, count]


def test_all_tensors_are_in_every_description() -> None:
    """Two inputs and two outputs, with types and shapes, in /v2 and in config.pbtxt."""
    spec = stain()
    assert metadata(spec)["inputs"] == [
        {"name": "image", "datatype": "UINT16", "shape": [-1, -1, -1, 4]},
        {"name": "gain", "datatype": "FP32", "shape": [-1, 4]},
    ]
    config = text_format.Parse(triton_config(spec, warm_up_px=30), model_config_pb2.ModelConfig())
    types = model_config_pb2.DataType.Name
    assert [(item.name, types(item.data_type), list(item.dims)) for item in config.output] == [
        ("maps", "TYPE_UINT8", [-1, -1, 1]),
        ("brightness", "TYPE_FP32", [-1, -1, 1]),
    ]
    warm_up = config.model_warmup[0].inputs
    assert (list(warm_up["image"].dims), list(warm_up["gain"].dims)) == ([32, 32, 4], [4])


def test_tensorrt_is_given_the_shapes_of_all_inputs() -> None:
    """For the batches it may see; a network of free sizes runs on CUDA."""
    image = toy_models.image_fields(72, 72)
    gain = toy_models.stain_fields()["inputs"][1]
    fields = toy_models.classifier_fields(inputs=[image, gain]) | {"sha256": "0" * 64}
    providers = dict(Placement(device="tensorrt").providers(READ.validate_python(fields), most=32))
    options = providers["TensorrtExecutionProvider"]
    assert options["trt_profile_max_shapes"] == "image:32x72x72x3,gain:32x4"
    assert options["trt_profile_min_shapes"] == "image:1x72x72x3,gain:1x4"
    assert "TensorrtExecutionProvider" not in dict(Placement(device="tensorrt").providers(stain(), most=8))


def test_a_pipeline_takes_models_of_one_image_only(tmp_path: Path) -> None:
    """Others are served by /v2; a pipeline that names one is refused with what the model takes."""
    toy_models.write_package(tmp_path / "models", toy_models.stain_fields(), toy_models.stain_segmenter())
    (tmp_path / "pipelines").mkdir()
    heatmap = {"name": "n", "title": "N", "kind": "density", "classes": ["Nucleus"]}
    fields = {"name": "p", "title": "P", "description": "", "segmenter": "toy-stain", "heatmaps": [heatmap]}
    (tmp_path / "pipelines" / "p.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    with pytest.raises(PipelineSpecError, match="'toy-stain' takes 2 inputs, 'image' is uint16 NHWC of 4 ch"):
        load_pipelines(load_repository(tmp_path / "models"), tmp_path / "pipelines", (FILE,))
