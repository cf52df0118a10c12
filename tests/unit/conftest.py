"""What tests of slides share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slidecascade.slides.confinedslides import ConfinedSlides
from slidecascade.slides.openslides import DirectSlides, SlideOpener


@pytest.fixture(scope="session")
def confined_slides() -> Iterator[ConfinedSlides]:
    """Opens slides in processes of their own, forked from one template."""
    opener = ConfinedSlides(retry_after_s=1, died=lambda: None)
    yield opener
    opener.close()


@pytest.fixture(params=["direct", "confined"])
def slide_opener(request: pytest.FixtureRequest) -> SlideOpener:
    """Opens slides in this process, and in others."""
    opener: SlideOpener = (
        DirectSlides() if request.param == "direct" else request.getfixturevalue("confined_slides")
    )
    return opener
