"""A head as another package would add one: octagons around dark places, the darkest first."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.heads import unet
from slidecascade.heads.head import ObjectHead, SegmenterOptions
from slidecascade.heads.labels import at_least, grey_level
from slidecascade.heads.objects import Polygons
from slidecascade.models.tensors import OutputSpec, Tensors

MAX_RADIUS_PX = 6
_OCTAGON = np.array([(-2, -1), (-1, -2), (1, -2), (2, -1), (2, 1), (1, 2), (-1, 2), (-2, 1)]) / 2


class StarsOptions(SegmenterOptions):
    """`overlap`: octagons whose centres are closer than this part of their radii together suppress each other."""

    overlap: float = 0.5


class _Stars(ObjectHead[StarsOptions]):
    """Candidates are the darkest pixels of their 5 x 5, with radii of 3 to 6 px; the better of two is kept."""

    name: ClassVar[str] = "toy-stars"
    options = StarsOptions

    def outputs(self, classes: Sequence[str]) -> tuple[OutputSpec, ...]:
        return unet.OUTPUTS

    def decode(self, outputs: Tensors, options: StarsOptions, *, mpp: float) -> Polygons:
        dark = outputs["maps"][:, :, 0]
        rows, columns = np.nonzero(self._candidates(dark, options))
        values = dark[rows, columns]
        radii = 3 + values % (MAX_RADIUS_PX - 2)
        order = np.argsort(-values.astype(np.int64), kind="stable")
        kept: list[int] = []
        for index in order.tolist():
            distances = np.hypot(columns[kept] - columns[index], rows[kept] - rows[index])
            if (distances >= options.overlap * (radii[kept].astype(float) + radii[index])).all():
                kept.append(index)
        kept.sort()
        rings = 0.5 + _OCTAGON[None] * radii[kept].astype(float)[:, None, None]
        return Polygons(
            anchors=np.stack([columns[kept], rows[kept]], axis=1).astype(np.int64),
            vertices=rings.reshape(-1, 2),
            offsets=np.arange(len(kept) + 1, dtype=np.int64) * len(_OCTAGON),
            scores=(values[kept] / 255).astype(np.float32),
        )

    def extent(self, outputs: Tensors, options: StarsOptions, *, mpp: float) -> NDArray[np.uint8]:
        candidates = self._candidates(outputs["maps"][:, :, 0], options)
        # Octagons suppress each other at most 6 px apart: half of it around each joins them.
        side = 2 * (MAX_RADIUS_PX // 2) + 1
        return np.asarray(cv2.dilate(candidates, np.ones((side, side), np.uint8)), np.uint8)

    def reach_px(self, options: StarsOptions, *, mpp: float) -> int:
        return MAX_RADIUS_PX

    def _candidates(self, dark: NDArray[np.uint8], options: StarsOptions) -> NDArray[np.uint8]:
        dark = np.ascontiguousarray(dark)
        highest = cv2.compare(dark, cv2.dilate(dark, np.ones((5, 5), np.uint8)), cv2.CMP_EQ)
        found: NDArray[np.uint8] = cv2.bitwise_and(highest, at_least(dark, grey_level(options.foreground)))
        # A candidate for every four pixels: boxes start on even ones.
        found[1::2] = 0
        found[:, 1::2] = 0
        return found


STARS: Final = _Stars()
NOT_A_HEAD: Final = "stars"


def write_dist_info(folder: Path, package: str, heads: Mapping[str, str]) -> Path:
    """The metadata of an installed `package` in `folder`, whose entry points are `heads`."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in _metadata(package, heads).items():
        (info / name).write_text(text, encoding="utf-8")
    return folder


def build_wheel(folder: Path, package: str, source: str, heads: Mapping[str, str]) -> Path:
    """A wheel of one module with `source`."""
    module = package.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    files = {f"{module}.py": source}
    files |= {f"{module}-1.0.dist-info/{name}": text for name, text in _metadata(package, heads).items()}
    record = "".join(f"{name},,\n" for name in (*files, f"{module}-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in (files | {f"{module}-1.0.dist-info/RECORD": record}).items():
            wheel.writestr(name, text)
    return path


def _metadata(package: str, heads: Mapping[str, str]) -> dict[str, str]:
    points = "".join(f"{name} = {value}\n" for name, value in heads.items())
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": f"[slidecascade.heads]\n{points}",
    }
