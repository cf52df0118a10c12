"""What a job keeps of its analysis for the GeoJSON of fields."""

from __future__ import annotations

from dataclasses import replace

from made_analysis import make_analysis
from slidecascade.jobs.frame import Frame
from slidecascade.outputs.provenance import provenance


def test_a_field_states_what_its_job_states() -> None:
    """All that the GeoJSON says of the analysis, also where the size of pixels was estimated from the cells."""
    whole = replace(make_analysis(0), object_diameter_px=17.5, tta="d4", origin="bounds")
    kept = Frame.decode(Frame.of(whole).encode()).analysis()
    assert provenance(kept) == provenance(whole)
