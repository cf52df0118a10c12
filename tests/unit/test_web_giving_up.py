"""Work of disconnected clients is not started, and not continued after decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.errors import CancelledError, DeadlineExceededError
from slidecascade.settings import Settings
from slidecascade.slides.canvas import Watch
from slidecascade.slides.source import Rgb
from slidecascade.slides.upload import EncodedImage
from slidecascade.timing import Silent
from toy_pipeline import ToyPipeline

REQUEST = wire.RegionRequest(pipeline="toy", mpp=0.5)
IMAGE = bytes(cv2.imencode(".png", np.full((96, 96, 3), 200, np.uint8))[1])


class Tiles(Silent):
    """Counts the tiles that were worked on."""

    def __init__(self) -> None:
        self.count = 0

    def tiles(self, outcome: str, count: int) -> None:
        self.count += count


@pytest.fixture
def tiles() -> Tiles:
    return Tiles()


@pytest.fixture
def analyser(tmp_path: Path, tiles: Tiles) -> Iterator[Analyser]:
    toy = ToyPipeline(tmp_path)
    settings = Settings(models_dir=toy.models_dir, pipelines_dir=toy.pipelines_dir, threads=1)
    made = Analyser(settings, observer=tiles, make_runner=lambda _packages: toy.runner)
    yield made
    made.close()


def test_a_cancelled_request_is_not_decoded(analyser: Analyser) -> None:
    """What was cancelled while it waited for a thread is not looked at: these bytes are no image."""
    control = Control()
    control.cancel()
    with pytest.raises(CancelledError):
        analyser.analyse(REQUEST, b"no image", control)
    with pytest.raises(DeadlineExceededError):
        analyser.analyse(REQUEST, b"no image", Control(deadline_s=0.0))


def test_a_request_cancelled_while_decoding_goes_no_further(
    analyser: Analyser, tiles: Tiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tile is worked on, and what is left of the image is not decoded."""
    control = Control()

    decode = EncodedImage.decode_watched

    def left_meanwhile(image: EncodedImage, watch: Watch) -> Rgb:
        control.cancel()
        return decode(image, watch)

    analyser.analyse(REQUEST, IMAGE, Control())
    done = tiles.count
    monkeypatch.setattr(EncodedImage, "decode_watched", left_meanwhile)
    with pytest.raises(CancelledError):
        analyser.analyse(REQUEST, IMAGE, control)
    assert tiles.count == done > 0
