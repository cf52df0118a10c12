"""Pipelines on the same images: figures, time and memory, ranks with confidence, and where two sets disagree.

Confidence comes from the bootstrap over images (Efron 1979): images are drawn with replacement, the same ones for
all pipelines, so that what is easy or hard in an image does not blur the differences between pipelines.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.analysis.analyser import Analyser
from slidecascade.analysis.flow import Progress
from slidecascade.errors import InvalidRequestError
from slidecascade_evaluation.scores import Figures
from slidecascade_evaluation.trial import Look, Question, Trial, run_trial
from slidecascade_evaluation.truth import Specimen, find_specimens, of_kind

DRAWS: Final = 2000
CONFIDENCE: Final = 0.95
SYNTHETIC: Final = "synthetic"
"""The kind of images that `slidecascade synthesize` makes."""
MEASURES: Final[Mapping[str, str]] = {
    "map": "mAP", "ap50": "AP50", "ap75": "AP75", "f1": "F1", "pq": "PQ", "aji": "AJI", "dice": "Dice",
}  # fmt: skip
"""Figures to rank by, and their titles."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Entry:
    """A pipeline on a set of images.

    Attributes:
        seconds: ``(n,)`` wall time of each image, decoding and comparison included.
        peak_mib: most memory of the process meanwhile, all models loaded.
    """

    trial: Trial
    seconds: Floats
    peak_mib: float

    @property
    def pipeline(self) -> str:
        return self.trial.pipeline

    @property
    def mean(self) -> Figures:
        return self.trial.whole.mean

    @property
    def worst(self) -> tuple[Look, ...]:
        return self.trial.worst

    def values(self, measure: str) -> Floats:
        """``(n,)``: a figure of each image."""
        return np.array([getattr(item.tally.figures, measure) for item in self.trial.whole.results], np.float64)

    @property
    def count_error(self) -> float:
        """The sum over images of how many cells too many or too few were found, as part of the true ones."""
        tallies = [item.tally for item in self.trial.whole.results]
        off = sum(abs(item.predicted - item.truth) for item in tallies)
        return off / max(1, sum(item.truth for item in tallies))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A pipeline's place among those of a set: mean of a measure, its interval, and how often it was the best.

    Pipelines that tie in a draw share it.
    """

    entry: Entry
    value: float
    low: float
    high: float
    best_share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pipelines on one set of images, ranked by `measure`."""

    name: str
    is_synthetic: bool
    measure: str
    entries: tuple[Entry, ...]

    @property
    def images(self) -> int:
        return len(self.entries[0].trial.whole.results)

    def ranking(self) -> tuple[Ranked, ...]:
        """The best first."""
        means = self._resampled()
        tail = 100 * (1 - CONFIDENCE) / 2
        top = means == means.max(axis=0)
        best = (top / top.sum(axis=0)).mean(axis=1)
        ranked = [
            Ranked(
                entry=entry,
                value=float(entry.values(self.measure).mean()),
                low=float(np.percentile(drawn, tail)),
                high=float(np.percentile(drawn, 100 - tail)),
                best_share=float(share),
            )
            for entry, drawn, share in zip(self.entries, means, best, strict=True)
        ]
        return tuple(sorted(ranked, key=lambda item: -item.value))

    def ahead(self, first: str, second: str) -> float:
        """In which part of the draws pipeline `first` is ahead of `second`; draws that tie count half."""
        names = [entry.pipeline for entry in self.entries]
        means = self._resampled()
        gap = means[names.index(first)] - means[names.index(second)]
        return float((gap > 0).mean() + (gap == 0).mean() / 2)

    def _resampled(self) -> Floats:
        """``(pipelines, DRAWS)``: means over images drawn with replacement."""
        values = np.stack([entry.values(self.measure) for entry in self.entries])
        chosen = np.random.default_rng(0).integers(self.images, size=(DRAWS, self.images))
        means: Floats = values[:, chosen].mean(axis=2)
        return means


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two pipelines that synthetic and real images put in different orders.

    `synthetic_share` and `real_share`: in which part of the draws `first` is ahead of `second` on each.
    """

    synthetic: str
    real: str
    first: str
    second: str
    synthetic_share: float
    real_share: float

    @property
    def is_clear(self) -> bool:
        """Whether both orders are beyond chance."""
        return self.synthetic_share >= CONFIDENCE and self.real_share <= 1 - CONFIDENCE

    @property
    def sentence(self) -> str:
        how = "clearly" if self.is_clear else "within the uncertainty of the images"
        return (
            f"The ranking on synthetic cells ({self.synthetic}) disagrees with the one on real cells "
            f"({self.real}), {how}: {self.first} is ahead of {self.second} in {self.synthetic_share:.0%} of the "
            f"draws of synthetic images and in {self.real_share:.0%} of those of real images."
        )


def disagreements(comparisons: Sequence[Comparison]) -> tuple[Disagreement, ...]:
    """All pairs of pipelines whose order differs between a synthetic and a real set."""
    found = []
    for synthetic in (item for item in comparisons if item.is_synthetic):
        for real in (item for item in comparisons if not item.is_synthetic):
            order = [ranked.entry.pipeline for ranked in synthetic.ranking()]
            real_order = [ranked.entry.pipeline for ranked in real.ranking()]
            found += [
                Disagreement(
                    synthetic.name,
                    real.name,
                    first,
                    second,
                    synthetic.ahead(first, second),
                    real.ahead(first, second),
                )
                for first, second in combinations(order, 2)
                if real_order.index(first) > real_order.index(second)
            ]
    return tuple(found)


def agreement(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """What synthetic and real sets say of each other, in sentences; empty unless there are both."""
    if len({item.is_synthetic for item in comparisons}) < 2 or len(comparisons[0].entries) < 2:
        return ()
    found = disagreements(comparisons)
    if found:
        return tuple(item.sentence for item in found)
    return ("The ranking on synthetic cells is the one on real cells.",)


def compare(
    analyser: Analyser,
    pipelines: Sequence[str],
    folder: Path,
    *,
    measure: str,
    split: str | None,
    kind: str | None,
    mpp: float | None,
    channel: int | str,
    progress: Progress,
) -> Comparison:
    """Run all `pipelines` on the images of `folder`; `channel` is what they are given of stacks of channels.

    Raises:
        InvalidRequestError: there are no such images, or one cannot be used.
        SlideCascadeError: an analysis failed.
    """
    specimens = of_kind(find_specimens(folder, split), kind)
    by_channel = specimens[0].bits > 8
    entries = []
    for number, pipeline in enumerate(pipelines):
        channels = _channels(analyser, pipeline, channel) if by_channel else {}
        question = Question(pipeline=pipeline, mpp=mpp, channels=channels)

        def step(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(pipelines) * total)

        entries.append(_entry(analyser, question, specimens, step))
    is_synthetic = all(item.kind == SYNTHETIC for item in specimens)
    return Comparison(folder.resolve().name, is_synthetic, measure, tuple(entries))


def _channels(analyser: Analyser, pipeline: str, channel: int | str) -> Mapping[str, int | str]:
    """The one channel as everything that the segmenter takes.

    Raises:
        InvalidRequestError: the pipeline has classifiers, which take colours.
    """
    info = analyser.pipeline(pipeline)
    segmenter = info.segmenter
    if segmenter is None:
        return {}
    if info.classifiers:
        raise InvalidRequestError(
            f"The pipeline {pipeline!r} has classifiers, which take colours, and the images have 16 bits: compare "
            "pipelines without classifiers, or images of 8 bits."
        )
    return dict.fromkeys(analyser.model(segmenter).inputs[0].channels, channel)


def _entry(analyser: Analyser, question: Question, specimens: Sequence[Specimen], progress: Progress) -> Entry:
    ends = [time.perf_counter()]

    def step(done: int, total: int) -> None:
        ends.append(time.perf_counter())
        progress(done, total)

    _forget_peak()
    trial = run_trial(analyser, question, specimens, progress=step)
    return Entry(trial, np.diff(np.array(ends)), _peak_mib())


def _forget_peak() -> None:
    """Let the peak of this process's memory begin anew, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak is then that of the whole run


def _peak_mib() -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
