"""From a finished run to packages for each head: export, thresholds, measured accuracy, cards.

`python -m slidecascade_training.fluorescence.package --data DSB2018 --run RUN --models models`

With `--nuclei GRAPH` in place of `--run` the head `unet` is packaged with the weights of `nuclei-unet` as they
are.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch

from slidecascade.errors import ModelPackageError
from slidecascade.heads.head import SegmenterOptions
from slidecascade.models.spec import ModelClass, SegmenterSpec, TrainingData
from slidecascade.models.tensors import InputSpec
from slidecascade.privacy import forbid_telemetry
from slidecascade_convert.modelcard import Card, table
from slidecascade_convert.package import ServedGraph
from slidecascade_evaluation import dsb2018
from slidecascade_evaluation.scores import Accuracy
from slidecascade_training import packages
from slidecascade_training.fluorescence.network import STRIDE, FluorescenceNetwork, Served, network_from_nuclei
from slidecascade_training.fluorescence.recipe import SYNTHESIZED_PX, FluorescenceSettings, trained
from slidecascade_training.fluorescence.thresholds import HEADS, MIDDLING, MPP, accuracy, predictions, tune
from slidecascade_training.recipes.package import trained_facts

HALO_PX: Final = 88
GAINS: Final = (1.0, 0.6, 0.4, 0.25)
_CHANNEL: Final = "nuclear"
_LEAST_STORED: Final = 512
_TOLERANCE: Final = 5e-3


def package_run(data: Path, run: Path, models_dir: Path, heads: Sequence[str]) -> None:
    """Package the network of `run`; see `package`.

    Raises:
        ModelPackageError: the run is not finished, or a graph differs from the network.
    """
    network, settings, step = trained(run)
    if step < settings.steps:
        raise ModelPackageError(f"{run} has done {step} of {settings.steps} steps: finish training first.")
    package(network, settings, data, models_dir, heads)


def package(
    network: FluorescenceNetwork,
    settings: FluorescenceSettings | None,
    data: Path,
    models_dir: Path,
    heads: Sequence[str],
) -> None:
    """Export, tune, measure and write ``models_dir/fluorescence-HEAD`` for each of `heads`.

    `settings` are None for the weights of `nuclei-unet` as they are.

    Raises:
        ModelPackageError: a graph differs from the network.
    """
    tuning, held_out = (
        [item for item in dsb2018.read_images(data, split) if item.kind == dsb2018.FLUORESCENCE]
        for split in ("tune", "validate")
    )
    gain = 1.0 if settings is not None else _best_gain(network, tuning)
    for name in heads:
        graph = served_graph(network, name, gain)
        options = tune(predictions(graph.content, tuning), name)
        measured = accuracy(predictions(graph.content, held_out), HEADS[name], options)
        spec = _spec(name, graph, options, measured, settings)
        exported = packages.Exported(None, graph, _TOLERANCE)
        packages.write(models_dir, spec, exported, _card(spec, settings, measured), max_batch=8)


def _best_gain(network: FluorescenceNetwork, tuning: Sequence[dsb2018.NucleiImage]) -> float:
    """The factor on intensities with the best AP on the tuning images, at middling thresholds."""

    def score(gain: float) -> float:
        found = accuracy(predictions(served_graph(network, "unet", gain).content, tuning), HEADS["unet"], MIDDLING)
        sys.stdout.write(f"gain {gain:g}: AP50 {found.ap50:.4f}, mean AP {found.mean_ap:.4f} on tuning images\n")
        sys.stdout.flush()
        return found.ap50 + found.mean_ap

    return max(GAINS, key=score)


def served_graph(network: FluorescenceNetwork, head: str, gain: float = 1.0) -> ServedGraph:
    """One head as a graph for images of any size, its weights stored in half precision.

    Raises:
        ModelPackageError: it differs from the network by more than half precision explains.
    """
    forbid_telemetry()
    import onnx
    import onnxruntime

    served, names = Served(network, head, gain).eval(), _output_names(head)
    example = torch.rand(1, 64, 96, 1)
    free = {0: "N", 1: "H", 2: "W"}
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            served, (example,), path, input_names=["image"], output_names=list(names), dynamo=False,
            opset_version=17, dynamic_axes={"image": free} | {name: _free(head) for name in names},
        )  # fmt: skip
        model = onnx.load(path)
    _store_halves(model.graph)
    graph = ServedGraph.of(model)
    session = onnxruntime.InferenceSession(graph.content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = [array.numpy() for array in served(example)]
    for found, array in zip(session.run(None, {"image": example.numpy()}), wanted, strict=True):
        off = float(np.abs(found.astype(np.float64) - array).max()) / max(1.0, float(np.abs(array).max()))
        if off > 10 * _TOLERANCE:
            raise ModelPackageError(f"The graph of {head} differs from its network by {off:.2g}: report this.")
    return graph


def _output_names(head: str) -> tuple[str, ...]:
    return {"stardist": ("prob", "dist"), "flows": ("flows",), "unet": ("maps",)}[head]


def _free(head: str) -> dict[int, str]:
    if head == "flows":
        return {0: "N", 2: "H", 3: "W"}
    return {0: "N", 1: "H2", 2: "W2"} if head == "stardist" else {0: "N", 1: "H", 2: "W"}


def _store_halves(graph: Any) -> None:
    """Store large weights as float16 and widen them in the graph, which the runtime does once at load."""
    from onnx import TensorProto, helper, numpy_helper

    widened = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _LEAST_STORED:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            widened.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _spec(
    head: str,
    graph: ServedGraph,
    options: SegmenterOptions,
    measured: Accuracy,
    settings: FluorescenceSettings | None,
) -> SegmenterSpec:
    classes = (ModelClass(name="Nucleus", color=(0, 158, 115)),)
    stated = packages.Statement(
        name=f"fluorescence-{head}",
        version=1,
        mpp=MPP,
        classes=classes,
        licence="Apache-2.0",
        training_data=_training_data(settings),
        accuracy={"ap50_fluorescence": measured.ap50, "ap50_fluorescence_pooled": measured.ap50_pooled,
                  "mean_ap_fluorescence": measured.mean_ap, "dice_fluorescence": measured.dice},
    )  # fmt: skip
    image = InputSpec(
        name="image", dtype="float32", layout="NHWC", shape=("batch", "height", "width", 1), channels=(_CHANNEL,),
        range=(0.0, 1.0), multiple_of=STRIDE,
    )  # fmt: skip
    return SegmenterSpec(
        **stated.fields,
        task="segment",
        head=head,
        inputs=(image,),
        outputs=HEADS[head].outputs_with(("Nucleus",), options),
        sha256=graph.sha256,
        halo_px=HALO_PX,
        options=options,
    )


def _training_data(settings: FluorescenceSettings | None) -> tuple[TrainingData, ...]:
    real = TrainingData(
        name="Data Science Bowl 2018 stage1_train (BBBC038), corrected masks",
        licence="CC0-1.0",
        split="validation when int(stem[:4], 16) % 5 == 0; thresholds tuned on a part of the rest",
    )
    if settings is None:
        return (real, TrainingData(name="see the card of nuclei-unet", licence="CC0-1.0", split="training only"))
    name = f"{settings.synthesized} synthesized images of slidecascade_render.fluorescence"
    return (real, TrainingData(name=name, licence="Apache-2.0", split="training only"))


def _card(spec: SegmenterSpec, settings: FluorescenceSettings | None, measured: Accuracy) -> Card:
    stated = ", ".join(f"{name} {value}" for name, value in spec.options.model_dump().items())
    row = (measured.images, f"{measured.ap50:.3f}", f"{measured.ap50_pooled:.3f}", f"{measured.mean_ap:.3f}",
           f"{measured.dice:.3f}")  # fmt: skip
    return Card(
        name=spec.name,
        summary=f"Fluorescent nuclei of one channel, as instances, by the head `{spec.head}`.",
        facts=trained_facts(spec)
        | {
            "Input": f"`image`: float32 `(N, H, W, 1)`, the nuclear channel scaled to 0 to 1 by percentiles of "
            f"the slide; H and W multiples of {STRIDE}",
            "Head": f"`{spec.head}`: {stated}",
        },
        made=_TAKEN.format(gains=GAINS)
        if settings is None
        else _MADE.format(settings=settings, side=SYNTHESIZED_PX),
        measured="On the fluorescence images of the validation split, through the exported graph and the "
        "production head, measured once. AP is TP / (TP + FN + FP).\n\n"
        + table(("images", "AP50, mean of images", "AP50, pooled", "mean AP 0.5:0.95", "foreground Dice"), [row]),
        limits=_LIMITS,
        sections={"Network": _NETWORK},
    )


_TAKEN: Final = """\
The weights are those of `nuclei-unet`, not trained further: the three equal colours of a grey image are one
channel, so that the graph returns what `nuclei-unet` returns. What differs is what it is given, an intensity
scaled by percentiles of the slide, of a channel of 8 to 16 bits. A factor on it, of {gains},
and the thresholds were chosen for that on the tuning split.

    python -m slidecascade_training.fluorescence.package --data DSB2018 --models models --heads unet \\
        --nuclei models/nuclei-unet/1/model.onnx"""
_MADE: Final = """\
The trunk starts from the weights of `nuclei-unet`, which was trained on the same training split and never on its
validation split. Then {settings.steps} steps of {settings.batch} crops of 160 px with all three heads at once, on
the fluorescence images of the training split and, one crop in five, on {settings.synthesized} synthesized images
of {side} px. Thresholds were chosen on the tuning split.

    python -m slidecascade_training.fluorescence --data DSB2018 --nuclei models/nuclei-unet/1/model.onnx \\
        --steps {settings.steps} --batch {settings.batch} --synthesized {settings.synthesized} \\
        --seed {settings.seed} --out RUN
    python -m slidecascade_training.fluorescence.package --data DSB2018 --run RUN --models models"""
_NETWORK: Final = """\
The U-Net of `nuclei-unet` (48, 96 and 192 filters from half of the resolution down) for one channel and its square
root. Weights are stored in half precision and computed with in single precision."""
_LIMITS: Final = (
    "Nuclei of 8 to 90 px diameter are found; give an image's pixel size so that nuclei are scaled to that.",
    "Cytoplasm and membranes were never shown to it.",
    "Out-of-focus nuclei and debris were marked inconsistently in the training data.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Package a trained run, or the weights of `nuclei-unet` for one channel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="folder of the run")
    source.add_argument("--nuclei", type=Path, help="graph of nuclei-unet, for its weights as they are")
    parser.add_argument("--models", type=Path, required=True, help="model repository to write into")
    parser.add_argument("--heads", nargs="+", choices=tuple(HEADS), default=tuple(HEADS))
    given = parser.parse_args(arguments)
    if given.run is not None:
        package_run(given.data, given.run, given.models, given.heads)
    elif list(given.heads) != ["unet"]:
        parser.error("--nuclei has the weights of the head unet alone: use --heads unet")
    else:
        package(network_from_nuclei(given.nuclei, seed=0).eval(), None, given.data, given.models, given.heads)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
