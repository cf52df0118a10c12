"""From a finished run to the bundled `liver-fat` package; see `kidney/areapackage.py`.

`python -m slidecascade_training.fat.package --run DIR --models DIR`

Real tiles are measured afterwards by `slidecascade evaluate --pipeline fat`, and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from slidecascade.models.spec import ModelClass
from slidecascade_training.fat.tissue import HELD_OUT, MPP, SMALLEST_UM2, rendered
from slidecascade_training.kidney import areapackage
from slidecascade_training.kidney.areapackage import AreaPackage

NAME: Final = "liver-fat"
VERSION: Final = 1
TILES: Final = 60
"""Rendered tiles to choose the threshold on, and as many others to measure on."""

_MADE = """\
From scratch on one CPU core, on {settings.tiles} rendered tiles of 256 px at 1 um per pixel: vacuoles from 3 to
50 um (one, a few, or many in a cell, sharp or out of focus), glass and torn edges, clefts, sinusoids, portal
tracts and veins with white lumen, pale and ballooned cells, in stains and scanners drawn at random.
{settings.steps} steps of {settings.batch} crops of 128 px, the rate along one cosine, seed {settings.seed}.

    python -m slidecascade_training.fat --seed {settings.seed} --tiles {settings.tiles} \\
        --steps {settings.steps} --batch {settings.batch} --out RUN
    python -m slidecascade_training.fat.package --run RUN --models models"""
_REAL = """

Dice of the macro droplets on real tiles of DELINEATE (512 px, about 40x, taken as 0.25 um per pixel), whose masks
hold large droplets alone, measured once with these weights. The network never saw them, and neither threshold nor
network was chosen on them; the author of the recipe had looked at them:

"""
_LIMITS = (
    "It never saw a real slide in training.",
    "Vacuoles below about 3 um are not found; pale cells may be taken for fat, fat out of focus may be missed.",
    "Droplets that touch are one area, so a count is of areas.",
    "It tells fat from glass, clefts and vessels by shape and surroundings: other round holes are fat to it.",
)

PACKAGE: Final = AreaPackage(
    name=NAME,
    version=VERSION,
    mpp=MPP,
    area_class=ModelClass(name="Fat", color=(240, 228, 66)),
    min_area_um2=SMALLEST_UM2,
    summary="Vacuoles of fat in H&E liver, as areas.",
    found="fat",
    tiles="tiles",
    training_data="rendered liver of slidecascade_render.liver",
    made=_MADE,
    real=_REAL,
    limits=_LIMITS,
    rendered=rendered,
    held_out=HELD_OUT,
)


def package_run(run: Path, models_dir: Path, *, real: Mapping[str, float] | None = None) -> None:
    """See `areapackage.package_run`."""
    areapackage.package_run(PACKAGE, run, models_dir, count=TILES, real=real)


if __name__ == "__main__":
    raise SystemExit(areapackage.main(PACKAGE, count=TILES))
