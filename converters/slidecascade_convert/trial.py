"""The network and the served graph on a few tiles, to be shown beside each other.

Source networks run in the confined process only: it stores what both answer, and its parent draws that.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade.models.spec import SegmenterSpec
from slidecascade_convert import tiles
from slidecascade_convert.agreement import BATCHES, decoded
from slidecascade_convert.graph import OUTPUTS
from slidecascade_convert.heads import network_input, probabilities
from slidecascade_convert.outcome import TRIED_FILE, TRY_FILE
from slidecascade_convert.request import Task
from slidecascade_convert.sessions import open_session, run_session

if TYPE_CHECKING:
    import onnx

    from slidecascade_convert.original import Original
    from slidecascade_convert.request import ConversionRequest

TILE_PX: Final = 256
SCENE_PX: Final = 768
"""Least side of the rendered tissue that tiles are chosen from."""

SEGMENTER_TILES, CLASSIFIER_TILES = 4, 12
_CHECK: Final = "check --scale, --mean, --std, --bgr, --channels and --mpp, or give --try an image"
_CHECK_LIBRARY: Final = "check --input-channels and --mpp or --diameter, or use `slidecascade try` on an image"
RENDERED, CALIBRATION, GIVEN = "rendered liver tissue", "images of --calibrate", "the image of --try"
SYNTHESIZED: Final = "synthesized nuclei"
_ORIGINS: Final = frozenset({RENDERED, SYNTHESIZED, CALIBRATION, GIVEN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose trial it is; `check` says what to look at when nothing is found, and ends in "an image"."""

    name: str
    task: Task
    mpp: float
    classes: tuple[str, ...]
    crop_px: int | None = None
    check: str

    @classmethod
    def of(cls, request: ConversionRequest) -> Subject:
        return cls(
            name=request.name,
            task=request.task,
            mpp=request.mpp,
            classes=request.classes,
            crop_px=request.crop_px,
            check=_CHECK,
        )

    @classmethod
    def of_library(cls, spec: SegmenterSpec) -> Subject:
        """Of the package of a library's network."""
        names = tuple(each.name for each in spec.classes)
        return cls(name=spec.name, task="segment", mpp=spec.mpp, classes=names, check=_CHECK_LIBRARY)


@dataclass(frozen=True, slots=True)
class Trial:
    """What original and served graph find.

    Attributes:
        tiles: uint8 RGB ``(N, H, W, 3)``.
        origin: where these are from.
        source, served: label images, int32 ``(N, H, W)``, of a segmenter; probabilities, float32 ``(N, C)``, of a
            classifier.
    """

    tiles: npt.NDArray[np.uint8]
    origin: str
    source: npt.NDArray[Any]
    served: npt.NDArray[Any]

    def save(self, folder: Path) -> None:
        """Write it to `folder`."""
        origin = np.array(self.origin)
        np.savez(folder / TRIED_FILE, tiles=self.tiles, origin=origin, source=self.source, served=self.served)

    @classmethod
    def load(cls, folder: Path, subject: Subject) -> Trial:
        """The trial that a process has left in `folder`.

        Raises:
            ConversionError: it is not one of a network like that of `subject`.
        """
        try:
            with (folder / TRIED_FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found = cls(stored["tiles"], str(stored["origin"]), stored["source"], stored["served"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConversionError("The conversion left no tiles to show: try again.") from error
        count = len(found.tiles)
        wanted: tuple[np.dtype[Any], tuple[int, ...]]
        if subject.task == "segment":
            wanted = (np.dtype(np.int32), found.tiles.shape[:3])
        else:
            wanted = (np.dtype(np.float32), (count, len(subject.classes)))
        is_images = found.tiles.dtype == np.uint8 and found.tiles.ndim == 4 and found.tiles.shape[3] == 3
        if (
            found.origin not in _ORIGINS
            or not count
            or not is_images
            or any((each.dtype, each.shape) != wanted for each in found.both)
        ):
            raise ConversionError("The conversion left tiles that cannot be shown: try again.")
        return found

    @property
    def both(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return self.source, self.served


def run(
    original: Original,
    served: onnx.ModelProto,
    request: ConversionRequest,
    channels: tuple[int, ...],
    folder: Path,
) -> Trial:
    """Run both on tiles of the image in `folder`, or of `request.calibrate`, or of rendered tissue."""
    images, origin = _tiles(request, folder)
    session = open_session(served)
    step = max(BATCHES)
    sources, answers = [], []
    for start in range(0, len(images), step):
        some = images[start : start + step]
        output = original.predict(network_input(some, request, original.facts))
        sources.append(probabilities(output, request, original.facts, channels))
        answers.append(run_session(session, some, outputs=[OUTPUTS[request.task]])[0])
    source, answer = np.concatenate(sources), np.concatenate(answers)
    if request.task == "classify":
        return Trial(images, origin, source, answer.astype(np.float32))
    whole = np.round(255 * source.clip(0, 1)).astype(np.uint8)
    return Trial(
        images,
        origin,
        np.stack([decoded(maps, request) for maps in whole]),
        np.stack([decoded(maps, request) for maps in answer]),
    )


def _tiles(request: ConversionRequest, folder: Path) -> tuple[npt.NDArray[np.uint8], str]:
    """Tiles of the size that the network takes, and where they are from."""
    is_classifier = request.task == "classify"
    side_px = request.input_px if is_classifier and request.input_px is not None else TILE_PX
    count = CLASSIFIER_TILES if is_classifier else SEGMENTER_TILES
    crop_px = request.crop_px or side_px if is_classifier else side_px
    if (folder / TRY_FILE).is_file():
        image = np.load(folder / TRY_FILE, allow_pickle=False)
        return tiles.resized(tiles.lively(image, crop_px, count), side_px), GIVEN
    if request.calibrate is not None:
        own = tiles.from_folder(request.calibrate, side_px, side_px, resize=is_classifier)
        return own[:count], CALIBRATION
    scene = tiles.rendered(1, *(max(SCENE_PX, 4 * crop_px),) * 2, mpp=request.mpp)[0]
    return tiles.resized(tiles.lively(scene, crop_px, count), side_px), RENDERED
