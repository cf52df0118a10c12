"""``slidecascade convert``: converts a trained Keras, PyTorch or ONNX file to a model package."""

from __future__ import annotations

import argparse
import math
import sys
from importlib.util import find_spec
from pathlib import Path

from slidecascade.commands.termination import unwinding
from slidecascade.errors import InvalidRequestError, MissingExtraError
from slidecascade_convert.library_request import LIBRARIES, LibraryRequest
from slidecascade_convert.outcome import Parity, Quantisation
from slidecascade_convert.request import ConversionRequest, Normalisation
from slidecascade_convert.source import SourceFormat, recognise

_NEEDED = ("onnx", "tensorflow", "tf2onnx")
_MPP, _HALO_PX, _MAX_LOSS = 0.25, 64, 0.005
_NEEDED_FOR_TORCH = ("onnx", "onnxscript", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, help="a Keras, PyTorch or ONNX file, or a SavedModel folder")
    add("--name", required=True, help="the model's name")
    add("--task", choices=("segment", "classify"), help="not for the files of a library: see --arch")
    add("--head", choices=("unet", "semantic", "softmax", "sigmoid"), help="the meaning of its output")
    add("--classes", type=_names_of, help="class names in the order of the outputs, a,b,c")
    add(
        "--input-size",
        type=_positive,
        metavar="PX",
        help="input side of a classifier; default: read from the file",
    )
    add("--mpp", type=float, help="um per pixel of the training images (0.25; of a library's network: no default)")
    add("--diameter", type=float, metavar="UM", help="mean diameter of the cells that a CPnet is to find")
    add("--input-channels", type=_names_of, default=(), metavar="A[,B]",
        help="meanings of the channels that a library's network is given, such as nuclear")  # fmt: skip
    add(
        "--crop",
        type=_positive,
        metavar="PX",
        help="side of a cell's crop before resizing (default: the input size)",
    )
    add("--halo", type=int, metavar="PX", help="pixels that a segmenter reads around each tile (64)")
    add("--scale", type=_number_of, help="factor on the pixels of 0 to 255, e.g. 1/255")
    add("--mean", type=_numbers_of, help="mean per channel of the scaled pixels, e.g. 0.5,0.5,0.5")
    add("--std", type=_numbers_of, help="standard deviation per channel")
    add("--bgr", action="store_true", help="the network was trained on BGR")
    add("--logits", action="store_true", help="the network returns logits: add the softmax or sigmoid")
    add(
        "--channels", type=_channels_of, default=(), metavar="F[,I]", help="foreground and interior output channel"
    )
    add("--arch", metavar="NAME|module:callable",
        help=f"the network of a file with weights only, or a library's ({', '.join(LIBRARIES)}), which is also "
        "recognised by its file")  # fmt: skip
    add("--lambda", dest="lambdas", type=_lambda_of, action="append", default=[], metavar="NAME=rescale:0.00392",
        help="replacement of a Lambda layer, whose code is never run")  # fmt: skip
    add("--licence", default="not stated", help="the weights' licence")
    add("--version", type=_positive, default=1, help="version of the package (1)")
    add("--quantize", choices=("int8",), help="try int8; used if its decisions agree and it is faster")
    add("--fp16", action="store_true", help="half precision, for GPUs; probabilities may differ by 0.005")
    add("--calibrate", type=Path, metavar="DIR", help="representative images")
    add("--try", dest="try_image", type=Path, metavar="IMAGE",
        help="image or slide for the picture (default: images of --calibrate, or rendered liver)")  # fmt: skip
    add("--max-loss", type=float, help="maximum fraction of decisions changed by int8 (0.005)")
    add("--out", type=Path, default=Path("models"), help="the models folder")


def run(arguments: argparse.Namespace) -> int:
    """Convert and print the measurements; exit code 0, or an error without partial files."""
    request = request_of(arguments)
    missing = [name for name in _needed(recognise(request.source)) if find_spec(name) is None]
    if missing:
        raise MissingExtraError.of(missing[0], "convert", "for `slidecascade convert`")
    from slidecascade_convert.conversion import convert

    with unwinding():
        finished = convert(request)
    for warning in finished.parity.warnings:
        sys.stderr.write(f"slidecascade: warning: {warning}\n")
    sys.stdout.write(describe(finished.parity))
    sys.stdout.write(f"{finished.found}\n")
    sys.stdout.write(f"{request.name} is in {finished.folder}, the picture is {finished.picture}.\n")
    return 0


