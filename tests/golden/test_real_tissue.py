"""Real tissue through the bundled pipelines: counts stay within bands that were looked at.

The bands were set around the counts of overlays that a person had judged; a change of models that moves a count
out of its band needs a new look, not a wider band.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qupath import check_feature_collection
from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.outputs.cells import geojson, summary
from slidecascade.settings import Settings
from slidecascade.timing import Silent

BANDS = json.loads((Path(__file__).parent / "bands.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", BANDS, ids=lambda case: f"{case['input']}-{case['pipeline']}")
def test_counts_stay_in_their_bands(case: dict[str, object], shared_data: Path) -> None:
    """Every class of the case is counted as often as in the overlay that was looked at, give or take."""
    path = shared_data / str(case["input"])
    slide = path.suffix == ".svs"
    analyser = Analyser(Settings(slide_roots=(path.parent,)), observer=Silent())
    request = wire.parse_request(
        {"pipeline": case["pipeline"], "mpp": case["mpp"], "slide": path.name if slide else None}
    )
    try:
        analysis = analyser.analyse(request, None if slide else path.read_bytes(), Control()).cells
    finally:
        analyser.close()

    counts = {"all": len(analysis.instances)} | dict(summary.summarise(analysis).counts)
    bands: dict[str, list[int]] = case["bands"]  # type: ignore[assignment]  # JSON
    outside = {name: counts[name] for name, (low, high) in bands.items() if not low <= counts[name] <= high}
    assert not outside, counts
    document = b"".join(geojson.encode(analysis)).decode()
    assert check_feature_collection(document) == counts["all"]
