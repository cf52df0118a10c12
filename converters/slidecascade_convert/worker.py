"""The confined process: ``python -m slidecascade_convert.worker FOLDER MEMORY_BYTES``.

Reads the request in FOLDER, opens the source with its own framework, makes the served graph, compares the two,
and writes the graph and an `Outcome` to FOLDER. Every refusal is an outcome; the exit code is 0 unless the
process was ended from outside.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from slidecascade_convert.confinement import confine

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    from slidecascade_convert.agreement import Agreement
    from slidecascade_convert.library_request import LibraryRequest
    from slidecascade_convert.original import Facts, Original
    from slidecascade_convert.outcome import Outcome, Parity
    from slidecascade_convert.request import ConversionRequest

# Multiples of 64 satisfy all usual strides; even, odd and unequal multiples detect fixed sizes.
_DYNAMIC_SIZES_PX: Final = ((256, 256), (128, 192), (320, 192))
_MULTIPLES: Final = (1, 2, 4, 8, 16, 32, 64)
_SWAP_TILES: Final = 16
_SAME_ANSWER: Final = 1e-3

_ONE_MAP: Final = (
    "The network has one map, which is served both as foreground and as interior: touching objects are separated "
    "only where it dips below the seed threshold; --head semantic is for networks with a foreground map alone."
)


_LITTLE_IS_COMPARED: Final = (
    "so that the comparison shows little: check --scale and --mean, or give images like those it will see with "
    "--calibrate."
)


def main(folder: Path, memory_bytes: int) -> int:
    """Convert; the exit code."""
    is_cut_off = confine(memory_bytes)
    # Imported only now: numeric libraries start threads, and a process with threads keeps its network.
    from pydantic import TypeAdapter

    from slidecascade.errors import InvalidRequestError, SlideCascadeError
    from slidecascade_convert.library_request import LibraryRequest
    from slidecascade_convert.outcome import OUTCOME_FILE, REQUEST_FILE, Outcome
    from slidecascade_convert.request import ConversionRequest
    from slidecascade_convert.sessions import first_line

    # Each has a required field that the other lacks.
    either: TypeAdapter[ConversionRequest | LibraryRequest] = TypeAdapter(ConversionRequest | LibraryRequest)
    request = either.validate_json((folder / REQUEST_FILE).read_bytes())
    try:
        outcome = _converted(request, folder, network_was_reachable=not is_cut_off)
    except SlideCascadeError as error:
        outcome = Outcome(refusal=error.detail, is_callers_fault=isinstance(error, InvalidRequestError))
    except MemoryError:
        outcome = Outcome(
            refusal=f"The conversion needs more than the {memory_bytes / 2**30:.1f} GiB of memory it may use: "
            "give a smaller network or a larger machine."
        )
    except Exception as error:  # noqa: BLE001 - the boundary: a hostile file can make a framework raise anything
        reason = first_line(error)
        outcome = Outcome(
            refusal=f"The source cannot be converted: save it again, or export it as ONNX. "
            f"({type(error).__name__}: {reason})"
        )
    # What was left to defaults stays so: a package states what its source does.
    (folder / OUTCOME_FILE).write_text(outcome.model_dump_json(exclude_unset=True), encoding="utf-8")
    return 0


def _converted(
    request: ConversionRequest | LibraryRequest, folder: Path, *, network_was_reachable: bool
) -> Outcome:
    from slidecascade_convert.libraries.convert import convert_library
    from slidecascade_convert.request import ConversionRequest

    if isinstance(request, ConversionRequest):
        return convert(request, folder, network_was_reachable=network_was_reachable)
    return convert_library(request, folder, network_was_reachable=network_was_reachable)


def convert(request: ConversionRequest, folder: Path, *, network_was_reachable: bool) -> Outcome:
    """Convert in this process, with `folder` for scratch files and the graph.

    Raises:
        SlideCascadeError: when the source cannot become a served model.
    """
    from slidecascade_convert import graph, heads, trial
    from slidecascade_convert.agreement import compare
    from slidecascade_convert.half import halved
    from slidecascade_convert.outcome import GRAPH_FILE, Outcome
    from slidecascade_convert.quantize import quantised
    from slidecascade_convert.source import recognise, sha256
    from slidecascade_convert.windows import Windowed

    form = recognise(request.source)
    original = _open(request, form, folder)
    request = _with_sizes(request, original)
    windows = graph.windows_of(original.facts, request)
    if windows is not None:
        original = Windowed(original, windows)
    tiles, origin = _tiles(request)
    probe = tiles[0][:1]
    output = original.predict(heads.network_input(probe, request, original.facts))
    channels = heads.served_channels(output, probe, request, original.facts)
    heads.probabilities(output, request, original.facts, channels)
    network = original.export()
    served = graph.serve(halved(network) if request.fp16 else network, original.facts, request, channels)
    agreement = compare(original, served, request, channels, tiles)
    seen = _colour_swap(served, request, tiles) if request.task == "classify" else None
    parity = _parity(
        source_format=form.value,
        source_sha256=sha256(request.source),
        tiles=origin,
        agreement=agreement,
        colour_swap_changes=None if seen is None else seen.changes,
        network_was_reachable=network_was_reachable,
        versions=original.facts.versions,
        notes=(*original.facts.notes, *_notes(request, original.facts, channels)),
        warnings=_warnings(request, original, agreement, seen),
    )
    if request.int8:
        served, quantisation = quantised(served, request, folder)
        parity = parity.model_copy(update={"quantisation": quantisation})
    multiple_of = _multiple_of(served, request.maps) if request.task == "segment" else 1
    if windows is not None:
        multiple_of = windows.step_px
    _describe(served, parity, request)
    trial.run(original, served, request, channels, folder).save(folder)
    (folder / GRAPH_FILE).write_bytes(served.SerializeToString())
    return Outcome(height_px=request.input_px, width_px=request.input_px, multiple_of=multiple_of, parity=parity)


def _open(request: ConversionRequest, form: Any, folder: Path) -> Original:
    """The seam for frameworks: each opens a file as an `Original`."""
    from slidecascade.errors import InvalidRequestError
    from slidecascade_convert.source import SourceFormat

    if form is SourceFormat.STARDIST:
        raise InvalidRequestError("The source is a StarDist folder: leave --task and --head out.")
    if request.lambdas and not form.is_keras:
        raise InvalidRequestError(
            f"--lambda is for Keras files, and the source is a {form.value} file: leave it out."
        )
    if request.arch is not None and not form.may_hold_weights_alone:
        raise InvalidRequestError(
            f"--arch names the network of a file of weights, and the source, a {form.value} file, has its own: "
            "leave it out."
        )
    if form is SourceFormat.ONNX:
        from slidecascade_convert.onnx_original import open_onnx

        return open_onnx(request)
    if form is SourceFormat.SAVED_MODEL:
        from slidecascade_convert.saved_model import open_saved_model

        return open_saved_model(request)
    if form.is_torch:
        from slidecascade_convert.torch_original import open_torch

        return open_torch(request, form, folder)
    from slidecascade_convert.keras_original import open_keras

    return open_keras(request, form, folder)


def _with_sizes(request: ConversionRequest, original: Original) -> ConversionRequest:
    """The request with the served input size; contradictions are rejected."""
    from dataclasses import replace

    from slidecascade.errors import ConversionError, InvalidRequestError

    facts = original.facts
    if facts.takes_bytes and not request.normalisation.is_identity:
        raise InvalidRequestError(
            "The network takes uint8 pixels and normalises by itself: leave --scale and --mean out."
        )
    if facts.is_grey:
        _require_grey(request)
    fixed = {size for size in (facts.height_px, facts.width_px) if size is not None}
    if request.task == "segment":
        return request
    if len(fixed) > 1:
        raise ConversionError(
            f"The network looks at {facts.width_px} x {facts.height_px} px, and crops of cells are square: "
            "retrain it on squares."
        )
    if request.input_px is None and not fixed:
        raise InvalidRequestError(
            "The network takes images of any size: state the size of its training images with --input-size."
        )
    size = request.input_px or fixed.pop()
    if fixed and fixed != {size}:
        raise InvalidRequestError(f"The network looks at {fixed.pop()} px, not at {size}: correct --input-size.")
    return replace(request, input_px=size)


def _require_grey(request: ConversionRequest) -> None:
    from slidecascade.errors import InvalidRequestError

    normalisation = request.normalisation
    if request.bgr or len(set(normalisation.factor)) > 1 or len(set(normalisation.offset)) > 1:
        raise InvalidRequestError(
            "The network sees one channel, grey: give one --mean and --std for all three, and leave --bgr out."
        )


def _tiles(request: ConversionRequest) -> tuple[list[npt.NDArray[Any]], str]:
    """At least four images of every size that is tried, and where they are from."""
    from slidecascade_convert import tiles
    from slidecascade_convert.agreement import BATCHES

    count = max(BATCHES)
    side = request.input_px
    sizes = ((side, side),) if side is not None and request.task == "classify" else _DYNAMIC_SIZES_PX
    found = []
    for height, width in sizes:
        made = tiles.rendered(count, height, width, mpp=request.mpp)
        if request.calibrate is not None:
            own = tiles.from_folder(request.calibrate, height, width, resize=request.task == "classify")
            made = own[:count] if len(own) >= count else own[[index % len(own) for index in range(count)]]
        found.append(made)
    return found, "images of the caller" if request.calibrate else "rendered liver tissue"


@dataclass(frozen=True, slots=True)
class _ColourSwap:
    """Share of tiles whose class changes when red and blue are exchanged; range of probabilities without that."""

    changes: float
    spread: float


def _colour_swap(
    served: onnx.ModelProto, request: ConversionRequest, found: list[npt.NDArray[Any]]
) -> _ColourSwap:
    import numpy as np

    from slidecascade_convert import tiles
    from slidecascade_convert.sessions import open_session, run_session

    height, width = found[0].shape[1:3]
    images = found[0] if request.calibrate else tiles.rendered(_SWAP_TILES, height, width, mpp=request.mpp)
    session = open_session(served)
    seen, swapped = (run_session(session, np.ascontiguousarray(each)) for each in (images, images[..., ::-1]))
    changes = float((seen.argmax(axis=1) != swapped.argmax(axis=1)).mean())
    return _ColourSwap(changes, float(np.ptp(seen, axis=0).max()))


def _warnings(
    request: ConversionRequest, original: Original, agreement: Agreement, seen: _ColourSwap | None
) -> tuple[str, ...]:
    warnings = []
    if seen is not None and seen.changes > 0.5:
        order = "BGR" if request.bgr else "RGB"
        warnings.append(
            f"The class changes on {seen.changes:.0%} of the tiles when red and blue are exchanged: make sure "
            f"that the network was trained on {order}; --bgr is for networks trained on BGR."
        )
    if seen is not None and seen.spread < _SAME_ANSWER:
        warnings.append(f"The network gives all tiles the same probabilities, {_LITTLE_IS_COMPARED}")
    if agreement.objects == 0:
        warnings.append(f"The network finds no objects on the tiles, {_LITTLE_IS_COMPARED}")
    if original.facts.has_rescaling and not request.normalisation.is_identity:
        warnings.append("The network rescales its pixels itself, and --scale or --mean is applied in addition.")
    return tuple(warnings)


def _notes(request: ConversionRequest, facts: Facts, channels: tuple[int, ...]) -> tuple[str, ...]:
    from slidecascade_convert.graph import windows_of
    from slidecascade_convert.original import GREY_NOTE

    notes = [GREY_NOTE] if facts.is_grey else []
    if facts.batch == 1:
        notes.append("The network takes one image at a time, so that the images of a batch run one by one.")
    windows = windows_of(facts, request)
    if windows is not None:
        step = windows.step_px
        notes.append(
            f"The network looks at {windows.width_px} x {windows.height_px} px: it runs on windows of that size, "
            f"{step} px apart, and gives the middle {step} x {step} px of each."
        )
    if request.task == "classify" and len(channels) == 1:
        notes.append("One sigmoid unit is served as two classes.")
    if request.head == "unet" and channels[0] == channels[-1]:
        notes.append(_ONE_MAP)
    return tuple(notes)


def _multiple_of(served: onnx.ModelProto, count: int) -> int:
    """The smallest tried number whose multiples the graph takes as height and width."""
    import numpy as np

    from slidecascade.errors import ConversionError
    from slidecascade_convert.sessions import open_session, run_session

    session = open_session(served)
    for multiple in _MULTIPLES:
        # Odd multiples: even ones would also fit the next smaller stride.
        times = max(3, 96 // multiple | 1)
        height, width = multiple * times, multiple * (times + 2)
        try:
            maps = run_session(session, np.zeros((1, height, width, 3), np.uint8))
        except ConversionError:
            continue
        if maps.shape == (1, height, width, count):
            return multiple
    raise ConversionError("The network runs at no multiple of 64 px: export it with dynamic height and width.")


def _parity(**fields: Any) -> Parity:
    from slidecascade_convert.outcome import Parity

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return Parity(peak_memory_mib=peak, **fields)


def _describe(served: onnx.ModelProto, parity: Parity, request: ConversionRequest) -> None:
    """Where the graph came from, in the file itself."""
    from slidecascade_convert import graph
    from slidecascade_convert.onnx_original import opset_of

    versions = {f"version.{name}": version for name, version in parity.versions.items()}
    facts = {
        "source.sha256": parity.source_sha256,
        "source.format": parity.source_format,
        "opset": str(opset_of(served)),
        "task": request.task,
        "head": request.head,
        "precision": "float16" if request.fp16 else "float32",
        "classes": ",".join(request.classes),
        "pixel_factor": " ".join(f"{each:.9g}" for each in request.normalisation.factor),
        "pixel_offset": " ".join(f"{each:.9g}" for each in request.normalisation.offset),
        "lambdas": " ".join(f"{name}=rescale:{factor:.9g}" for name, factor in request.lambdas.items()),
        "arch": request.arch or "",
    }
    graph.describe(served, {key: value for key, value in (facts | versions).items() if value})


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2])))
