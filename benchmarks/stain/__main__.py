"""What stain normalisation does for images whose stain is another than the networks know.

`python -m benchmarks.stain --data DIR` analyses real nuclei (NuCLS and the colour images of DSB 2018 outside of
its validation split, which the network was trained on) and rendered liver as they are and in shifted stains,
without normalisation and with each method, by the path that serves users. The shifts turn the two stain vectors
and scale their amounts; the truth stays. An image whose stain cannot be fitted counts as it is without
normalisation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, get_args

import cv2
import numpy as np
from benchmarks import record
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import Analysis
from slidecascade.errors import UnusableStainError
from slidecascade.outputs import png
from slidecascade.settings import read_settings
from slidecascade.slides.stain import LIGHT, REFERENCE_VECTORS, fit_stain
from slidecascade.timing import Silent
from slidecascade_evaluation.matching import iou_matrix, match
from slidecascade_evaluation.rasters import labels_from_outlines

METHODS: Final[tuple[wire.StainMethod, ...]] = get_args(wire.StainMethod)
MPP: Final = 0.5
_IOU: Final = 0.5
_DSB_IMAGES: Final = 16
_RENDERED_SEEDS: Final = (51, 52)
_RENDERED_PX: Final = 640
_COST_RUNS: Final = 4

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shift:
    """Another staining: each stain's amount times `amounts`, its vector moved by `turn` and made a unit again."""

    name: str
    amounts: tuple[float, float] = (1.0, 1.0)
    turn: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))

    def apply(self, image: Image) -> Image:
        """The image as if it had been stained so."""
        before = np.array(REFERENCE_VECTORS).T
        after = (np.array(REFERENCE_VECTORS) + np.array(self.turn)).T
        after *= np.linalg.norm(before, axis=0) / np.linalg.norm(after, axis=0)
        density = -np.log((image.reshape(-1, 3).astype(np.float64) + 1) / LIGHT)
        amounts = density @ np.linalg.pinv(before).T
        moved = density + amounts * np.array(self.amounts) @ after.T - amounts @ before.T
        shifted: Image = np.clip(np.rint(LIGHT * np.exp(-moved) - 1), 0, 255).astype(np.uint8)
        return shifted.reshape(image.shape)


SHIFTS: Final = (
    Shift("as it is"),
    Shift("pale", (0.5, 0.6)),
    Shift("dark", (1.5, 1.5)),
    Shift("weak haematoxylin", (0.5, 1.2)),
    Shift("purple", turn=((-0.12, 0.05, 0.05), (0.05, -0.02, 0.1))),
    Shift("red", turn=((-0.2, 0.1, 0.0), (-0.15, 0.05, 0.1))),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and its objects: labels ``(H, W)``, and the class of each where known."""

    image: Image
    labels: NDArray[np.int32]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Objects found at IoU 0.5, those found wrongly and missed, and those whose class is right, of all images."""

    images: str
    shift: str
    method: str
    found: int
    wrong: int
    missed: int
    same_class: int
    unusable: int

    @property
    def ap50(self) -> float:
        return self.found / max(1, self.found + self.wrong + self.missed)


def analysed(analyser: Analyser, pipeline: str, image: bytes, method: str) -> Analysis:
    request = wire.parse_request({"pipeline": pipeline, "mpp": MPP, "stain": {"method": method}})
    return analyser.analyse(request, image, Control()).cells


def measure(analyser: Analyser, pipeline: str, name: str, samples: Sequence[Sample]) -> Iterator[Row]:
    """A row for each shift and method."""
    for shift in SHIFTS:
        images = [png.encode(shift.apply(sample.image)) for sample in samples]
        for method in METHODS:
            counts = np.zeros(5, np.int64)
            for sample, image in zip(samples, images, strict=True):
                try:
                    found = analysed(analyser, pipeline, image, method)
                except UnusableStainError:
                    found = analysed(analyser, pipeline, image, "none")
                    counts[4] += 1
                counts[:4] += compared(sample, found)
            tp, fp, fn, same, unusable = counts.tolist()
            yield Row(
                images=name,
                shift=shift.name,
                method=method,
                found=tp,
                wrong=fp,
                missed=fn,
                same_class=same,
                unusable=unusable,
            )


def compared(sample: Sample, found: Analysis) -> NDArray[np.int64]:
    """Objects found, found wrongly, missed, and found with the right class."""
    height, width = sample.labels.shape
    cells = found.instances
    labels = labels_from_outlines(cells.vertices, cells.offsets, height_px=height, width_px=width)
    iou = iou_matrix(sample.labels, labels)
    rows, columns = match(iou, _IOU)
    same = 0
    if sample.classes:
        truth, mine = (np.unique(one[one > 0]) - 1 for one in (sample.labels, labels))
        names = [_truth_name(end.name) for end in found.classes.ends]
        pairs = zip(truth[rows], mine[columns], strict=True)
        same = sum(sample.classes[one] == names[found.class_index[other]] for one, other in pairs)
    return np.array([len(rows), iou.shape[1] - len(rows), iou.shape[0] - len(rows), same], np.int64)


def _truth_name(name: str) -> str:
    """A class of `nash` as rendered tissue calls it."""
    return name.lower().replace(": ", "-")


def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path.name} cannot be read as an image: fetch the data again.")
    return np.ascontiguousarray(image[..., ::-1])


