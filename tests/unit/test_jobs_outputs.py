"""What jobs of each kind write, and which of their pictures is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import toy_kinds
from slidecascade.errors import InvalidRequestError, NotAcceptableError, UnknownHeatmapError
from slidecascade.jobs.folders import ResultFile
from slidecascade.jobs.survey import OUTPUTS
from slidecascade.jobs.table import SURVEYS, require_outputs
from slidecascade.web.jobresults import picture, written


@pytest.mark.parametrize(("pipeline", "output"), [("toy-patches", "mask"), ("toy-areas", "parquet")])
def test_a_job_that_would_write_no_output_it_names_is_rejected(tmp_path: Path, pipeline: str, output: str) -> None:
    """The message names the outputs that the kind has; the default, which is for all kinds, passes."""
    found = toy_kinds.ToyKinds(tmp_path).pipelines[pipeline]
    with pytest.raises(InvalidRequestError, match=f"has no {output}: choose") as caught:
        require_outputs(found, (output,))
    assert all(name in str(caught.value) for name in SURVEYS[found.kind].writes)
    for outputs in (OUTPUTS, (), (output, "geojson")):
        require_outputs(found, outputs)


def test_every_output_of_jobs_is_written_by_a_kind() -> None:
    assert frozenset[str]().union(*(kind.writes for kind in SURVEYS.values())) == OUTPUTS | {"dicom"}


def results(folder: Path, *names: str) -> tuple[ResultFile, ...]:
    """Files of a job whose pipeline has the heatmaps zeal and tumor, in this order."""
    (folder / "summary.json").write_text(json.dumps({"heatmaps": [{"name": "zeal"}, {"name": "tumor"}]}))
    return tuple(ResultFile(name, folder / name, 1) for name in sorted((*names, "summary.json")))


def test_the_picture_without_a_name_is_that_of_the_first_heatmap(tmp_path: Path) -> None:
    """As of a region: neither the overlay nor the first in the alphabet."""
    figures = [f"figures/{name}.png" for name in ("overlay", "tumor", "tumor_jet", "zeal")]
    files = results(tmp_path, "heatmaps/tumor.png", "heatmaps/tumor.tiff", "heatmaps/zeal.png", *figures)
    assert picture(files, "figures", None) == tmp_path / "figures/zeal.png"
    assert picture(files, "heatmaps", None) == tmp_path / "heatmaps/zeal.png"
    assert picture(files, "heatmaps", "tumor") == tmp_path / "heatmaps/tumor.png"
    assert picture(files, "figures", "overlay") == tmp_path / "figures/overlay.png"
    with pytest.raises(UnknownHeatmapError, match="'other'"):
        picture(files, "figures", "other")


def test_a_file_that_was_not_written_is_reported_with_those_that_were(tmp_path: Path) -> None:
    files = results(tmp_path, "grid.csv", "figures/tumor.png")
    assert written(files, ".csv").name == "grid.csv"
    with pytest.raises(NotAcceptableError, match=r"no \*\.parquet but grid\.csv, summary\.json: request"):
        written(files, ".parquet")
