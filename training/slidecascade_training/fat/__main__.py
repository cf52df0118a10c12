"""Train the bundled network for fat in liver.

`python -m slidecascade_training.fat --out RUN`

Everything it sees is rendered. An interrupted run resumes at its last checkpoint.
`slidecascade_training.fat.package` then chooses the threshold on rendered tissue it never saw, and packages it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from slidecascade_training.claim import claim
from slidecascade_training.fat.tissue import rendered
from slidecascade_training.kidney.recipe import KidneySettings, train

STEPS: Final = 3000
BATCH: Final = 8
TILES: Final = 400
WIDTHS: Final = (24, 48, 96)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; an interrupted run is resumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints and settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH, help="crops per step")
    parser.add_argument("--tiles", type=int, default=TILES, help="rendered tiles to train on")
    given = parser.parse_args(arguments)
    settings = KidneySettings(
        seed=given.seed, steps=given.steps, batch=given.batch, tiles=given.tiles, widths=WIDTHS
    )
    claim(given.out, settings)
    train(rendered(0, settings.tiles), given.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
