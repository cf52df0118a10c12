"""Cells of a slide by a pipeline's segmenter, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.instances import Instances
from slidecascade.geometry import Box
from slidecascade.settings import read_settings
from slidecascade.slides.slide import can_open
from slidecascade.slides.view import SlideView
from slidecascade.timing import Silent
from slidecascade_evaluation.annotation import Annotation, Points
from slidecascade_training.datasets.specimens import Specimen

_MARGIN_UM: Final = 64.0
"""Margin segmented beyond the outermost annotation, so that no labelled cell lies at the edge of the input."""


def cells_of(
    specimen: Specimen,
    annotations: Sequence[Annotation],
    view: SlideView,
    *,
    pipeline: str,
    models_dir: Path | None,
) -> Instances:
    """The cells around the annotations, in level-0 pixels, as the service finds them in that region.

    Raises:
        UnknownPipelineError: there is none of that name.
        TilesFailedError, UnreadableSlideError: the slide cannot be read there.
    """
    places = [ring for item in annotations for ring in (item.points_l0, *item.rings_l0) if len(ring)]
    if not places:
        return Instances.empty()
    whole = view.extent_l0
    region = _around(np.concatenate(places), _MARGIN_UM / view.mpp_l0).clipped(whole)
    slide = specimen.slide_path.resolve()
    is_slide = can_open(slide)
    settings = read_settings(
        models_dir=models_dir,
        slide_roots=(slide.parent,) if is_slide else None,
        max_region_px=whole.area,  # the server's limit does not apply to the command line
    )
    request = wire.parse_request(
        {
            "pipeline": pipeline,
            "mpp": view.mpp_l0,
            "slide": slide.name if is_slide else None,
            "region": {"x": region.x, "y": region.y, "width": region.width, "height": region.height},
        }
    )
    analyser = Analyser(settings, observer=Silent())
    try:
        image = None if is_slide else slide.read_bytes()
        return analyser.analyse(request, image, Control()).cells.instances
    finally:
        analyser.close()


def _around(points: Points, margin: float) -> Box:
    low = np.floor(points.min(axis=0) - margin).astype(np.int64)
    high = np.ceil(points.max(axis=0) + margin).astype(np.int64)
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
