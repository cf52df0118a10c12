"""A library's network and the served graph on a few rendered images, to be shown beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from slidecascade.heads.head import ObjectHead
from slidecascade.heads.objects import Labels, Objects
from slidecascade.heads.table import find
from slidecascade.models.tensors import Tensors
from slidecascade_convert import tiles
from slidecascade_convert.libraries.network import RGB, LibraryNetwork
from slidecascade_convert.sessions import open_session
from slidecascade_convert.trial import RENDERED, SEGMENTER_TILES, SYNTHESIZED, TILE_PX, Trial
from slidecascade_evaluation.rasters import labels_from_outlines

if TYPE_CHECKING:
    import onnx

_NUCLEUS_UM: Final = 9.0
_COVERED: Final = 0.25
"""Share of a synthesized image that nuclei cover."""


def run(network: LibraryNetwork, served: onnx.ModelProto) -> Trial:
    """What both find in rendered liver for a network of colours, otherwise in synthesized nuclei.

    Every channel of a network of several channels is given the same nuclei.
    """
    image = network.image
    if image.channels == RGB:
        shown, origin = tiles.rendered(SEGMENTER_TILES, TILE_PX, TILE_PX, mpp=network.mpp), RENDERED
        given: npt.NDArray[Any] = shown
    else:
        nuclei, origin = _nuclei(network), SYNTHESIZED
        shown = np.repeat(np.round(255 * nuclei).astype(np.uint8)[..., None], 3, axis=3)
        given = np.repeat(nuclei[..., None], image.channel_count, axis=3)
    if image.layout == "NCHW":
        given = np.ascontiguousarray(given.transpose(0, 3, 1, 2))
    session = open_session(served)
    names = [output.name for output in network.outputs]
    answered = dict(zip(names, session.run(names, {image.name: given}), strict=True))
    return Trial(shown, origin, _decoded(network, network.predict(given)), _decoded(network, answered))


def _nuclei(network: LibraryNetwork) -> npt.NDArray[np.float32]:
    """``(N, H, W)`` of 0 to 1: nuclei of the diameter that the network was trained on, scaled by percentiles."""
    from slidecascade_render.fluorescence.dataset import SynthesisOptions, Synthesizer
    from slidecascade_render.fluorescence.masks import MaskOptions

    diameter_px = network.object_diameter_px or max(8.0, _NUCLEUS_UM / network.mpp)
    cells = max(1, round(_COVERED * TILE_PX**2 / (np.pi / 4 * diameter_px**2)))
    options = SynthesisOptions(
        images=SEGMENTER_TILES,
        seed=4,
        height_px=TILE_PX,
        width_px=TILE_PX,
        masks=MaskOptions(cells=cells, diameter_px=diameter_px),
    )
    synthesizer = Synthesizer.of(options)
    counts = np.stack([synthesizer.image(number).image[..., 0] for number in range(SEGMENTER_TILES)])
    low, high = np.percentile(counts, network.image.percentiles).tolist()
    scaled: npt.NDArray[np.float32] = ((counts - low) / max(high - low, 1.0)).clip(0, 1).astype(np.float32)
    return scaled


def _decoded(network: LibraryNetwork, outputs: Tensors) -> npt.NDArray[np.int32]:
    head = find(network.head)
    assert isinstance(head, ObjectHead)  # noqa: S101 - libraries' networks are segmenters
    options = head.options.model_validate(network.options)
    each = ({name: array[index] for name, array in outputs.items()} for index in range(SEGMENTER_TILES))
    return np.stack([_labels(head.decode(image, options, mpp=network.mpp)) for image in each])


def _labels(found: Objects) -> npt.NDArray[np.int32]:
    if isinstance(found, Labels):
        return found.image[:TILE_PX, :TILE_PX]
    vertices = found.vertices + np.repeat(found.anchors, np.diff(found.offsets), axis=0)
    return labels_from_outlines(vertices, found.offsets, height_px=TILE_PX, width_px=TILE_PX)