def request_of(arguments: argparse.Namespace) -> ConversionRequest | LibraryRequest:
    """What the arguments ask for.

    Raises:
        InvalidRequestError: they contradict each other.
    """
    return _library_request(arguments) if _is_librarys(arguments) else _request(arguments)


def _is_librarys(arguments: argparse.Namespace) -> bool:
    """Whether the source is the file of a library; otherwise --task and --head are stated."""
    stated = (arguments.task, arguments.head)
    if arguments.arch in LIBRARIES or (arguments.arch is None and stated == (None, None)):
        if stated != (None, None):
            raise InvalidRequestError(f"--arch {arguments.arch} states the task and the head: leave them out.")
        return True
    if None in stated:
        raise InvalidRequestError(
            "State what the network is for with --task, and its output's meaning with --head."
        )
    if arguments.diameter is not None or arguments.input_channels:
        raise InvalidRequestError("--diameter and --input-channels are for the network of a library: see --arch.")
    return False


def _library_request(arguments: argparse.Namespace) -> LibraryRequest:
    for name in ("input_size", "crop", "scale", "mean", "std", "calibrate", "quantize", "max_loss", "try_image"):
        if getattr(arguments, name) is not None:
            raise InvalidRequestError(f"A library's network takes no --{_option(name)}: leave it out.")
    if arguments.bgr or arguments.logits or arguments.channels or arguments.lambdas or arguments.fp16:
        raise InvalidRequestError(
            "A library's network takes no --bgr, --logits, --channels, --lambda and --fp16: leave them out."
        )
    return LibraryRequest(
        source=arguments.source,
        name=arguments.name,
        out=arguments.out,
        library=arguments.arch,
        classes=arguments.classes or ("Nucleus",),
        channels=arguments.input_channels,
        mpp=None if arguments.mpp is None else _size_um("--mpp", arguments.mpp, most=100),
        diameter_um=None if arguments.diameter is None else _size_um("--diameter", arguments.diameter, most=1000),
        halo_px=None if arguments.halo is None else _halo(arguments.halo),
        licence=arguments.licence,
        version=arguments.version,
    )


def _option(name: str) -> str:
    return name.removesuffix("_image").replace("_", "-")


def _size_um(name: str, value: float, *, most: float) -> float:
    if not (math.isfinite(value) and 0 < value <= most):
        unit = "um per pixel" if name == "--mpp" else "um"
        raise InvalidRequestError(f"{name} must be above 0 and at most {most:g} {unit}.")
    return value


def _halo(value: int) -> int:
    if not 0 <= value <= 1024:
        raise InvalidRequestError("--halo must be 0 to 1024 pixels.")
    return value


def _needed(form: SourceFormat) -> tuple[str, ...]:
    if form is SourceFormat.ONNX:
        return ("onnx",)
    return _NEEDED_FOR_TORCH if form.is_torch else _NEEDED


def describe(parity: Parity) -> str:
    """The parity report in a few lines."""
    agreement = parity.agreement
    sizes = ", ".join(f"{width} x {height}" for height, width in agreement.sizes_px)
    compared = (
        f"Compared on {agreement.images} tiles ({parity.tiles}; {sizes} px): largest difference "
        f"{agreement.max_abs:.2g}, mean {agreement.mean_abs:.2g}, allowed {agreement.tolerance:g}."
    )
    lines = [*parity.notes, compared]
    if agreement.argmax_agreement is not None:
        lines.append(f"Same class on {agreement.argmax_agreement:.1%} of them.")
    if agreement.object_agreement is not None:
        lines.append(f"Same objects: {agreement.object_agreement:.1%} of {agreement.objects}.")
    elif agreement.objects == 0:
        lines.append("Objects: none on these tiles, so their agreement is unknown: give other tiles.")
    lines.append(f"{agreement.served_ms:g} ms per tile; {agreement.original_ms:g} ms in the original framework.")
    if parity.quantisation is not None:
        lines.append(_describe_int8(parity.quantisation))
    return "".join(f"{line}\n" for line in lines)


