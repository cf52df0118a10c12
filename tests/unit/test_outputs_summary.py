"""The numbers of a region."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_analysis import HEATMAPS, make_analysis
from slidecascade import wire
from slidecascade.geometry import Box
from slidecascade.kinds.result import FailedTile
from slidecascade.outputs.cells.summary import summarise
from slidecascade.outputs.colormap import Colormap
from slidecascade.pipelines.classes import CellClass, ClassTree


def test_fractions_name_their_denominators() -> None:
    """A derived class is a part of its parent, a top-level class a part of all cells; parents are listed too."""
    summary = summarise(make_analysis(53))

    assert summary.cells == 53
    assert summary.counts == {
        "Hepatocyte: Normal": 11,
        "Hepatocyte: Ballooning": 11,
        "Hepatocyte: Steatosis": 11,
        "Immune": 10,
        "Other": 10,
    }
    assert summary.fractions["Hepatocyte: Steatosis"] == wire.Share(
        value=round(1 / 3, 6), numerator=11, denominator=33, of="Hepatocyte"
    )
    assert summary.fractions["Hepatocyte"] == wire.Share(
        value=round(33 / 53, 6), numerator=33, denominator=53, of="all cells"
    )
    assert summary.fractions["Immune"].of == "all cells"
    assert list(summary.fractions) == list(summary.densities_per_mm2)


def test_a_parent_that_is_also_a_class_counts_itself_and_its_children() -> None:
    """Hepatocytes that no later stage classified stay in the denominator."""
    base = make_analysis(10)
    classes = ClassTree((CellClass(("Hepatocyte",), (0, 0, 0)), *base.classes.ends[1:]))

    fractions = summarise(replace(base, classes=classes)).fractions

    assert (fractions["Hepatocyte"].numerator, fractions["Hepatocyte"].denominator) == (6, 10)
    assert (fractions["Hepatocyte: Ballooning"].numerator, fractions["Hepatocyte: Ballooning"].denominator) == (
        2,
        6,
    )


def test_densities_are_per_mm2_of_tissue() -> None:
    """Half of 0.12 mm2 is tissue: 10 cells there are 166.67 per mm2."""
    tissue = np.zeros((38, 50), np.bool_)
    tissue[:, :25] = True
    summary = summarise(make_analysis(50, tissue=tissue))

    assert summary.area_mm2 == pytest.approx(0.12)
    assert summary.tissue_area_mm2 == pytest.approx(0.06)
    assert summary.densities_per_mm2["Immune"] == pytest.approx(10 / 0.06, abs=0.01)
    assert summary.densities_per_mm2["Hepatocyte"] == pytest.approx(30 / 0.06, abs=0.01)


def test_nothing_counted_is_null_not_zero_and_not_an_error() -> None:
    """Without cells fractions are null; without tissue densities are null; the JSON has no NaN."""
    summary = summarise(make_analysis(0, tissue=np.zeros((38, 50), np.bool_)))

    assert summary.cells == 0
    assert all(share.value is None and share.denominator == 0 for share in summary.fractions.values())
    assert set(summary.densities_per_mm2.values()) == {None}
    assert "NaN" not in summary.model_dump_json()
    assert wire.Summary.model_validate_json(summary.model_dump_json()) == summary


def test_the_summary_carries_its_provenance() -> None:
    """Tiles, models, thresholds, legends, timings and the notice are there."""
    failed = FailedTile(Box(1000, 2000, 256, 256), "lost")
    summary = summarise(make_analysis(failed=(failed,)), colormap=Colormap.JET)

    assert summary.research_use_only == wire.RESEARCH_USE_ONLY
    assert summary.tiles == wire.Tiles(
        total=12,
        background=3,
        failed=(wire.FailedTile(x=1000, y=2000, width=256, height=256, reason="lost"),),
    )
    assert [model.name for model in summary.models] == ["nuclei", "nash-cell", "nash-hepatocyte"]
    assert [legend.name for legend in summary.heatmaps] == [spec.name for spec in HEATMAPS]
    assert {legend.colormap for legend in summary.heatmaps} == {"jet"}
    assert summary.timings_s == {"segment": 1.2346, "total": 2.0}
