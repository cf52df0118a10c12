"""Decoding of 1,000 objects in 2048 x 2048 px by each head, beside the project that defines it; one thread.

Oracles are imported where they are installed, for instance with ``pip install --no-deps --target FOLDER stardist
csbdeep cellpose ...`` and FOLDER behind the others in PYTHONPATH; rows without one have no second column.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from benchmarks import record
from benchmarks.heads import scene
from numpy.typing import NDArray

from slidecascade.geometry import Size
from slidecascade.heads.table import find

SIDE_PX: Final = 2048
OBJECTS: Final = 1000
ROUNDS: Final = 7
MPP: Final = 0.5
OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "stardist": {},
    "flows": {},
    "maskrcnn": {"detections": 2 * OBJECTS},
    "semantic": {"output": "d0"},
    "mesmer": {},
}
Decode = Callable[[scene.Outputs], int]


def stardist(outputs: scene.Outputs) -> int:
    """Suppression over the whole image in C++."""
    from stardist.nms import non_maximum_suppression

    points, *_ = non_maximum_suppression(
        outputs["dist"], outputs["prob"][..., 0], grid=(2, 2), b=0, nms_thresh=0.3, prob_thresh=0.479071
    )
    return len(points)


def cellpose(outputs: scene.Outputs) -> int:
    """200 steps of every pixel, and the check of flows."""
    from cellpose import dynamics

    flows = outputs["flows"]
    return int(dynamics.compute_masks(flows[:2], flows[2], niter=200, flow_threshold=0.4, min_size=15).max())


def pasted_one_by_one(outputs: scene.Outputs) -> int:
    """As torchvision pastes: a loop over the masks that count."""
    chosen = np.flatnonzero(outputs["scores"] > 0.8)
    found = 0
    for index in chosen:
        left, top, right, bottom = outputs["boxes"][index].astype(int)
        mask = cv2.resize(outputs["masks"][index], (right - left + 1, bottom - top + 1)) > 0.5
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found += bool(contours)
    return found


def skimage_watershed(outputs: scene.Outputs) -> int:
    """The flooding alone, from the same markers."""
    from skimage.segmentation import watershed

    inner = np.ascontiguousarray(outputs["whole_cell_inner_distance"][..., 0])
    interior = cv2.GaussianBlur(np.ascontiguousarray(outputs["whole_cell_pixelwise"][..., 1]), (17, 17), 2)
    is_top = (inner == cv2.dilate(inner, np.ones((5, 5), np.uint8))) & (inner > 0.075)
    markers = cv2.connectedComponents(is_top.astype(np.uint8))[1]
    return int(watershed(-interior, markers, mask=interior > 0.2).max())


def scipy_labels(outputs: scene.Outputs) -> int:
    """The pieces alone, without holes filled and specks dropped."""
    from scipy import ndimage

    return int(ndimage.label(outputs["d0"][0] >= 0.5, np.ones((3, 3)))[1])


ORACLES: Final[Mapping[str, tuple[str, Decode]]] = {
    "stardist": ("StarDist", stardist),
    "flows": ("Cellpose", cellpose),
    "maskrcnn": ("masks pasted one by one", pasted_one_by_one),
    "semantic": ("SciPy's labels", scipy_labels),
    "mesmer": ("scikit-image's watershed", skimage_watershed),
}


def outputs_of(labels: NDArray[np.int32]) -> Mapping[str, scene.Outputs]:
    return {
        "stardist": scene.star_outputs(labels, seed=1, grid=2),
        "flows": scene.flow_outputs(labels, seed=1),
        "maskrcnn": scene.detection_outputs(labels, seed=1),
        "semantic": scene.probability_outputs(labels, seed=1),
        "mesmer": scene.distance_outputs(labels, seed=1),
    }


def _timed(decode: Callable[[], int]) -> tuple[int, float]:
    """What it found, and the CPU milliseconds it took."""
    started = time.process_time()
    found = decode()
    return found, 1e3 * (time.process_time() - started)


def measure(side_px: int = SIDE_PX, objects: int = OBJECTS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """A row for each head: objects and median CPU milliseconds, ours and the oracle's in turn."""
    cv2.setNumThreads(1)
    outputs = outputs_of(scene.cells(1, side_px, objects))
    rows = []
    for name, shown in outputs.items():
        head = find(name)
        options = head.options(**OPTIONS[name])

        def ours(head: Any = head, options: Any = options, shown: scene.Outputs = shown) -> int:
            return len(head.look(shown, options, size=Size(side_px, side_px), mpp=MPP)[0])

        label, oracle = ORACLES[name]
        turns: dict[str, list[tuple[int, float]]] = {"ours": [], "oracle": []}
        for _ in range(rounds):
            turns["ours"].append(_timed(ours))
            try:
                turns["oracle"].append(_timed(partial(oracle, shown)))
            except ImportError:
                continue
        row: dict[str, Any] = {"head": name, "oracle": label}
        for which, found in turns.items():
            if found:
                row[f"{which}_objects"] = found[-1][0]
                row[f"{which}_cpu_ms"] = round(statistics.median(ms for _, ms in found), 1)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "heads.json")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("Oracles may use more threads than one: set OMP_NUM_THREADS=1.")
    provenance = record.Provenance.here()
    rows = measure()
    print(json.dumps(rows, indent=1))
    record.write(arguments.out, {"side_px": SIDE_PX, "rows": rows}, provenance)


if __name__ == "__main__":
    main()
