"""How well the bundled models find cells, by the code of ``slidecascade evaluate``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record

from slidecascade.analysis.analyser import Analyser
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_evaluation import report
from slidecascade_evaluation.trial import Question, run_trial
from slidecascade_evaluation.truth import find_specimens


@dataclass(frozen=True, slots=True)
class Setup:
    """A pipeline on a set; `mpp` None takes pixels as they are."""

    pipeline: str
    folder: str
    split: str
    mpp: float | None


SETUPS = (
    Setup("nuclei", "dsb2018", "validate", None),
    Setup("nuclei", "nucls", "all", 0.5),
    Setup("nuclei", "nucls", "all", 0.25),
)


def measured(setup: Setup, data: Path, analyser: Analyser) -> dict[str, Any]:
    """The document of ``slidecascade evaluate --json``."""
    folder = data / setup.folder
    specimens = find_specimens(folder, setup.split)
    trial = run_trial(analyser, Question(pipeline=setup.pipeline, mpp=setup.mpp), specimens)
    return report.document(trial, report.Data(setup.folder, setup.split))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018 and nucls")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "accuracy.json")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    analyser = Analyser(read_settings(), observer=Silent())
    try:
        trials = [measured(setup, arguments.data, analyser) for setup in SETUPS]
    finally:
        analyser.close()
    record.write(arguments.out, {"trials": trials}, provenance)
    for trial in trials:
        print(trial["pipeline"], trial["data"], trial["mpp"], trial["ap50"], trial["map"])


if __name__ == "__main__":
    main()
