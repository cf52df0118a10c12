"""The model card of a converted model."""

from __future__ import annotations

from typing import Final

from slidecascade_convert.modelcard import Card
from slidecascade_convert.outcome import LibraryOutcome, Parity
from slidecascade_convert.request import ConversionRequest

_NOT_KNOWN: Final = (
    "What the network was trained on and how accurate it is: whoever converted it should add both to this card "
    "and to `model.yaml`."
)


def card(request: ConversionRequest, parity: Parity) -> Card:
    """What is known of the source, and how far the served graph is from it."""
    what = "segmenter" if request.task == "segment" else "classifier of single cells"
    versions = ", ".join(f"{name} {version}" for name, version in parity.versions.items())
    return Card(
        name=request.name,
        summary=f"A {what}, converted from a {parity.source_format} file.",
        facts={
            "Classes": ", ".join(request.classes),
            "Resolution": f"{request.mpp:g} um per pixel",
            "Licence": request.licence,
            "Source sha256": f"`{parity.source_sha256}`",
            "Opened with": versions,
        },
        made="`slidecascade convert` exported the network and compared the graph with it.",
        measured="\n\n".join(filter(None, (_agreement(request, parity), _int8(parity)))),
        limits=(
            *parity.notes,
            *parity.warnings,
            _NOT_KNOWN,
        ),
        sections={},
    )


def library_card(library: LibraryOutcome, parity: Parity) -> Card:
    """The same for a network of a published library."""
    spec, agreement = library.spec, parity.agreement
    options = ", ".join(f"{name} {value}" for name, value in spec.options.model_dump(exclude_unset=True).items())
    return Card(
        name=spec.name,
        summary=f"A segmenter ({library.title}), converted from a {parity.source_format} file.",
        facts={
            "Classes": ", ".join(spec.class_names),
            "Channels": ", ".join(spec.input.channels),
            "Resolution": f"{spec.mpp:g} um per pixel",
            "Head": f"{spec.head}: {options}",
            "Licence": spec.licence,
            "Source sha256": f"`{parity.source_sha256}`",
            "Opened with": ", ".join(f"{name} {version}" for name, version in parity.versions.items()),
        },
        made="`slidecascade convert` built the library's network, loaded the weights into it, exported it and "
        "compared the graph with it.",
        measured=f"On {agreement.images} images of {parity.tiles} the outputs of the served graph differ from the "
        f"original's by at most {agreement.max_abs:.2g} (mean {agreement.mean_abs:.2g}), where values above 1 "
        "count relative to the largest.",
        limits=(*parity.notes, *parity.warnings, _NOT_KNOWN),
        sections={},
    )


def _agreement(request: ConversionRequest, parity: Parity) -> str:
    agreement = parity.agreement
    if agreement.argmax_agreement is not None:
        decided = f"the class is the same on {agreement.argmax_agreement:.1%} of them"
    elif agreement.object_agreement is None:
        decided = "no object was found on them, so agreement on objects is untested"
    else:
        decided = f"{agreement.object_agreement:.1%} of {agreement.objects} decoded objects agree"
    tiles = "own" if request.calibrate else "rendered"
    return (
        f"On {agreement.images} {tiles} tiles the served graph differs from the original by at most "
        f"{agreement.max_abs:.2g} (mean {agreement.mean_abs:.2g}); {decided}. One tile takes "
        f"{agreement.served_ms:g} ms here, {agreement.original_ms:g} ms in the original framework."
    )


def _int8(parity: Parity) -> str:
    result = parity.quantisation
    if result is None:
        return ""
    kept = "The graph is int8" if result.is_kept else "An int8 graph was tried and dropped"
    return (
        f"{kept}: it decides {result.loss:.2%} of {result.images} images otherwise than float32 (allowed "
        f"{result.max_loss:.2%}) and takes {result.int8_ms:g} ms instead of {result.float32_ms:g}."
    )