def _labels(path: Path) -> NDArray[np.int32]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.int32)


def nucls(data: Path) -> list[Sample]:
    """All NuCLS crops."""
    files = sorted(path for path in (data / "nuclei/nucls").glob("*.png") if path.stem.count("_") == 1)
    return [Sample(_read(path), _labels(path.with_name(f"{path.stem}_inst.png"))) for path in files]


def dsb(data: Path) -> list[Sample]:
    """Some of the colour bright-field images that are not of the validation split."""
    folder = data / "nuclei/dsb2018"
    lines = (folder / "index.csv").read_text(encoding="utf-8").splitlines()[1:]
    stems = [line.split(",")[0] for line in lines if line.split(",")[2] == "brightfield-colour"]
    stems = [stem for stem in stems if int(stem[:4], 16) % 5]
    chosen = stems[:: max(1, len(stems) // _DSB_IMAGES)][:_DSB_IMAGES]
    return [Sample(_read(folder / f"{stem}.png"), _labels(folder / f"{stem}_labels.png")) for stem in chosen]


def rendered() -> list[Sample]:
    """Rendered liver of seeds that no training uses."""
    from slidecascade_render.liver.tissue import CLASS_NAMES, TissueOptions, render

    found = []
    for seed in _RENDERED_SEEDS:
        tissue = render(TissueOptions(seed=seed, mpp=MPP), width_px=_RENDERED_PX, height_px=_RENDERED_PX)
        classes = tuple(CLASS_NAMES[index] for index in tissue.classes[1:])
        found.append(Sample(tissue.image, tissue.nuclei, classes))
    return found


def cost(analyser: Analyser, sample: Sample) -> dict[str, dict[str, float]]:
    """CPU seconds of `nash` and `nuclei` on one image without and with each method, interleaved; medians."""
    image = png.encode(sample.image)
    found: dict[str, dict[str, float]] = {}
    for pipeline in ("nash", "nuclei"):
        seconds: dict[str, list[float]] = {method: [] for method in METHODS}
        for _ in range(_COST_RUNS):
            for method in METHODS:
                started = time.process_time()
                analysed(analyser, pipeline, image, method)
                seconds[method].append(time.process_time() - started)
        found[pipeline] = {str(method): float(np.median(values)) for method, values in seconds.items()}
    fits: dict[str, float] = {}
    for method in METHODS[1:]:
        started = time.process_time()
        fit = fit_stain(method, sample.image[::2, ::2])
        between = time.process_time()
        fit.apply(sample.image)
        pixels = sample.image.shape[0] * sample.image.shape[1]
        fits[method] = round((time.process_time() - between) / pixels * 1e9, 2)
        found.setdefault("fit_s", {})[method] = round(between - started, 4)
    found["apply_ns_per_px"] = fits
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stain", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds nuclei/; default: rendered tissue only")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "stain.json")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    analyser = Analyser(read_settings(), observer=Silent())
    tissue = rendered()
    sets = [("nash", f"rendered liver, {len(tissue)} tiles", tissue)]
    if arguments.data is not None:
        for name, samples in (("NuCLS", nucls(arguments.data)), ("DSB 2018 colour", dsb(arguments.data))):
            sets.append(("nuclei", f"{name}, {len(samples)} images", samples))
    rows: list[Row] = []
    try:
        spent = cost(analyser, tissue[0])
        print(spent, flush=True)
        for pipeline, name, samples in sets:
            for row in measure(analyser, pipeline, name, samples):
                rows.append(row)
                print(row, f"{row.ap50:.3f}", flush=True)
    finally:
        analyser.close()
    record.write(arguments.out, {"iou": _IOU, "rows": [asdict(row) for row in rows], "cost": spent}, provenance)


if __name__ == "__main__":
    main()
