"""Train the bundled networks for fluorescent nuclei: one trunk with three heads.

`python -m slidecascade_training.fluorescence --data DSB2018 --nuclei models/nuclei-unet/1/model.onnx --out RUN`

An interrupted run resumes at its last checkpoint; step `n` gets the same crops on any machine.
`slidecascade_training.fluorescence.package` then chooses thresholds, measures and packages the three networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from slidecascade_training.fluorescence.recipe import FluorescenceSettings, train, training_images
from slidecascade_training.timelimit import TimeLimit, add_seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; an interrupted run is resumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the DSB 2018 set")
    parser.add_argument(
        "--nuclei", type=Path, required=True, help="graph of nuclei-unet that the trunk starts from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--synthesized", type=int, default=80, help="synthesized images to train on")
    add_seconds(parser)
    given = parser.parse_args(arguments)
    limit = TimeLimit.of(given.seconds)
    settings = FluorescenceSettings(
        seed=given.seed, steps=given.steps, batch=given.batch, synthesized=given.synthesized
    )
    train(training_images(given.data), given.nuclei, given.out, settings, limit)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
