"""An `Analyser` with toy models, and surveys of images with it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.jobs.collect import CellsSurvey, Collection
from slidecascade.jobs.parts import FieldReport
from slidecascade.settings import Settings
from slidecascade.timing import Silent
from toy_pipeline import ToyPipeline


def toy_analyser(toy: ToyPipeline, **settings: object) -> Analyser:
    """An analyser of the pipeline `toy`."""
    fields = {"models_dir": toy.models_dir, "pipelines_dir": toy.pipelines_dir, "threads": 2, **settings}
    return Analyser(Settings.model_validate(fields), observer=Silent())


def png_of(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])


def survey_of(
    analyser: Analyser,
    image: NDArray[np.uint8],
    folder: Path,
    *,
    field_tiles: int = 2,
    **fields: object,
) -> CellsSurvey:
    """The survey of an uploaded image in small fields; `fields` are those of the request."""
    request = wire.parse_request({"pipeline": "toy", "mpp": 0.5, "tile_px": 64, **fields})
    task = analyser.prepare(request, png_of(image), Control(), is_bounded=False)
    return CellsSurvey(analyser, task, folder, field_tiles=field_tiles)


def run_all(survey: CellsSurvey) -> list[FieldReport]:
    """Every field's report; those that are not done are run."""
    return [report or survey.run(field, Control()) for field, report in survey.reports()]


def collected(survey: CellsSurvey) -> Collection:
    return Collection(survey, run_all(survey), seconds=1.0)
