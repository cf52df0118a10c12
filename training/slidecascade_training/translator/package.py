"""From a finished run to a package: export, comparison, measured differences, card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from slidecascade.errors import ModelPackageError
from slidecascade.models.masks import drawn_image, mask_planes
from slidecascade.models.spec import MASK_CHANNELS, TrainingData, TranslatorSpec
from slidecascade.models.tensors import InputSpec, OutputSpec
from slidecascade_convert.modelcard import Card, figures_table
from slidecascade_convert.package import ServedGraph
from slidecascade_convert.sessions import open_session
from slidecascade_convert.torch_export import export_outputs
from slidecascade_training import packages
from slidecascade_training.translator.network import CHANNELS, STRIDE, Generator
from slidecascade_training.translator.recipe import Pair, TranslatorSettings, pairs_of, trained

MPP: Final = 0.5
MOST_BYTES: Final = 8 * 10**6
_TOLERANCE: Final = 1e-4
_IMAGE = "image"
_MASK = InputSpec(
    name="mask", dtype="float32", layout="NCHW", shape=("batch", CHANNELS, "height", "width"),
    channels=MASK_CHANNELS, range=(0.0, 1.0), multiple_of=STRIDE,
)  # fmt: skip
_DRAWN = OutputSpec(
    name="drawn", dtype="float32", layout="NCHW", shape=("batch", 1, "height", "width"), range=(0.0, 1.0),
    meaning="intensity",
)  # fmt: skip


def package_run(data: Path, run: Path, models_dir: Path, name: str, licence: str) -> Path:
    """Package the generator of `run` as ``models_dir/name``; the folder.

    Raises:
        ModelPackageError: the run is not finished, or the graph differs from the network.
    """
    network, settings, step = trained(run)
    if step < settings.steps:
        raise ModelPackageError(f"{run} has done {step} of {settings.steps} steps: finish training first.")
    graph, difference = served_graph(network)
    figures = measured(graph.content, pairs_of(data, "validate"))
    spec = TranslatorSpec(
        name=name, version=packages.next_version(models_dir / name), task="translate", head="image", mpp=MPP,
        licence=licence, accuracy={key: round(value, 4) for key, value in figures.items()}, inputs=(_MASK,),
        outputs=(_DRAWN,), sha256=graph.sha256,
        training_data=(
            TrainingData(
                name="Data Science Bowl 2018 stage1_train (BBBC038), corrected masks, fluorescence",
                licence="CC0-1.0",
                split="validation when int(stem[:4], 16) % 5 == 0",
            ),
        ),
    )  # fmt: skip
    card = _card(spec, settings, figures)
    return packages.write(models_dir, spec, packages.Exported(None, graph, difference), card, max_batch=8)


def served_graph(network: Generator) -> tuple[ServedGraph, float]:
    """The graph for masks of any size, and its largest difference from the network.

    Raises:
        ModelPackageError: it differs by more than rounding explains, or is too large.
    """
    example = (torch.rand(2, CHANNELS, 64, 96) > 0.5).float()
    # The exporter calls the input `image`, which the package calls by what it is.
    model = export_outputs(network, example, {_DRAWN.name: _DRAWN.layout}, layout=_MASK.layout)
    _rename_input(model)
    graph = ServedGraph.of(model)
    with torch.no_grad():
        wanted = network(example).numpy()
    (found,) = open_session(model).run(None, {_MASK.name: example.numpy()})
    difference = float(np.abs(found - wanted).max())
    if not difference <= _TOLERANCE:
        raise ModelPackageError(f"The graph differs from its network by {difference:.2g}: report this.")
    if len(graph.content) > MOST_BYTES:
        raise ModelPackageError(f"The graph has {len(graph.content)} bytes, at most {MOST_BYTES} are allowed.")
    return graph, difference


def _rename_input(model: Any) -> None:
    model.graph.input[0].name = _MASK.name
    for node in model.graph.node:
        node.input[:] = [_MASK.name if name == _IMAGE else name for name in node.input]


def measured(graph: bytes, pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean absolute differences from real images of 0 to 1: of what is drawn, and of each image's two means."""
    import onnx

    session = open_session(onnx.load_model_from_string(graph))
    drawn, flat = [], []
    for pair in pairs:
        planes = mask_planes(pair.labels, CHANNELS, multiple_of=STRIDE)
        (values,) = session.run(None, {_MASK.name: planes})
        image = drawn_image(values, *pair.labels.shape)[..., 0]
        drawn.append(float(np.abs(image - pair.image).mean()))
        inside = pair.labels > 0
        parts = [pair.image[each] for each in (inside, ~inside)]
        flat.append(sum(float(np.abs(part - part.mean()).sum()) for part in parts if part.size) / pair.image.size)
    return {"difference": float(np.mean(drawn)), "difference_of_own_means": float(np.mean(flat))}


def _card(spec: TranslatorSpec, settings: TranslatorSettings, figures: dict[str, float]) -> Card:
    return Card(
        name=spec.name,
        summary="Draws an image of fluorescent nuclei for a mask of them, for synthesized data.",
        facts={
            "Task": "translate",
            "Resolution": f"{spec.mpp:g} um per pixel assumed; training images state none",
            "Licence": spec.licence,
            "Input": f"`mask`: float32 `(N, 2, H, W)`, foreground and edges of objects, 0 and 1; sides multiples "
            f"of {STRIDE}",
            "Output": "`drawn`: float32 `(N, 1, H, W)`, 0 to 1",
        },
        made=_MADE.format(settings=settings),
        measured="On fluorescence images of the validation split, mean absolute difference of intensities of 0 "
        "to 1. `difference of own means` is that of an image in which objects and background have the real "
        "image's own two means, which a translator cannot know.\n\n" + figures_table(figures),
        limits=_LIMITS,
        sections={},
    )


_MADE: Final = """\
A generator and two critics of patches (hinge loss, features of the critics, and the difference of intensities) on
the training split, {settings.steps} steps of {settings.batch} crops of 96 px.

    slidecascade train translator --data DSB2018 --out RUN --steps {settings.steps} --batch {settings.batch} \\
        --seed {settings.seed} --package --name NAME"""
_LIMITS: Final = (
    "One mask gives one image: brightness and texture are not drawn at random.",
    "The brightness of an image, which a mask does not show, is that of an average image.",
    "Nuclei of the sizes of the training set only; noise of the camera is not drawn separately.",
    "Faint lines a few pixels apart lie on dark backgrounds and in large nuclei.",
)
