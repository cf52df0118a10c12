"""What a job keeps of its analysis for the GeoJSON of fields."""

from __future__ import annotations

from dataclasses import replace

from made_analysis import make_analysis
from slidecascade.jobs.frame import Frame
from slidecascade.outputs.provenance import provenance


def test_the_cells_of_a_field_state_what_those_of_the_job_state() -> None:
    """All that the GeoJSON says of the analysis, also where the size of pixels was estimated from the cells."""
    whole = replace(make_analysis(), object_diameter_px=17.5, tta="d4", origin="bounds")
    kept = Frame.decode(Frame.of(whole).encode()).analysis()
    assert provenance(kept) == provenance(whole)
