"""What a run of the nuclei recipe came to: its curve while it trains, its report at the end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from slidecascade.errors import InvalidRequestError
from slidecascade_evaluation import dsb2018
from slidecascade_training import nuclei_package
from slidecascade_training.datasets.split import TRAIN, VALIDATE
from slidecascade_training.recipes import cells, plots
from slidecascade_training.recipes.eventlog import EventLog
from slidecascade_training.recipes.report import Report, without_nan
from slidecascade_training.staging import unwritable, write_whole

if TYPE_CHECKING:
    from slidecascade_training.nuclei_package import HeadOptions, Maps

Predict = Callable[[Any], "Maps"]

_FEW: Final = 4  # tiles; thresholds chosen by fewer fit those tiles alone


class LossCurve:
    """Mean losses by step of the run, in ``losses.csv`` and for TensorBoard; a resumed run goes on with them.

    Raises:
        InvalidRequestError: ``losses.csv`` is not what was written here.
        UnwritableOutputError: a full disk.
    """

    def __init__(self, run: Path) -> None:
        self._path, self._folder = run / "losses.csv", run / "events"
        self._events: EventLog | None = None
        self._rows = dict(read_losses(self._path))

    def add(self, step: int, loss: float) -> None:
        """The mean loss of the steps up to `step`; steps taken again after a kill replace what they gave."""
        self._rows = {earlier: value for earlier, value in self._rows.items() if earlier < step} | {step: loss}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("step", "loss"), *((row, f"{value:.6g}") for row, value in self._rows.items())])
        write_whole(self._path, text.getvalue().encode())
        if self._events is None:
            self._events = EventLog(self._folder)
        self._events.write(step, {"loss/train": loss})


def read_losses(path: Path) -> tuple[tuple[int, float], ...]:
    """Steps and losses of ``losses.csv``; none when there is no such file.

    Raises:
        InvalidRequestError: it is not what `LossCurve` wrote.
    """
    if not path.is_file():
        return ()
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        return tuple((int(row["step"]), float(row["loss"])) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(
            f"{path} is not the curve that was written there: remove it, and it begins anew."
        ) from error


def write_nuclei_report(network: Any, data: Path, run: Path, settings: Mapping[str, object]) -> Report:
    """Choose thresholds, measure `network` on the slides kept for validation, and write ``report`` in `run`.

    Raises:
        UnwritableOutputError: a full disk.
    """
    folder = run / "report"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    losses = read_losses(run / "losses.csv")
    predict = _predictor(network)
    options = chosen_options(data, predict)
    held_out = next(dsb2018.read_images(data, "validate"), None) is not None
    measured_on = VALIDATE if held_out else TRAIN
    plots.draw_losses(folder / "curves.png", losses)
    detail = cells.describe(_tried(data, measured_on, predict, options), folder, data.resolve().name)
    report = {
        "settings": dict(settings),
        "losses": [{"step": step, "loss": loss} for step, loss in losses],
        "thresholds": asdict(options),
        "measured_on": measured_on,
        **detail,
    }
    write_whole(
        folder / "report.json", json.dumps(without_nan(report), indent=2, ensure_ascii=False).encode() + b"\n"
    )
    return Report(measured_on, detail["figures"])


def chosen_options(data: Path, predict: Predict) -> HeadOptions:
    """Thresholds that suit the tiles kept for choosing them, or middling ones where too few are kept."""
    aside = list(dsb2018.read_images(data, "tune"))
    if len(aside) >= _FEW:
        return nuclei_package.tune(aside, predict)
    return nuclei_package.HeadOptions(foreground=0.5, seed=0.35, prominence=0.15, min_area_um2=6.0)


def _tried(data: Path, split: dsb2018.Split, predict: Predict, options: HeadOptions) -> Iterator[cells.Tried]:
    for item in dsb2018.read_images(data, split):
        found = nuclei_package.decode(predict(item.image), options)
        yield cells.Tried(f"{item.stem}.png", item.image, item.labels, found)


def _predictor(network: Any) -> Predict:
    """The network as it will be served: any size, padded by reflection, maps as grey levels."""

    def predict(image: Any) -> Maps:
        height, width = image.shape[:2]
        below, right = -height % nuclei_package.MULTIPLE_OF, -width % nuclei_package.MULTIPLE_OF
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
        maps = np.asarray(network.predict_on_batch(padded[None].astype(np.float32) * nuclei_package.SCALE))[0]
        return np.ascontiguousarray(np.rint(255 * maps[:height, :width]).astype(np.uint8))

    return predict
