"""The regions every peer gets, and the answers it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
from benchmarks.peers.composition import MPP, Composition

from slidecascade.models.tensors import Tensors
from slidecascade.runners.local import LocalRunner
from slidecascade.runners.runner import Runner

Call = tuple[str, Tensors]


@dataclass(frozen=True, slots=True)
class Case:
    """A rendered region: its PNG, its answer, and every call of a network that led to it."""

    number: int
    png: bytes
    answer: bytes
    calls: tuple[Call, ...]


class _Recorder:
    """Keeps what a runner was given."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.calls: list[Call] = []

    def run(self, model: str, inputs: Tensors) -> Tensors:
        self.calls.append((model, {name: array.copy() for name, array in inputs.items()}))
        return self._runner.run(model, inputs)

    def close(self) -> None: ...


MEASURED_SEED: Final = 100
HELD_OUT_SEED: Final = 500
"""Specimens from here on are for choosing settings, and are not measured."""


def make_cases(
    composition: Composition, *, count: int, side_px: int, first_seed: int = MEASURED_SEED
) -> tuple[Case, ...]:
    """`count` regions of `side_px` squared, each of another specimen: seeds from `first_seed` on."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    local = LocalRunner(composition.packages)
    cases = []
    for number in range(count):
        image = render(TissueOptions(seed=first_seed + number, mpp=MPP), width_px=side_px, height_px=side_px).image
        png = bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])
        recorder = _Recorder(local)
        cases.append(Case(number, png, composition.answer(png, recorder), tuple(recorder.calls)))
    return tuple(cases)
