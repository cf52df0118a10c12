"""The served package of the `lymph-tumour` classifier: specification and card."""

from __future__ import annotations

from pathlib import Path

from slidecascade.models.spec import ClassifierSpec, ModelClass, TrainingData
from slidecascade_convert.modelcard import Card, table
from slidecascade_render.lymph.contexts import CONTEXT_PX, MPP, STRIDE_PX
from slidecascade_training import packages
from slidecascade_training.nash.recipe import Result
from slidecascade_training.recipes.package import trained_facts
from slidecascade_training.tumour.contexts import INPUT_PX, TUMOUR, Windows

_SUMMARY = f"""\
**Demonstration weights, trained on rendered lymph nodes only. The network never saw a real slide with labels.**
Does the centre {STRIDE_PX} x {STRIDE_PX} px of a {CONTEXT_PX} x {CONTEXT_PX} px context hold tumour? It makes the
`tumor-heatmap` pipeline run out of the box; to analyse real tissue, convert and serve a network trained on it,
such as InceptionV3 on CAMELYON16."""
_MADE = """\
    python -m slidecascade_training.tumour --seed {seed} --windows {windows} --steps {steps} \\
        --out runs/tumour --package models

{windows} rendered windows of 256 x 256 um, each another node, stain and scanner: follicles with and without
germinal centres, sinuses with histiocytes, plasma cells, vessels, capsule, collagen, fat; nests of tumour with and
without glands and stroma, and single cells; sizes and darkness of tumour cells, hues and strengths of both stains,
focus, sharpening, noise, JPEG quality and pixel size. Two of five windows have no tumour. {steps} steps of {batch}
contexts, both classes equally often, each turned, scaled, restained, relit and refocused at random; {minutes:.0f}
minutes on one thread of a CPU. Windows {training} trained, {calibration} calibrated, {held_out} measured."""
_MEASURED = """\
The served ONNX graph on {count} contexts of the held-out windows, cut at 0.25 um/px as they are served:
**balanced accuracy {balanced:.4f}**, ROC AUC {auc:.4f}.

{confusion}

Rows are the truth, columns the predictions. The logits are divided by {temperature:.3f} inside the graph. Expected
calibration error (15 bins): {ece_before:.4f} before, {ece:.4f} after."""
_CHECKED_BY_EYE = """\
On 15 patches of CAMELYON16 and 10 of PCam, without labels: nests of large pale cells are mostly above 0.5, fat,
collagen, glass and loose lymphocytes below 0.2. Wrong by eye are crushed and very dark, dense lymphocytes (0.53
and 0.75), and a patch half of tumour and half of lymphocytes (0.33) and a necrotic one (0.02), which are
missed."""
_LIMITS = (
    "Held-out windows come from the same renderer: the figures do not state the accuracy on real tissue.",
    "Rendered nodes have no necrosis, mitoses, folds, ink, tattoo pigment, silicone or foreign bodies.",
    "Tumours of small cells, such as lobular carcinoma, resemble the lymphocytes around them.",
    "Real germinal centres, granulomas and sinus histiocytosis may be taken for tumour.",
)


def package(models_dir: Path, exported: packages.Exported, result: Result, windows: Windows) -> Path:
    """Write ``models_dir/lymph-tumour``: the graph, its model.yaml and its card."""
    spec = _spec(exported, result, windows)
    return packages.write(models_dir, spec, exported, _card(spec, result, windows))


def _auc(result: Result) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(result.labels, result.probabilities[:, 1]))


def _spec(exported: packages.Exported, result: Result, windows: Windows) -> ClassifierSpec:
    split = f"seeds {_span(windows.held_out)} held out"
    stated = packages.Statement(
        name=TUMOUR.name,
        version=1,
        mpp=MPP,
        classes=tuple(
            ModelClass(name=name, color=color) for name, color in zip(TUMOUR.classes, TUMOUR.colors, strict=True)
        ),
        licence="Apache-2.0",
        training_data=(TrainingData(name="rendered lymph nodes", licence="Apache-2.0", split=split),),
        accuracy={
            "balanced_accuracy": result.figures.balanced_accuracy,
            "roc_auc": _auc(result),
            "calibration_error": result.figures.calibration.error,
            "calibration_error_before": result.ece_before,
        },
    )
    return packages.classifier_spec(stated, exported, input_px=INPUT_PX, crop_px=CONTEXT_PX)


def _card(spec: ClassifierSpec, result: Result, windows: Windows) -> Card:
    settings = result.settings
    rows = zip(TUMOUR.classes, result.figures.confusion.tolist(), strict=True)
    return Card(
        name=TUMOUR.name,
        summary=_SUMMARY,
        facts=trained_facts(spec)
        | {
            "Input": f"`image`: uint8 `(N, {INPUT_PX}, {INPUT_PX}, 3)`, normalised in the graph",
            "Crop": f"{CONTEXT_PX} x {CONTEXT_PX} px at {MPP} um/px, resized to {INPUT_PX} x {INPUT_PX} px",
            "Output": "`probabilities`: float32 `(N, 2)`, softmax",
            "Network": "Xception-style (Chollet 2017), separable convolutions with residuals",
        },
        made=_MADE.format(
            seed=windows.seed,
            windows=settings.windows,
            steps=settings.steps,
            batch=settings.batch,
            minutes=result.minutes,
            training=_span(windows.training),
            calibration=_span(windows.calibration),
            held_out=_span(windows.held_out),
        ),
        measured=_MEASURED.format(
            count=len(result.labels),
            balanced=result.figures.balanced_accuracy,
            auc=_auc(result),
            confusion=table(("truth", *TUMOUR.classes), ((name, *counts) for name, counts in rows)),
            temperature=result.temperature,
            ece_before=result.ece_before,
            ece=result.figures.calibration.error,
        ),
        limits=_LIMITS,
        sections={"Checked by eye": _CHECKED_BY_EYE},
    )


def _span(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"
