"""A comparison as a text table, as JSON, and as a page of HTML that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from slidecascade import wire
from slidecascade_evaluation.comparison import (
    CONFIDENCE,
    DRAWS,
    MEASURES,
    Comparison,
    Entry,
    Ranked,
    agreement,
    disagreements,
)
from slidecascade_evaluation.matching import MEAN_AP_THRESHOLDS
from slidecascade_evaluation.report import MATCHING

_DECIMALS: Final = 4
_HEADS: Final = (*MEASURES.values(), "count error", "s/image", "peak MiB")


def table(comparisons: Sequence[Comparison]) -> str:
    """Aligned text: a table for each set of images, then what the sets say of each other."""
    lines: list[str] = []
    for item in comparisons:
        title = MEASURES[item.measure]
        width = max(len("pipeline"), *(len(entry.pipeline) for entry in item.entries))
        lines += [
            f"{_described(item)}, ranked by {title} with {CONFIDENCE:.0%} intervals of {DRAWS} draws of images"
        ]
        head = f"   {'pipeline':{width}}  {title:>5} {'interval':>13} {'best':>5}"
        lines.append(head + "".join(f" {name:>{_width(name)}}" for name in _HEADS))
        for place, ranked in enumerate(item.ranking(), start=1):
            values = "".join(
                f" {text:>{_width(name)}}" for name, text in zip(_HEADS, _values(ranked.entry), strict=True)
            )
            interval = f"{ranked.low:.3f}-{ranked.high:.3f}"
            lines.append(
                f"{place:2d} {ranked.entry.pipeline:{width}}  {ranked.value:5.3f} {interval:>13} "
                f"{ranked.best_share:5.0%}{values}"
            )
        lines.append("")
    return "\n".join([*lines, *agreement(comparisons), ""])


def document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {
        "research_use_only": wire.RESEARCH_USE_ONLY,
        "matching": MATCHING,
        "ranked_by": comparisons[0].measure,
        "confidence": CONFIDENCE,
        "bootstrap_draws": DRAWS,
        "data": [_set(item) for item in comparisons],
        "agreement": list(agreement(comparisons)),
        "disagreements": [
            {"synthetic": item.synthetic, "real": item.real, "first": item.first, "second": item.second,
             "synthetic_share": round(item.synthetic_share, _DECIMALS),
             "real_share": round(item.real_share, _DECIMALS), "is_clear": item.is_clear}
            for item in disagreements(comparisons)
        ],
    }  # fmt: skip


def _set(item: Comparison) -> dict[str, Any]:
    ranking = item.ranking()
    return {
        "name": item.name,
        "is_synthetic": item.is_synthetic,
        "images": item.images,
        "cells": item.entries[0].trial.whole.tally.truth,
        "ranking": [_place(place, ranked) for place, ranked in enumerate(ranking, start=1)],
    }


def _place(place: int, ranked: Ranked) -> dict[str, Any]:
    entry, mean = ranked.entry, ranked.entry.mean
    return {
        "rank": place,
        "pipeline": entry.pipeline,
        "models": [{"name": model.name, "sha256": model.sha256} for model in entry.trial.models],
        "value": round(ranked.value, _DECIMALS),
        "interval": [round(ranked.low, _DECIMALS), round(ranked.high, _DECIMALS)],
        "best_share": round(ranked.best_share, _DECIMALS),
        **{name: round(getattr(mean, name), _DECIMALS) for name in MEASURES},
        "ap": {
            f"{iou:.2f}": round(value, _DECIMALS) for iou, value in zip(MEAN_AP_THRESHOLDS, mean.ap, strict=True)
        },
        "count_error": round(entry.count_error, _DECIMALS),
        "cells_found": entry.trial.whole.tally.predicted,
        "seconds_per_image": round(float(entry.seconds.mean()), _DECIMALS),
        "peak_mib": round(entry.peak_mib, 1),
    }


def page(comparisons: Sequence[Comparison], pictures: Mapping[str, bytes], worst: Mapping[str, bytes]) -> str:
    """HTML with all pictures in it; `worst` by title."""
    parts = [f"<p>{escape(sentence)}</p>" for sentence in agreement(comparisons)]
    parts += [_html_table(item) for item in comparisons]
    parts += [_image(name, data) for name, data in pictures.items()]
    parts.append(
        "<h2>Worst images</h2><p>The lowest AP at IoU 0.5 first; truth in green, predicted in orange.</p>"
    )
    parts += [f"<h3>{escape(title)}</h3>{_image(title, data)}" for title, data in worst.items()]
    return _PAGE.format(notice=escape(wire.RESEARCH_USE_ONLY), matching=escape(MATCHING), body="\n".join(parts))


def _html_table(item: Comparison) -> str:
    title = MEASURES[item.measure]
    head = ("", "pipeline", title, f"{CONFIDENCE:.0%} interval", "best in draws", *_HEADS)
    rows = [
        (str(place), ranked.entry.pipeline, f"{ranked.value:.3f}", f"{ranked.low:.3f} to {ranked.high:.3f}",
         f"{ranked.best_share:.0%}", *_values(ranked.entry))
        for place, ranked in enumerate(item.ranking(), start=1)
    ]  # fmt: skip
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<h2>{escape(_described(item))}</h2><table><tr>{cells}</tr>{body}</table>"


def _described(item: Comparison) -> str:
    kind = "synthetic" if item.is_synthetic else "real"
    cells = item.entries[0].trial.whole.tally.truth
    return f"{item.name}: {item.images} {kind} images, {cells} cells"


def _values(entry: Entry) -> tuple[str, ...]:
    figures = tuple(f"{getattr(entry.mean, name):.3f}" for name in MEASURES)
    return (*figures, f"{entry.count_error:.3f}", f"{entry.seconds.mean():.2f}", f"{entry.peak_mib:.0f}")


def _width(head: str) -> int:
    return max(6, len(head))


def _image(name: str, data: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


_PAGE: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of pipelines</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin-bottom: 1.5rem; }}
td, th {{ padding: .25rem .6rem; border-bottom: 1px solid #ccc; text-align: right; }}
td:nth-child(2), th:nth-child(2) {{ text-align: left; }}
img {{ max-width: 100%; }}
</style></head><body>
<h1>Comparison of pipelines</h1>
<p>{notice}</p>
{body}
<p>{matching}</p>
</body></html>
"""
