"""The report of a run of the nuclei recipe on a user's tiles: ``report/report.json`` and plots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slidecascade.heads.unet import UnetOptions
from slidecascade.staging import make_folder, write_file
from slidecascade_evaluation import dsb2018
from slidecascade_training.checkpoint import History
from slidecascade_training.datasets.split import TRAIN, VALIDATE
from slidecascade_training.nuclei.recipe import NucleiSettings
from slidecascade_training.nuclei.thresholds import Predict, chosen_options, decode, network_predictor
from slidecascade_training.recipes import cells, plots
from slidecascade_training.recipes.report import Report, without_nan
from slidecascade_training.recipes.table import NUCLEI, find_recipe


def write_nuclei_report(network: Any, data: Path, run: Path, settings: NucleiSettings, history: History) -> Report:
    """Choose thresholds, measure `network` on the validation slides, and write ``report`` in `run`.

    Raises:
        UnwritableOutputError: when the disk is full.
    """
    folder = run / "report"
    make_folder(folder)
    predict = network_predictor(network, find_recipe(NUCLEI).pixels)
    options = chosen_options(list(dsb2018.read_images(data, "tune")), predict)
    held_out = next(dsb2018.read_images(data, "validate"), None) is not None
    measured_on = VALIDATE if held_out else TRAIN
    losses = [(epoch.steps, epoch.loss) for epoch in history.epochs]
    plots.draw_losses(folder / "curves.png", losses)
    detail = cells.describe(_tried(data, measured_on, predict, options), folder, data.resolve().name)
    report = {
        "settings": asdict(settings),
        "losses": [{"step": step, "loss": loss} for step, loss in losses],
        "thresholds": options.model_dump(),
        "measured_on": measured_on,
        **detail,
    }
    text = json.dumps(without_nan(report), indent=2, ensure_ascii=False)
    write_file(folder / "report.json", text.encode() + b"\n")
    return Report(measured_on, detail["figures"])


def _tried(data: Path, split: dsb2018.Split, predict: Predict, options: UnetOptions) -> Iterator[cells.Tried]:
    for item in dsb2018.read_images(data, split):
        yield cells.Tried(f"{item.stem}.png", item.image, item.labels, decode(predict(item.image), options))
