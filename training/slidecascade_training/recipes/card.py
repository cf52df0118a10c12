"""The model card of a trained recipe."""

from __future__ import annotations

from slidecascade.models.spec import ClassifierSpec, SegmenterSpec
from slidecascade_training.recipes.settings import RunSettings
from slidecascade_training.recipes.table import Recipe

_CARD = """\
# {name}

For Research Use Only. Not for use in diagnostic procedures.

| | |
|---|---|
| Task | {task} |
| Classes | {classes} |
| Resolution | {mpp:g} um per pixel |
| Network | {summary} |
| Licence | {licence} |

## How it was made

Recipe `{recipe}` on the data set {data!r} (sha256 of its lists {digest}), {held_out}: at most {epochs} epochs of
batches of {batch}, highest rate {rate:g} ({schedule}), seed {seed}.

    slidecascade train {recipe} --data DATA --out RUN --epochs {epochs} --batch {batch} --rate {rate:g} \\
        --schedule {schedule} --patience {patience} --seed {seed}{unweighted} --package --name {name}

The graph differs from the network by at most {max_difference:.2g} ({unit}).

## Measured

{measured}
"""


def card_of(
    spec: SegmenterSpec | ClassifierSpec, recipe: Recipe, settings: RunSettings, *, max_difference: float
) -> str:
    """Markdown from what ``model.yaml`` states and the run's settings."""
    rows = [f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in spec.accuracy.items()]
    measured = "\n".join(["The served graph on slides no training step saw:", "", "| | |", "|---|---:|", *rows])
    return _CARD.format(
        name=spec.name,
        task=spec.task,
        classes=", ".join(spec.class_names),
        mpp=spec.mpp,
        summary=recipe.summary,
        licence=spec.licence,
        recipe=recipe.name,
        data=spec.training_data[0].name,
        digest=settings.data_sha256[:12],
        held_out=spec.training_data[0].split,
        epochs=settings.epochs,
        batch=settings.batch,
        rate=settings.rate,
        schedule=settings.schedule,
        patience=settings.patience,
        seed=settings.seed,
        unweighted="" if settings.class_weights else " --no-class-weights",
        max_difference=max_difference,
        unit="probability" if recipe.task == "classify" else "grey levels of 255",
        measured=measured
        if rows
        else "Nothing: no slide was kept for validation, so nobody knows how good it is.",
    )
