"""In the confined process: from the file of a library to the served graph, compared with the original."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from slidecascade.errors import ConversionError, InvalidRequestError
from slidecascade.heads.table import find
from slidecascade.models.spec import ModelClass, SegmenterSpec
from slidecascade.models.tensors import InputSpec, OutputSpec, Tensors
from slidecascade_convert.agreement import Agreement
from slidecascade_convert.libraries import trial
from slidecascade_convert.libraries.detections import paired
from slidecascade_convert.libraries.network import LibraryNetwork
from slidecascade_convert.library_request import LibraryRequest
from slidecascade_convert.outcome import GRAPH_FILE, LibraryOutcome, Outcome, Parity
from slidecascade_convert.package import ServedGraph
from slidecascade_convert.receptive_field import receptive_field_px
from slidecascade_convert.sessions import open_session, runtime_errors
from slidecascade_convert.source import SourceFormat, recognise, sha256

if TYPE_CHECKING:
    import onnx

_STEP_PX: Final = 64
_TOLERANCE: Final = 1e-4
_LEAST_PAIRED: Final = 0.98
_NUCLEUS_COLOUR: Final = (0, 158, 115)
_OBJECT_PX: Final = 28
"""What a head needs around its objects beyond the receptive field."""

_WIDEST_HALO_PX: Final = 256
_MIN_IR_VERSION: Final = 8


def convert_library(request: LibraryRequest, folder: Path, *, network_was_reachable: bool) -> Outcome:
    """Convert in this process; the graph lies in `folder`.

    Raises:
        SlideCascadeError: when the source cannot become a served model.
    """
    form = recognise(request.source)
    network = _open(request, form, folder)
    served = _served(network, request.name)
    graph = ServedGraph.of(served)
    agreement = _compare(network, served)
    image = network.image
    field = receptive_field_px(served, image.name, layout=image.layout, multiple_of=image.multiple_of)
    spec = SegmenterSpec(
        name=request.name,
        version=request.version,
        task="segment",
        head=network.head,
        mpp=network.mpp,
        inputs=(image,),
        outputs=network.outputs,
        classes=(ModelClass(name=request.classes[0], color=_NUCLEUS_COLOUR),),
        licence=request.licence,
        training_data=(),
        accuracy={},
        sha256=graph.sha256,
        halo_px=_halo_px(request, field),
        options=find(network.head).options.model_validate(network.options),
        **({} if network.object_diameter_px is None else {"object_diameter_px": network.object_diameter_px}),
    )
    parity = Parity(
        source_format=form.value,
        source_sha256=sha256(request.source),
        tiles="smoothed noise",
        agreement=agreement,
        network_was_reachable=network_was_reachable,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        versions=network.versions,
        notes=network.notes,
    )
    trial.run(network, served).save(folder)
    (folder / GRAPH_FILE).write_bytes(graph.content)
    return Outcome(parity=parity, library=LibraryOutcome(title=network.title, spec=spec))


def _open(request: LibraryRequest, form: SourceFormat, folder: Path) -> LibraryNetwork:
    """The seam for libraries."""
    library = request.library
    if form is SourceFormat.STARDIST and library in (None, "stardist"):
        from slidecascade_convert.libraries.stardist import open_stardist

        return open_stardist(request, folder)
    if form is SourceFormat.SAVED_MODEL and library in (None, "mesmer"):
        from slidecascade_convert.libraries.mesmer import open_mesmer

        return open_mesmer(request)
    if form in (SourceFormat.TORCH_CHECKPOINT, SourceFormat.SAFETENSORS) and library not in ("stardist", "mesmer"):
        from slidecascade_convert.libraries.torch_library import open_state_dict

        return open_state_dict(request, form)
    wanted = f", and {library} is saved as another" if library else ""
    raise InvalidRequestError(
        f"The source is a {form.value} file{wanted}: give the file of the library's own saver, or state --task "
        "and --head."
    )


def _served(network: LibraryNetwork, name: str) -> onnx.ModelProto:
    """The graph, whose tensors are exactly those that are stated."""
    from onnx import helper

    model = network.export()
    for values, stated in ((model.graph.input, (network.image,)), (model.graph.output, network.outputs)):
        del values[:]
        values.extend(
            helper.make_tensor_value_info(each.name, helper.np_dtype_to_tensor_dtype(each.numpy_dtype), each.shape)
            for each in stated
        )
    model.graph.name, model.producer_name = name, "slidecascade"
    model.ir_version = max(model.ir_version, _MIN_IR_VERSION)
    return model


def _compare(network: LibraryNetwork, served: onnx.ModelProto) -> Agreement:
    """Both on images of several sizes and in batches; raises ConversionError when they differ."""
    session = open_session(served)
    names = [output.name for output in network.outputs]
    largest, total, count, seen, pairs, objects = 0.0, 0.0, 0, 0, 0, (0, 0)
    images = list(_images(network))
    for batch in images:
        for size in network.batches:
            given = batch[:size]
            expected: Tensors = network.predict(given)
            found: Tensors = dict(zip(names, _run(session, names, network.image, given), strict=True))
            if network.finds_boxes:
                both = paired(expected, found)
                expected, found = both.first, both.second
                pairs += len(expected["scores"])
                objects = (objects[0] + both.counts[0], objects[1] + both.counts[1])
            for output in network.outputs:
                difference = _difference(output, expected, found)
                largest = max(largest, float(difference.max(initial=0)))
                total, count = total + float(difference.sum()), count + difference.size
            seen += size
    # A comparison with NaN is False, so that this also refuses a graph that answers NaN.
    if not largest <= _TOLERANCE:
        raise ConversionError(
            f"The served graph differs from the original by up to {largest:.3g}, more than {_TOLERANCE:g}: "
            "nothing was written."
        )
    share = 2 * pairs / sum(objects) if sum(objects) else None
    if share is not None and share < _LEAST_PAIRED:
        raise ConversionError(
            f"Of the detections of the served graph and of the original {share:.1%} are the same, less than "
            f"{_LEAST_PAIRED:.0%}: nothing was written."
        )
    timed = images[0]
    return Agreement(
        sizes_px=tuple(_sizes_px(network)),
        batches=network.batches,
        images=seen,
        max_abs=largest,
        mean_abs=total / max(1, count),
        tolerance=_TOLERANCE,
        object_agreement=share,
        objects=objects[0] if network.finds_boxes else None,
        original_ms=_per_image_ms(lambda: network.predict(timed), len(timed)),
        served_ms=_per_image_ms(lambda: _run(session, names, network.image, timed), len(timed)),
    )


def _difference(output: OutputSpec, expected: Tensors, found: Tensors) -> npt.NDArray[np.float64]:
    """Of two outputs, in units of the larger of 1 and the original's greatest value."""
    first, second = expected[output.name], found[output.name]
    if first.shape != second.shape:
        raise ConversionError(
            f"The served graph returns {output.name!r} of the shape {second.shape} where the original has "
            f"{first.shape}: nothing was written."
        )
    scale = max(1.0, float(np.abs(first).max()))
    return np.abs(first.astype(np.float64) - second) / scale


