"""Train the bundled glomeruli network.

`python -m slidecascade_training.kidney --out RUN`

Everything it sees is rendered. An interrupted run resumes at its last checkpoint.
`slidecascade_training.kidney.package` then chooses the threshold on rendered sections it never saw, and packages
it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from slidecascade_training.claim import claim
from slidecascade_training.kidney.crops import rendered
from slidecascade_training.kidney.recipe import BATCH, STEPS, TILES, KidneySettings, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; an interrupted run is resumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH, help="crops per step")
    parser.add_argument("--tiles", type=int, default=TILES, help="rendered sections to train on")
    given = parser.parse_args(arguments)
    settings = KidneySettings(seed=given.seed, steps=given.steps, batch=given.batch, tiles=given.tiles)
    claim(given.out, settings)
    train(rendered(0, settings.tiles), given.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
