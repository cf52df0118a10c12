"""A data set on disk: ``dataset.json``, ``index.csv`` and PNG files.

    crops/<number>-<class>/<slide>-<n>.png    uint8 RGB squares, for classifiers
    <stem>.png, <stem>_labels.png             a tile and its 16-bit instance labels, for segmenters
    <stem>_mask.png                           of areas, the mask that the labels are the connected parts of
    index.csv                                 one row per crop or tile: file, class, slide, split, place
    dataset.json                              what they are: pixel size, classes, how they were made, balance

Plain files rather than shards of arrays: crops can be inspected, sorted and corrected with any image viewer, and
PNG is lossless.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidecascade.errors import UnusableDataError
from slidecascade.models.spec import ModelClass
from slidecascade_training.datasets.split import TRAIN, VALIDATE, Split

Kind = Literal["crops", "tiles"]
Way = Literal["points", "regions", "pipeline", "outlines", "masks", "patches"]
MAX_LABEL = 2**16 - 1


class DatasetSpec(BaseModel):
    """``dataset.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Kind
    name: str
    mpp: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    size_px: Annotated[int, Field(ge=4, le=2048)]
    """Side of a crop or tile."""
    classes: Annotated[tuple[ModelClass, ...], Field(min_length=1)]
    made_from: Way
    pipeline: str | None = None
    """The pipeline whose cells were cut out."""
    seed: int = 0
    balance: dict[str, object] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    """Number of omitted annotations, by reason."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.classes)


@dataclass(frozen=True, slots=True)
class Example:
    """A row of ``index.csv``: a crop with its centre, or a tile with its corner (`class_name` empty)."""

    file: str
    class_name: str
    slide: str
    split: Split
    x_l0: float
    y_l0: float


_COLUMNS = ("file", "class", "slide", "split", "x_l0", "y_l0")
_TILE_COLUMNS = ("stem", "kind", "file", "slide", "split", "x_l0", "y_l0")


def write_png(path: Path, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """RGB ``(H, W, 3)`` or labels ``(H, W)``; raises OSError when the disk is full, which cv2.imwrite does not
    report."""
    stored = image[..., ::-1] if image.ndim == 3 else image
    done, coded = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise ValueError("OpenCV could not encode the image.")
    path.write_bytes(coded.tobytes())


def write_index(folder: Path, spec: DatasetSpec, examples: Sequence[Example]) -> None:
    """``dataset.json`` and ``index.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if spec.kind == "crops":
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(item) for item in examples)
    else:
        # Stem and kind are what the recipe of the bundled nuclei model reads.
        writer.writerow(_TILE_COLUMNS)
        writer.writerows(
            (Path(item.file).stem, "brightfield-colour", item.file, item.slide, item.split, item.x_l0, item.y_l0)
            for item in examples
        )
    (folder / "index.csv").write_text(text.getvalue(), encoding="utf-8")
    (folder / "dataset.json").write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_spec(folder: Path) -> DatasetSpec:
    """``dataset.json``.

    Raises:
        UnusableDataError: when it is missing or invalid.
    """
    try:
        return DatasetSpec.model_validate(json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
    except ValidationError as error:  # a ValueError as well
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UnusableDataError(f"dataset.json is wrong at {where}: {first['msg']}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _no_data_set(folder) from error


def read_index(folder: Path) -> tuple[DatasetSpec, tuple[Example, ...]]:
    """Read the index of `write_index`, possibly with rows added or removed by hand.

    Raises:
        UnusableDataError: when there is no such set, or a row is invalid.
    """
    spec = read_spec(folder)
    try:
        with (folder / "index.csv").open(newline="", encoding="utf-8") as lines:
            examples = tuple(_example(row) for row in csv.DictReader(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise _no_data_set(folder) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableDataError(
            "index.csv does not have the format of `slidecascade dataset`: create the data set again."
        ) from error
    _require_sound(spec, examples)
    return spec, examples


def _no_data_set(folder: Path) -> UnusableDataError:
    return UnusableDataError(f"{folder} contains no data set: give the folder that `slidecascade dataset` wrote.")


def _example(row: dict[str, str]) -> Example:
    split = row["split"]
    if split not in (TRAIN, VALIDATE):
        raise ValueError("no such split")
    values = (row["file"], row.get("class", ""), row["slide"], split, float(row["x_l0"]), float(row["y_l0"]))
    return Example(*values)


def _require_sound(spec: DatasetSpec, examples: Sequence[Example]) -> None:
    if not examples:
        raise UnusableDataError("The data set is empty: index.csv has no rows.")
    for example in examples:
        if spec.kind == "crops" and example.class_name not in spec.class_names:
            raise UnusableDataError(
                f"index.csv has the class {example.class_name!r}, which is none of "
                f"{', '.join(spec.class_names)}: correct it, or make the data set again."
            )
        if Path(example.file).is_absolute() or ".." in Path(example.file).parts:
            raise UnusableDataError(f"index.csv names {example.file!r}: files are inside the data set.")
    if len(examples) == 1:
        raise UnusableDataError("The data set has one example only: annotate more.")
