"""The `nash` pipeline on real liver that nothing was trained on: fractions against what is known, and overlays.

`python -m benchmarks.real_tissue --data DIR --out FOLDER` writes the figures and, for each tile, the
overlay of all of it and of two parts at twice its size. There is no truth for single cells: the fractions say
whether tissue known to be fatty is called fatty, the overlays whether a person agrees.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from benchmarks import record
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.outputs.cells import overlay, summary
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.settings import Settings, bundled_models_dir
from slidecascade.timing import Silent

_DETAIL_PX: Final = 512
_STEATOSIS: Final = "Hepatocyte: Steatosis"
_HEPATOCYTE: Final = "Hepatocyte"


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a tile, and bounds of the share of its hepatocytes that are steatotic.

    It is what lies inside (or outside) of `boxes`, each (x, y, width, height) in pixels of the tile; without
    boxes it is all of it.
    """

    name: str
    least: float | None = None
    most: float | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    is_inside: bool = True

    def holds(self, centroids_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the places ``(N, 2)`` are in it."""
        if not self.boxes:
            return np.ones(len(centroids_px), bool)
        x, y = centroids_px.T
        inside = [
            (left <= x) & (x < left + width) & (top <= y) & (y < top + height)
            for left, top, width, height in self.boxes
        ]
        holds: NDArray[np.bool_] = np.any(inside, axis=0) == self.is_inside
        return holds


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of tissue, its pixel size, and what is known about its parts."""

    path: str
    mpp: float
    parts: tuple[Part, ...]
    details: tuple[tuple[int, int], ...] = ((0, 0),)


_DROPLETS: Final = ((675, 394, 1373, 1256), (0, 900, 240, 960), (430, 1780, 420, 268))
"""Where the second tile holds large droplets: about a third of its tissue, as one sees without any analysis.

It is described as near normal, which holds for the rest of it, torn edges and vessels included. The boxes take in
half of its tissue; the bound of all of it is that of the description.
"""

TILES: Final = (
    Tile("liver/gtex_tile01_HE.jpg", 0.5, (Part("all", least=0.6),), details=((256, 256), (512, 0))),
    Tile(
        "liver/gtex_tile03_HE.jpg",
        0.5,
        (
            Part("outside of the zones with large droplets", most=0.05, boxes=_DROPLETS, is_inside=False),
            Part("zones with large droplets", boxes=_DROPLETS),
            Part("all", most=0.1),
        ),
        details=((400, 500), (900, 0), (1000, 900)),
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the pipeline says about a part of a tile. `share` is steatotic hepatocytes over all hepatocytes."""

    path: str
    part: str
    hepatocytes: int
    steatotic: int
    share: float
    least: float | None
    most: float | None

    @property
    def met(self) -> bool | None:
        """None: it has no bounds."""
        if self.least is None and self.most is None:
            return None
        return (self.least or 0) <= self.share <= (1 if self.most is None else self.most)


def look(
    analyser: Analyser, tile: Tile, data: Path, out: Path, pipeline: str
) -> tuple[list[Finding], dict[str, int]]:
    """Analyse one tile and write its overlays; what is found in its parts, and the counts of all classes."""
    coded = (data / tile.path).read_bytes()
    request = wire.parse_request({"pipeline": pipeline, "mpp": tile.mpp})
    report = analyser.analyse(request, coded, Control())
    analysis, name = report.cells, Path(tile.path).stem
    image, downsample = report.overview(MAX_SIDE_PX)
    _write(out / f"{name}.png", overlay.draw(analysis, image, downsample=downsample))
    for x, y in tile.details:
        crop = np.s_[y : y + _DETAIL_PX, x : x + _DETAIL_PX]
        # Enlarged before outlines are drawn, so that nuclei stay visible inside them.
        large = cv2.resize(np.asarray(image), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        drawn = overlay.draw(analysis, np.asarray(large, np.uint8), downsample=downsample / 2)
        whole = np.s_[2 * crop[0].start : 2 * crop[0].stop, 2 * crop[1].start : 2 * crop[1].stop]
        _write(out / f"{name}-{x}-{y}.png", drawn[whole])
    hepatocytes, steatotic = analysis.members(_HEPATOCYTE), analysis.members(_STEATOSIS)
    findings = []
    for part in tile.parts:
        holds = part.holds(analysis.instances.centroids)
        of, found = int((holds & hepatocytes).sum()), int((holds & steatotic).sum())
        findings.append(
            Finding(tile.path, part.name, of, found, round(found / max(of, 1), 4), part.least, part.most)
        )
    return findings, dict(summary.summarise(analysis).counts)


def _write(path: Path, image_rgb: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), image_rgb[..., ::-1]):
        raise OSError(f"could not write {path.name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Real liver through the nash pipeline; exit code 1 when a share lies outside its bounds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds liver/")
    parser.add_argument("--out", type=Path, default=Path("runs/real-tissue"), help="folder for overlays")
    parser.add_argument("--figures", type=Path, default=record.RESULTS / "real-tissue.json")
    parser.add_argument("--models", type=Path, default=None, help="default: the bundled ones")
    parser.add_argument("--pipelines", type=Path, default=None, help="a folder of further pipeline files")
    parser.add_argument("--pipeline", default="nash")
    given = parser.parse_args(arguments)
    provenance = record.Provenance.here()
    given.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(models_dir=given.models or bundled_models_dir(), pipelines_dir=given.pipelines)
    analyser = Analyser(settings, observer=Silent())
    try:
        looks = [look(analyser, tile, given.data, given.out, given.pipeline) for tile in TILES]
    finally:
        analyser.close()
    findings = [finding for parts, _counts in looks for finding in parts]
    for finding in findings:
        met = {None: "", True: ": met", False: ": NOT met"}[finding.met]
        sys.stdout.write(
            f"{finding.path}, {finding.part}: {finding.share:.1%} of {finding.hepatocytes} hepatocytes steatotic"
            f"{met}\n"
        )
    figures = {
        "parts": [asdict(finding) | {"met": finding.met} for finding in findings],
        "counts": {tile.path: counts for tile, (_parts, counts) in zip(TILES, looks, strict=True)},
    }
    record.write(given.figures, figures, provenance)
    return 1 if any(finding.met is False for finding in findings) else 0


if __name__ == "__main__":
    raise SystemExit(main())
