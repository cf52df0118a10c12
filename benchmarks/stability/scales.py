"""The same tissue at two pixel sizes: the cells must be the same.

`python -m benchmarks.stability.scales --data DIR --out FILE` analyses breast and liver H&E as scanned, and halved
or doubled in size by the usual resampling filters, each with the pixel size it then has. Cells are matched at IoU
0.5."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
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
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_evaluation.matching import Labels, count_matches, iou_matrix
from slidecascade_evaluation.rasters import labels_from_outlines

PIPELINE: Final = "nuclei"
_LIVER_PX: Final = 1024

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Resampling:
    """A change of size of images that have `mpp` as they are."""

    name: str
    mpp: float
    factor: float
    interpolation: int


RESAMPLINGS: Final = (
    Resampling("0.25 um/px, halved by area", 0.25, 0.5, cv2.INTER_AREA),
    Resampling("0.5 um/px, doubled by Lanczos", 0.5, 2.0, cv2.INTER_LANCZOS4),
    Resampling("0.5 um/px, doubled linearly", 0.5, 2.0, cv2.INTER_LINEAR),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Cells found in the images as they are, resampled, and in both; `share` is 2 both / (one + other)."""

    images: str
    resampling: str
    as_they_are: int
    resampled: int
    both: int

    @property
    def share(self) -> float:
        return 2 * self.both / max(self.as_they_are + self.resampled, 1)


def compare(images: list[Image], name: str, resampling: Resampling, analyser: Analyser) -> Row:
    """Analyse every image at both sizes, and match."""
    counts = np.zeros(3, np.int64)
    for image in images:
        other = cv2.resize(
            image, None, fx=resampling.factor, fy=resampling.factor, interpolation=resampling.interpolation
        )
        one = cells(image, resampling.mpp, analyser, frame=image)
        two = cells(np.asarray(other, np.uint8), resampling.mpp / resampling.factor, analyser, frame=image)
        iou = iou_matrix(one, two)
        counts += (*iou.shape, count_matches(iou, 0.5).true_positives)
    return Row(name, resampling.name, *counts.tolist())


def cells(image: Image, mpp: float, analyser: Analyser, *, frame: Image) -> Labels:
    """The cells of `image`, as a label image of the size of `frame`."""
    _, coded = cv2.imencode(".png", image[..., ::-1])
    request = wire.parse_request({"pipeline": PIPELINE, "mpp": mpp})
    found = analyser.analyse(request, coded.tobytes(), Control()).cells.instances
    height, width = frame.shape[:2]
    vertices = found.vertices * (width / image.shape[1])
    return labels_from_outlines(vertices, found.offsets, height_px=height, width_px=width)


def sets(data: Path) -> Iterator[tuple[str, list[Image]]]:
    """Breast (NuCLS) and liver (GTEx), RGB."""
    breast = sorted(path for path in (data / "nuclei/nucls").glob("*.png") if path.stem.count("_") == 1)
    yield "breast, NuCLS", [_read(path) for path in breast]
    for path in sorted((data / "liver").glob("*.jpg")):
        yield f"liver, {path.stem}", [np.ascontiguousarray(_read(path)[:_LIVER_PX, :_LIVER_PX])]


def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path.name} cannot be read; fetch the data again.")
    return np.ascontiguousarray(image[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability.scales", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with nuclei and liver")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "scales.json")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    analyser = Analyser(read_settings(), observer=Silent())
    try:
        rows = [
            compare(images, name, resampling, analyser)
            for name, images in sets(arguments.data)
            for resampling in RESAMPLINGS
        ]
    finally:
        analyser.close()
    record.write(
        arguments.out, {"rows": [asdict(row) | {"share": round(row.share, 4)} for row in rows]}, provenance
    )
    for row in rows:
        print(f"{row.images}; {row.resampling}: {row.share:.1%} of {row.as_they_are} and {row.resampled}")


if __name__ == "__main__":
    main()
