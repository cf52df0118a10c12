"""A cell of a job's result as a network of its pipeline was given it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.cropview import crop_of
from slidecascade.cancellation import Control
from slidecascade.jobs.folders import Folders
from slidecascade.jobs.records import JobRecord
from slidecascade.slides.visible import Visible
from slidecascade.wire import RegionBox


def cell_crop(
    analyser: Analyser,
    folders: Folders,
    record: JobRecord,
    model: str,
    point_l0: tuple[float, float],
    *,
    visible: Visible,
) -> NDArray[np.uint8]:
    """``(H, W, 3)`` RGB of the cell at a point: around its own centroid, with what the job asked for.

    Raises what `Analyser.prepare`, `Folders.centroid` and `crop_of` do.
    """
    x, y = folders.centroid(record.id, point_l0)
    pixel = RegionBox(x=int(x), y=int(y), width=1, height=1)
    request = record.request.region_request().model_copy(update={"region": pixel})
    task = analyser.prepare(request, folders.sent(record), Control(), is_bounded=False, visible=visible)
    return crop_of(task, model, (x, y))
