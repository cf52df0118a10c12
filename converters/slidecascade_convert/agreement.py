"""Does the served graph answer as the original does? Measured on the same uint8 tiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError
from slidecascade.heads.head import ObjectHead
from slidecascade.heads.objects import Labels
from slidecascade.heads.table import find
from slidecascade_convert.graph import OUTPUTS, PROBABILITY_MAPS, with_output
from slidecascade_convert.half import HALF_TOLERANCE
from slidecascade_convert.heads import Floats, network_input, probabilities
from slidecascade_convert.original import Original
from slidecascade_convert.request import ConversionRequest
from slidecascade_convert.sessions import open_session, run_session
from slidecascade_convert.tiles import Images

if TYPE_CHECKING:
    import onnx

BATCHES: Final = (1, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Original and served graph, over all sizes and batches.

    Attributes:
        sizes_px: (height, width) pairs that were tried.
        max_abs, mean_abs: difference of probabilities.
        argmax_agreement: share of images with the same most probable class; None for a segmenter.
        object_agreement: ``2 * pairs / (objects + objects)``, pairs overlapping by more than half (intersection
            over union), of the objects decoded from both; None for a classifier, and where neither has any.
        objects: number of objects decoded from the original's maps.
        original_ms, served_ms: time per image of a batch of four of the first size, once.
    """

    sizes_px: tuple[tuple[int, int], ...]
    batches: tuple[int, ...] = BATCHES
    images: int
    max_abs: float
    mean_abs: float
    tolerance: float
    argmax_agreement: float | None = None
    object_agreement: float | None = None
    objects: int | None = None
    original_ms: float
    served_ms: float


@dataclass(frozen=True, slots=True)
class _Compared:
    """One batch: probabilities as the original implies them, as the graph computes and as it returns them."""

    expected: Floats
    inner: Floats
    returned: npt.NDArray[Any]


def compare(
    original: Original,
    served: onnx.ModelProto,
    request: ConversionRequest,
    channels: tuple[int, ...],
    tiles: Sequence[Images],
) -> Agreement:
    """Run both on every size in `tiles` (at least four images each), in batches of one and four.

    Raises:
        ConversionError: a difference is beyond the tolerance, or the graph froze its batch or size.
    """
    is_segmenter = request.task == "segment"
    names = [PROBABILITY_MAPS, OUTPUTS["segment"]] if is_segmenter else [OUTPUTS["classify"]]
    session = _session(served, request)
    compared = [
        _run(original, session, request, channels, images[:batch], names) for images in tiles for batch in BATCHES
    ]
    timed = tiles[0][: max(BATCHES)]
    pixels = network_input(timed, request, original.facts)
    differences = np.concatenate(
        [np.abs(each.inner.astype(np.float64) - each.expected).ravel() for each in compared]
    )
    largest = float(differences.max())
    # A comparison with NaN is False, so that this also refuses a graph that answers NaN.
    tolerance = max(original.facts.tolerance, HALF_TOLERANCE if request.fp16 else 0.0)
    if not largest <= tolerance:
        raise ConversionError(
            f"The served graph differs from the original by up to {largest:.3g}, more than {tolerance:g}: nothing "
            "was written; export the model another way."
        )
    return Agreement(
        sizes_px=tuple((images.shape[1], images.shape[2]) for images in tiles),
        images=sum(len(each.expected) for each in compared),
        max_abs=largest,
        mean_abs=float(differences.mean()),
        tolerance=tolerance,
        original_ms=_per_image_ms(lambda: original.predict(pixels), len(timed)),
        served_ms=_per_image_ms(lambda: run_session(session, timed), len(timed)),
        **(_objects(compared, request) if is_segmenter else {"argmax_agreement": _same_class(compared)}),
    )


def _session(served: onnx.ModelProto, request: ConversionRequest) -> Any:
    if request.task != "segment":
        return open_session(served)
    with with_output(served, PROBABILITY_MAPS, request.maps) as inspected:
        return open_session(inspected)


def _run(
    original: Original,
    session: Any,
    request: ConversionRequest,
    channels: tuple[int, ...],
    images: Images,
    names: list[str],
) -> _Compared:
    output = original.predict(network_input(images, request, original.facts))
    answers = run_session(session, images, outputs=names)
    expected = probabilities(output, request, original.facts, channels)
    if answers[0].shape != expected.shape:
        raise ConversionError(
            f"The served graph answers with the shape {answers[0].shape} where the original has {expected.shape}: "
            "export it with a dynamic batch."
        )
    return _Compared(expected, answers[0], answers[-1])


def _per_image_ms(run: Callable[[], object], count: int) -> float:
    """Milliseconds per image, after a warm-up."""
    start = time.perf_counter()
    run()
    return round(1000 * (time.perf_counter() - start) / count, 2)


def _same_class(compared: Sequence[_Compared]) -> float:
    same = [each.expected.argmax(axis=1) == each.inner.argmax(axis=1) for each in compared]
    return float(np.concatenate(same).mean())


def _objects(compared: Sequence[_Compared], request: ConversionRequest) -> dict[str, Any]:
    pairs = objects = served_objects = 0
    for each in compared:
        whole = np.round(255 * each.expected.clip(0, 1)).astype(np.uint8)
        for first, second in zip(whole, each.returned, strict=True):
            ours, theirs = decoded(first, request), decoded(second, request)
            pairs += overlapping(ours, theirs)
            objects += int(ours.max())
            served_objects += int(theirs.max())
    together = objects + served_objects
    return {"object_agreement": 2 * pairs / together if together else None, "objects": objects}


def decoded(maps: Images, request: ConversionRequest) -> npt.NDArray[np.int32]:
    """The label image of uint8 ``(H, W, C)`` maps, with the head's default options."""
    head = find(request.head)
    assert isinstance(head, ObjectHead)  # noqa: S101 - a request for a segmenter names one
    found = head.decode({request.outputs[0].name: maps}, head.options(), mpp=request.mpp)
    assert isinstance(found, Labels)  # noqa: S101 - the heads that are converted to find label images
    return found.image


def overlapping(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> int:
    """Pairs of labels whose intersection is more than half of their union; each label is in at most one."""
    width = int(second.max()) + 1
    counts = np.bincount(
        (first.astype(np.int64) * width + second).ravel(), minlength=width * (int(first.max()) + 1)
    )
    table = counts.reshape(-1, width)
    union = table.sum(axis=1)[:, None] + table.sum(axis=0)[None, :] - table
    return int((2 * table > union)[1:, 1:].sum())
