"""From a finished run to the bundled `glomeruli-unet` package; see `areapackage`.

`python -m slidecascade_training.kidney.package --run DIR --models DIR`

Real tiles are measured afterwards by `slidecascade evaluate --pipeline glomeruli`, and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from slidecascade.models.spec import ModelClass
from slidecascade_training.kidney import areapackage
from slidecascade_training.kidney.areapackage import AreaPackage
from slidecascade_training.kidney.crops import HELD_OUT, MPP, rendered

NAME: Final = "glomeruli-unet"
VERSION: Final = 1
SECTIONS: Final = 60
"""Rendered sections to choose the threshold on, and as many others to measure on."""

_MADE = """\
From scratch on {settings.tiles} rendered sections of 256 px at 8 um per pixel: tubules with round and slit
lumens, glomeruli with lobulated tufts and Bowman's space or none, globally sclerosed ones, arteries and veins,
aggregates of lymphocytes, fibrous capsule, glass, in stains and scanners drawn at random. {settings.steps} steps
of {settings.batch} crops of 128 px, the rate along one cosine, seed {settings.seed}.

    python -m slidecascade_training.kidney --seed {settings.seed} --tiles {settings.tiles} \\
        --steps {settings.steps} --batch {settings.batch} --out RUN
    python -m slidecascade_training.kidney.package --run RUN --models models"""
_REAL = """

Dice on 12 real tiles of two HuBMAP slides (256 px at 1/16 of level 0, taken as 8 um per pixel), measured once per
network by `slidecascade evaluate --pipeline glomeruli`. The network never saw them, and neither threshold nor
network was chosen on them; the author of the renderer had looked at them:

"""
_LIMITS = (
    "It never saw a real slide in training.",
    "PAS alone: other stains of kidney were not tried.",
    "Globally sclerosed glomeruli were rendered as background: they are not to be found, and some will be.",
    "Glomeruli that touch are one area, so a count is of areas.",
)

PACKAGE: Final = AreaPackage(
    name=NAME,
    version=VERSION,
    mpp=MPP,
    area_class=ModelClass(name="Glomerulus", color=(0, 114, 178)),
    min_area_um2=1500.0,
    summary="Glomeruli in sections of kidney stained with PAS, as areas.",
    found="glomerulus",
    tiles="sections",
    training_data="rendered kidney of slidecascade_render.kidney",
    made=_MADE,
    real=_REAL,
    limits=_LIMITS,
    rendered=rendered,
    held_out=HELD_OUT,
)


def package_run(run: Path, models_dir: Path, *, real: Mapping[str, float] | None = None) -> None:
    """See `areapackage.package_run`."""
    areapackage.package_run(PACKAGE, run, models_dir, count=SECTIONS, real=real)


if __name__ == "__main__":
    raise SystemExit(areapackage.main(PACKAGE, count=SECTIONS))
