"""How many cells are found again, and keep their class, when an image is changed in ways that leave them as they
are.

`python -m benchmarks.stability [--data DIR]` analyses rendered tissue and the real tiles `DIR/liver/*.jpg` at 0.5
um/px, as they are and changed, by the path that serves users. Cells are matched at IoU 0.5."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from benchmarks import record
from benchmarks.stability.changes import Change, Image, changes
from numpy.typing import NDArray

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser
from slidecascade.cancellation import Control
from slidecascade.cells.result import cells_of
from slidecascade.outputs import png
from slidecascade.settings import read_settings
from slidecascade.timing import Silent
from slidecascade_evaluation.matching import Labels, iou_matrix, match
from slidecascade_evaluation.rasters import labels_from_outlines

MPP: Final = 0.5
_SAME_CELL_IOU: Final = 0.5
_RENDERED_SEEDS: Final = (41, 42)


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells in the frame of the unchanged image: a label image ``(H, W)``, cell ``i`` is ``i + 1``, and their
    classes."""

    labels: Labels
    class_index: NDArray[np.int64]

    @classmethod
    def of(cls, image: Image, change: Change, analyser: Analyser, pipeline: str, tta: str = "none") -> Cells:
        """Those that are found in the changed image, with test-time averaging `tta`."""
        fields = {"pipeline": pipeline, "mpp": MPP / change.scale, "options": {"tta": tta}}
        request = wire.parse_request(fields)
        analysis = cells_of(analyser.analyse(request, png.encode(change.apply(image)), Control()).analysis)
        height, width = image.shape[:2]
        vertices = change.undo(analysis.instances.vertices, height, width)
        labels = labels_from_outlines(vertices, analysis.instances.offsets, height_px=height, width_px=width)
        return cls(labels, np.asarray(analysis.class_index, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Cells of the unchanged images; those found again and, of these, with the same class; those found only
    then."""

    images: str
    pipeline: str
    change: str
    cells: int
    found_again: int
    same_class: int
    extra: int


def compare(
    images: Sequence[Image],
    name: str,
    analyser: Analyser,
    pipeline: str,
    *,
    steps: Sequence[Change] = changes(),
    tta: str = "none",
) -> list[Row]:
    """A row for each change of `steps`, over all `images`, with test-time averaging `tta`."""
    none, *_ = changes()
    before = [Cells.of(image, none, analyser, pipeline, tta) for image in images]
    rows = []
    for change in steps:
        counts = np.zeros(4, np.int64)
        for image, cells in zip(images, before, strict=True):
            counts += kept(cells, Cells.of(image, change, analyser, pipeline, tta))
        total, again, same, extra = counts.tolist()
        rows.append(
            Row(
                images=name,
                pipeline=pipeline,
                change=change.name,
                cells=total,
                found_again=again,
                same_class=same,
                extra=extra,
            )
        )
    return rows


def kept(before: Cells, after: Cells) -> NDArray[np.int64]:
    """Cells before, found again, found again in the same class, and found only afterwards."""
    iou = iou_matrix(before.labels, after.labels)
    # A cell that lies wholly under others has no pixels of its own, and no row.
    first, second = (np.unique(cells.labels[cells.labels > 0]) - 1 for cells in (before, after))
    rows, columns = match(iou, _SAME_CELL_IOU)
    same = before.class_index[first[rows]] == after.class_index[second[columns]]
    return np.array([len(first), len(rows), same.sum(), len(second) - len(rows)], np.int64)


def sets(data: Path | None, side_px: int) -> Iterator[tuple[str, list[Image]]]:
    """Rendered liver, and the real tiles of `data`; of each the corner of `side_px` squared."""
    from slidecascade_render.liver.tissue import TissueOptions, render

    yield (
        f"rendered liver, {len(_RENDERED_SEEDS)} tiles",
        [
            render(TissueOptions(seed=seed, mpp=MPP), width_px=side_px, height_px=side_px).image
            for seed in _RENDERED_SEEDS
        ],
    )
    for path in sorted((data / "liver").glob("*.jpg")) if data is not None else ():
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise SystemExit(f"{path.name} cannot be read as an image: fetch the data again.")
        yield f"real liver, {path.stem}", [np.ascontiguousarray(image[:side_px, :side_px, ::-1])]


def parser_of(module: str, description: str | None, *, out: str, side_px: int) -> argparse.ArgumentParser:
    """Of a module that compares cells of tiles: which tiles, and where its figures go, `out` by default."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument(
        "--data", type=Path, help="folder that holds liver/*.jpg of 0.5 um/px; default: rendered only"
    )
    parser.add_argument("--out", type=Path, default=record.RESULTS / out)
    parser.add_argument("--side", type=int, default=side_px, help="side of the tiles in pixels")
    return parser


def main() -> None:
    parser = parser_of("benchmarks.stability", __doc__, out="stability.json", side_px=1024)
    parser.add_argument("--pipeline", default="nash")
    arguments = parser.parse_args()
    provenance = record.Provenance.here()
    analyser = Analyser(read_settings(), observer=Silent())
    rows: list[Row] = []
    try:
        for name, images in sets(arguments.data, arguments.side):
            for row in compare(images, name, analyser, arguments.pipeline):
                rows.append(row)
                print(row, flush=True)
    finally:
        analyser.close()
    figures = {"mpp": MPP, "side_px": arguments.side, "iou": _SAME_CELL_IOU, "rows": [asdict(row) for row in rows]}
    record.write(arguments.out, figures, provenance)


if __name__ == "__main__":
    main()
