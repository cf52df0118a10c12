"""Accept headers."""

from __future__ import annotations

import pytest

from slidecascade.errors import NotAcceptableError
from slidecascade.web.negotiation import choose
from slidecascade.web.regions import OFFERS
from slidecascade.wire import GEOJSON, JSON, PNG, ZIP


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, GEOJSON),
        ("", GEOJSON),
        ("*/*", GEOJSON),
        ("application/json", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json, text/plain, */*", JSON),
        ("image/*", PNG),
        ("image/png;q=0.4, application/zip;q=0.5", ZIP),
        ("application/*;q=0.5, application/zip;q=0.9", ZIP),
        ("*/*;q=0.1, application/geo+json;q=0", JSON),
        ("text/html, */*;q=0.1", GEOJSON),
        ("application/json;q=7", JSON),
        ("nonsense, image/png", PNG),
    ],
)
def test_the_best_liked_answer_is_chosen(accept: str | None, expected: str) -> None:
    """Weights decide, then exactness, then our order; parameters and case do not matter."""
    assert choose(accept, OFFERS) == expected


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/jpeg", "*/json", "nonsense", "application/json;q=0", "*/*;q=0", "image/png;q=nan", ",,;"],
)
def test_nothing_acceptable_is_said_with_the_choice(accept: str) -> None:
    """What cannot be answered is refused with the media types that can."""
    with pytest.raises(NotAcceptableError, match="application/geo"):
        choose(accept, OFFERS)