def _run(session: Any, names: list[str], image: InputSpec, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    try:
        return list(session.run(names, {image.name: images}))
    except runtime_errors() as error:
        raise ConversionError(
            f"The graph does not run on a batch of the shape {images.shape}: the network cannot be served."
        ) from error


def _sizes_px(network: LibraryNetwork) -> Iterator[tuple[int, int]]:
    step = max(_STEP_PX, network.image.multiple_of)
    return ((rows * step, columns * step) for rows, columns in network.sizes)


def _images(network: LibraryNetwork) -> Iterator[npt.NDArray[Any]]:
    """Batches of images of smoothed noise, of every size."""
    image = network.image
    rng = np.random.default_rng(0)
    for height, width in _sizes_px(network):
        noise = [
            cv2.GaussianBlur(rng.random((height, width, image.channel_count), np.float32), (0, 0), 2)
            for _ in range(max(network.batches))
        ]
        values = np.stack([each.reshape(height, width, -1) for each in noise])
        values = np.clip((values - 0.5) * 4 + 0.5, 0, 1)
        if image.dtype == "uint8":
            values = np.round(values * 255).astype(np.uint8)
        yield np.ascontiguousarray(values.transpose(0, 3, 1, 2) if image.layout == "NCHW" else values)


def _halo_px(request: LibraryRequest, field: int | str | None) -> int:
    """Half of the receptive field and an object, where tiles can afford that."""
    if request.halo_px is not None:
        return request.halo_px
    return min(_WIDEST_HALO_PX, field // 2 + _OBJECT_PX) if isinstance(field, int) else _WIDEST_HALO_PX // 2


def _per_image_ms(run: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    run()
    return round(1000 * (time.perf_counter() - start) / count, 2)