def _describe_int8(result: Quantisation) -> str:
    speed_up = result.float32_ms / result.int8_ms if result.int8_ms else math.inf
    too_far, too_slow = result.loss >= result.max_loss, result.int8_ms >= result.float32_ms
    reasons = [
        *(["it changes too many decisions"] if too_far else []),
        *(["it is not faster on this machine"] if too_slow else []),
    ]
    verdict = "kept" if result.is_kept else f"dropped, {' and '.join(reasons)}, and float32 is served"
    return (
        f"int8: {verdict}; it changes {result.loss:.2%} of the decisions on {result.images} images (allowed "
        f"{result.max_loss:.2%}), {speed_up:.2f} times as fast ({result.float32_ms:g} to {result.int8_ms:g} ms)."
    )


def _require_used(arguments: argparse.Namespace) -> None:
    """Raises InvalidRequestError where an option is set that changes nothing beside the others."""
    if arguments.task == "segment" and arguments.crop is not None:
        raise InvalidRequestError("--crop is for classifiers, which are given crops of cells: leave it out.")
    if arguments.task == "classify" and arguments.halo is not None:
        raise InvalidRequestError("--halo is for segmenters, which read around each tile: leave it out.")
    if arguments.max_loss is not None and arguments.quantize is None:
        raise InvalidRequestError("--max-loss bounds what int8 may change: add --quantize int8, or leave it out.")


def _request(arguments: argparse.Namespace) -> ConversionRequest:
    _require_used(arguments)
    classes = arguments.classes or (("Nucleus",) if arguments.task == "segment" else ())
    return ConversionRequest(
        source=arguments.source,
        name=arguments.name,
        task=arguments.task,
        head=arguments.head,
        out=arguments.out,
        classes=classes,
        input_px=arguments.input_size,
        mpp=_size_um("--mpp", _MPP if arguments.mpp is None else arguments.mpp, most=100),
        crop_px=arguments.crop,
        halo_px=_halo(_HALO_PX if arguments.halo is None else arguments.halo),
        normalisation=_normalisation(arguments),
        bgr=arguments.bgr,
        logits=arguments.logits,
        channels=arguments.channels,
        arch=arguments.arch,
        lambdas=dict(arguments.lambdas),
        licence=arguments.licence,
        version=arguments.version,
        int8=arguments.quantize == "int8",
        fp16=arguments.fp16,
        calibrate=arguments.calibrate,
        try_image=arguments.try_image,
        max_loss=_MAX_LOSS if arguments.max_loss is None else arguments.max_loss,
    )


def _normalisation(arguments: argparse.Namespace) -> Normalisation:
    """``pixels * scale``, or ``(pixels * scale - mean) / std``."""
    if arguments.mean is None and arguments.std is None:
        return Normalisation.scaled(1.0 if arguments.scale is None else arguments.scale)
    mean, std = arguments.mean or (0.0, 0.0, 0.0), arguments.std or (1.0, 1.0, 1.0)
    if min(std) <= 0:
        raise InvalidRequestError("--std must be above 0 in every channel.")
    # Means are stated for pixels of 0 to 1 or of 0 to 255, which their values show.
    default = 1.0 if max(*mean, *std) > 1 else 1 / 255
    return Normalisation.standardised(mean, std, scale=arguments.scale or default)


def _number_of(text: str) -> float:
    """A decimal number or a fraction such as 1/255."""
    above, _, below = text.partition("/")
    try:
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number) or number == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 0.00392 or 1/255")
    return number


def _numbers_of(text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not one number or three, e.g. 0.485,0.456,0.406")
    return (values[0], values[0], values[0]) if len(values) == 1 else (values[0], values[1], values[2])


def _channels_of(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a channel or two, e.g. 1 or 0,1") from None


def _names_of(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 4096")
    return int(text)


def _lambda_of(text: str) -> tuple[str, float]:
    name, _, action = text.partition("=")
    kind, _, factor = action.partition(":")
    if not name or kind != "rescale" or not factor:
        raise argparse.ArgumentTypeError(f"{text!r} is not LAYER=rescale:FACTOR, e.g. lambda_1=rescale:1/255")
    return name, _number_of(factor)
