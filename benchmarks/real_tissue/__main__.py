"""The `nash` pipeline on real liver that nothing was trained on: fractions against what is known, and overlays.

`python -m benchmarks.real_tissue --data DIR --out FOLDER` writes the figures and, for each tile, the
overlay of all of it and of two parts at twice its size. There is no truth for single cells: the fractions say
whether a tile known to be fatty is called fatty, the overlays whether a person agrees.
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
class Tile:
    """A picture of tissue, its pixel size, and bounds of the share of hepatocytes that are steatotic."""

    path: str
    mpp: float
    least: float
    most: float
    details: tuple[tuple[int, int], ...] = ((0, 0),)


TILES: Final = (
    Tile("liver/gtex_tile01_HE.jpg", 0.5, least=0.5, most=1.0, details=((256, 256), (512, 0))),
    Tile("liver/gtex_tile03_HE.jpg", 0.5, least=0.0, most=0.1, details=((400, 500), (900, 0), (1000, 900))),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the pipeline says about a tile. `share` is steatotic hepatocytes over all hepatocytes."""

    path: str
    counts: dict[str, int]
    hepatocytes: int
    share: float
    least: float
    most: float

    @property
    def met(self) -> bool:
        return self.least <= self.share <= self.most


def look(analyser: Analyser, tile: Tile, data: Path, out: Path, pipeline: str) -> Finding:
    """Analyse one tile and write its overlays."""
    coded = (data / tile.path).read_bytes()
    request = wire.parse_request({"pipeline": pipeline, "mpp": tile.mpp})
    report = analyser.analyse(request, coded, Control())
    analysis, name = report.cells, Path(tile.path).stem
    image, downsample = report.overview(MAX_SIDE_PX)
    _write(out / f"{name}.png", overlay.draw(analysis, image, downsample=downsample))
    for x, y in tile.details:
        part = np.s_[y : y + _DETAIL_PX, x : x + _DETAIL_PX]
        # Enlarged before outlines are drawn, so that nuclei stay visible inside them.
        large = cv2.resize(np.asarray(image), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        drawn = overlay.draw(analysis, np.asarray(large, np.uint8), downsample=downsample / 2)
        whole = np.s_[2 * part[0].start : 2 * part[0].stop, 2 * part[1].start : 2 * part[1].stop]
        _write(out / f"{name}-{x}-{y}.png", drawn[whole])
    counts = dict(summary.summarise(analysis).counts)
    hepatocytes = int(analysis.members(_HEPATOCYTE).sum())
    share = counts.get(_STEATOSIS, 0) / max(hepatocytes, 1)
    return Finding(tile.path, counts, hepatocytes, round(share, 4), tile.least, tile.most)


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
        findings = [look(analyser, tile, given.data, given.out, given.pipeline) for tile in TILES]
    finally:
        analyser.close()
    for finding in findings:
        counts = ", ".join(f"{name} {count}" for name, count in finding.counts.items())
        sys.stdout.write(
            f"{finding.path}: {finding.share:.1%} of {finding.hepatocytes} hepatocytes steatotic, wanted "
            f"{finding.least:.0%} to {finding.most:.0%}: {'met' if finding.met else 'NOT met'}; {counts}\n"
        )
    tiles = [asdict(finding) | {"met": finding.met} for finding in findings]
    record.write(given.figures, {"tiles": tiles}, provenance)
    return 0 if all(finding.met for finding in findings) else 1


if __name__ == "__main__":
    raise SystemExit(main())
