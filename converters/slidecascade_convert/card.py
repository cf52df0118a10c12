"""The model card of a converted model."""

from __future__ import annotations

from slidecascade_convert.outcome import Parity
from slidecascade_convert.request import ConversionRequest

_CARD = """\
# {name}

A {what}, converted from a {source_format} file. For research use only.

| | |
|---|---|
| Classes | {classes} |
| Resolution | {mpp:g} um per pixel |
| Licence | {licence} |
| Source sha256 | `{sha256}` |
| Opened with | {versions} |

## Measured

On {images} {tiles} tiles the served graph differs from the original by at most {max_abs:.2g} (mean
{mean_abs:.2g}); {decided}. One tile takes {served_ms:g} ms here, {original_ms:g} ms in the original framework.
{int8}{notes}
## Not known

What the network was trained on, and how accurate it is: whoever converted it should add both here and to
`model.yaml`.
"""


def card(request: ConversionRequest, parity: Parity) -> str:
    """The card, as Markdown."""
    agreement = parity.agreement
    if agreement.argmax_agreement is not None:
        decided = f"the class is the same on {agreement.argmax_agreement:.1%} of them"
    elif agreement.object_agreement is None:
        decided = "no object was found on them, which proves nothing about the objects it finds elsewhere"
    else:
        decided = f"{agreement.object_agreement:.1%} of {agreement.objects} decoded objects agree"
    remarks = [*parity.notes, *parity.warnings]
    return _CARD.format(
        name=request.name,
        what="segmenter" if request.task == "segment" else "classifier of single cells",
        source_format=parity.source_format,
        classes=", ".join(request.classes),
        mpp=request.mpp,
        licence=request.licence,
        sha256=parity.source_sha256,
        versions=", ".join(f"{name} {version}" for name, version in parity.versions.items()),
        images=agreement.images,
        tiles="own" if request.calibrate else "rendered",
        max_abs=agreement.max_abs,
        mean_abs=agreement.mean_abs,
        decided=decided,
        served_ms=agreement.served_ms,
        original_ms=agreement.original_ms,
        int8=_int8(parity),
        notes="".join(f"\n- {remark}" for remark in remarks) + ("\n" if remarks else ""),
    )


def _int8(parity: Parity) -> str:
    result = parity.quantisation
    if result is None:
        return ""
    kept = "The graph is int8" if result.is_kept else "An int8 graph was tried and dropped"
    return (
        f"\n{kept}: it decides {result.loss:.2%} of {result.images} images otherwise than float32 (allowed "
        f"{result.max_loss:.2%}) and takes {result.int8_ms:g} ms instead of {result.float32_ms:g}.\n"
    )
