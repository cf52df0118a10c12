"""``slidecascade models list|show|verify|sign``."""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from slidecascade.commands import receptive_field
from slidecascade.errors import ModelFailedError, UnknownModelError
from slidecascade.heads.head import MaskHead, ObjectHead, ProbabilityHead
from slidecascade.heads.table import find
from slidecascade.models.batches import batch_of
from slidecascade.models.repository import INT8_FILE, ModelPackage, load_repository
from slidecascade.models.signatures import SIGNATURE_FILE, read_trusted, sign
from slidecascade.models.spec import ClassifierSpec, SegmenterSpec, TranslatorSpec
from slidecascade.models.tensors import InputSpec, Shape, Tensors
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.precision import served_packages
from slidecascade.settings import Settings, read_settings

TIMED_RUNS = 3
SEGMENTER_SIDE_PX = 512
CLASSIFIER_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|verify|sign")
    for action, text in (
        ("list", "one line per model"),
        ("show", "a model's specification, and its difference from the original network"),
        ("verify", "check sha256, signature and tensors, run each model and its head, and time them"),
        ("sign", "sign packages with a private key (Ed25519, PEM)"),
    ):
        action_parser = actions.add_parser(action, help=text)
        action_parser.add_argument("--models", type=Path, help="the models folder")
        if action != "list":
            action_parser.add_argument("name", nargs=None if action == "show" else "?", help="a model's name")
        if action == "sign":
            action_parser.add_argument("--key", type=Path, required=True, help="the private key's file")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or an error for an invalid package."""
    settings = read_settings(models_dir=arguments.models)
    # A model that is not signed yet can be signed; everything else asks for what the service asks for.
    file = None if arguments.action == "sign" else settings.model_keys
    packages = load_repository(settings.models_dir, None if file is None else read_trusted(file))
    if arguments.action == "list":
        width = max(map(len, packages), default=0)
        for package in packages.values():
            sys.stdout.write(_line(package, width))
        return 0
    chosen = list(packages.values()) if arguments.name is None else [_find(packages, arguments.name)]
    for package in chosen:
        if arguments.action == "sign":
            signed_by = sign(settings.models_dir / package.spec.name, arguments.key)
            sys.stdout.write(f"{package.spec.name}: signed with the key {signed_by}\n")
            continue
        sys.stdout.write(_shown(package, settings) if arguments.action == "show" else _verified(package))
    return 0


def _find(packages: Mapping[str, ModelPackage], name: str) -> ModelPackage:
    if name not in packages:
        raise UnknownModelError(f"There is no model {name!r}: choose one of {', '.join(packages) or 'no models'}.")
    return packages[name]


def _line(package: ModelPackage, width: int) -> str:
    spec = package.spec
    accuracy = ", ".join(f"{name} {value:g}" for name, value in list(spec.accuracy.items())[:1])
    return f"{spec.name:{width}} v{spec.version}  {spec.task:9} {spec.mpp:g} um/px  {accuracy}\n"


def _shown(package: ModelPackage, settings: Settings) -> str:
    """The specification, the graph that is run here, and the parity report if the package has one."""
    fields: dict[str, Any] = package.spec.model_dump(mode="json", exclude_none=True)
    fields["served_here"] = served_packages(settings)[package.spec.name].onnx_path.name
    report = _parity(package)
    if report is not None:
        fields["parity"] = report
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    if isinstance(package.spec, SegmenterSpec):
        text += f"# {_sentence(receptive_field.described(package.spec))}\n"
    return text


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _parity(package: ModelPackage) -> Any:
    try:
        return json.loads((package.onnx_path.parent / "parity.json").read_bytes())
    except (OSError, ValueError):
        return None


def _verified(package: ModelPackage) -> str:
    """The results of each of its graphs."""
    graphs = [package] if package.spec.int8 is None else [package, package.in_int8()]
    return "".join(map(_verified_graph, graphs))


def _verified_graph(package: ModelPackage) -> str:
    """Run the model as the service does, and its head on the outputs; the results in a few lines."""
    spec = package.spec
    runner = LocalRunner([package])
    try:
        inputs = _inputs(package)
        times = []
        for _ in range(TIMED_RUNS):
            start = time.perf_counter()
            outputs = runner.run(spec.name, inputs)
            times.append(time.perf_counter() - start)
        found = _head_run(package, outputs)
        field = ""
        if isinstance(spec, SegmenterSpec):
            field = f"    {_sentence(receptive_field.verified(spec, runner, inputs, outputs))}\n"
    finally:
        runner.close()
    mark = ", int8" if package.onnx_path.name == INT8_FILE else ""
    report = None if mark else _parity(package)
    text = "" if report is None else f"; converted, {_difference(report)}"
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    count = batch_of(inputs)
    of_what = ", ".join(f"{name} {' x '.join(map(str, array.shape[1:]))}" for name, array in inputs.items())
    return (
        f"{spec.name}{mark}: sha256 and tensors are as stated, and it runs{text}; {_signed(package)}.\n"
        f"    {1000 * float(np.median(times)) / count:.2f} ms per image ({of_what}) on one thread, "
        f"{count} at a time; {found}; {peak_mib} MiB at the peak.\n{field}"
    )


def _signed(package: ModelPackage) -> str:
    if package.signed_by is not None:
        return f"signed with the trusted key {package.signed_by}"
    has_signature = (package.onnx_path.parents[1] / SIGNATURE_FILE).exists()
    return "its signature is not checked, as SLIDECASCADE_MODEL_KEYS is not set" if has_signature else "not signed"


def _inputs(package: ModelPackage) -> Tensors:
    """Noise images of the sizes and number that the service uses."""
    count = CLASSIFIER_BATCH if isinstance(package.spec, ClassifierSpec) else 1
    signature = package.spec.signature
    shapes = signature.input_shapes(batch=count, side_px=SEGMENTER_SIDE_PX)
    return {tensor.name: _noise(tensor, shapes[tensor.name]) for tensor in signature.inputs}


def _noise(tensor: InputSpec, shape: Shape) -> NDArray[Any]:
    """Random values within the range that `tensor` states."""
    rng, (low, high) = np.random.default_rng(0), tensor.range
    if tensor.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if tensor.numpy_dtype.kind == "f":
        return rng.uniform(low or 0.0, 1.0 if high is None else high, shape).astype(tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    lowest = limits.min if low is None else max(limits.min, math.ceil(low))
    highest = limits.max if high is None else min(limits.max, math.floor(high))
    return rng.integers(lowest, highest, shape, tensor.dtype, endpoint=True)


def _head_run(package: ModelPackage, outputs: Tensors) -> str:
    """The result of the head, in words.

    Raises:
        ModelFailedError: for a classifier whose outputs are not probabilities.
    """
    spec = package.spec
    if isinstance(spec, TranslatorSpec):
        return "it draws an image"
    head = find(spec.head)
    first = {name: array[0] for name, array in outputs.items()}
    if isinstance(head, ObjectHead):
        return f"its head finds {len(head.decode(first, spec.options, mpp=spec.mpp))} objects in noise"
    if isinstance(head, MaskHead):
        return f"its head assigns a class to {np.mean(head.mask(first, spec.options) > 0):.0%} of noise"
    assert isinstance(head, ProbabilityHead)  # noqa: S101 - there are no other heads
    if head.mismatch(head.probabilities(outputs)):
        raise ModelFailedError(f"Model {spec.name!r} returns values that are not probabilities: convert it again.")
    return f"its outputs are probabilities of {len(spec.classes)} classes"


def _difference(report: Any) -> str:
    try:
        return f"at most {report['agreement']['max_abs']:.2g} from its original"
    except (KeyError, TypeError, ValueError):
        return "with an unreadable parity.json"
