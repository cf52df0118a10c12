"""A folder of synthesized images: 16-bit TIFF stacks, label images, ``index.csv`` and ``spots.csv``.

An image depends on the seed, its number and the options alone, so a folder made twice has the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError
from slidecascade.staging import make_folder, write_files
from slidecascade_render.fluorescence.masks import Labels, MaskOptions, draw_masks
from slidecascade_render.fluorescence.networks import MaskGenerator, Translator
from slidecascade_render.fluorescence.optics import OpticsOptions, background_noise, camera_counts, cell_light
from slidecascade_render.fluorescence.spots import SpotOptions, Spots, place_spots, render_spots
from slidecascade_render.fluorescence.stacktiff import stack_tiff

KIND: Final = "synthetic"
NUCLEAR, SPOTS = "nuclear", "spots"
_MOST_16_BIT: Final = 65535
_COLUMNS: Final = ("stem", "kind", "split", "width_px", "height_px", "mpp", "bits", "channels", "cells", "spots",
                   "foreground", "seed")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisOptions:
    """A folder of images.

    Attributes:
        generator, translator: ONNX graphs in place of the parametric masks and of the optics.
        translator_multiple: the translator's heights and widths are multiples of this.
    """

    images: int
    seed: int = 0
    height_px: int = 512
    width_px: int = 512
    mpp: float = 0.5
    masks: MaskOptions = field(default_factory=MaskOptions)
    optics: OpticsOptions = field(default_factory=OpticsOptions)
    spots: SpotOptions = field(default_factory=SpotOptions)
    generator: Path | None = None
    translator: Path | None = None
    translator_multiple: int = 1


@dataclass(frozen=True, slots=True)
class Synthesized:
    """An image ``(H, W, C)`` uint16 with its channels, labels ``(H, W)`` and spots."""

    stem: str
    image: NDArray[np.uint16]
    channels: tuple[str, ...]
    labels: Labels
    spots: Spots


@dataclass(frozen=True, slots=True)
class Synthesizer:
    """Makes images by number."""

    options: SynthesisOptions
    generator: MaskGenerator | None
    translator: Translator | None

    @classmethod
    def of(cls, options: SynthesisOptions) -> Synthesizer:
        """Raises InvalidRequestError for a network that cannot be used."""
        return cls(
            options,
            MaskGenerator.open(options.generator) if options.generator else None,
            Translator.open(options.translator, multiple_of=options.translator_multiple)
            if options.translator
            else None,
        )

    def image(self, number: int) -> Synthesized:
        """Image `number`; raises InvalidRequestError where a network returns something unusable."""
        options = self.options
        rng = np.random.default_rng([options.seed, number])
        if self.generator is not None:
            labels = self.generator.labels(rng)
        else:
            labels = draw_masks(options.masks, options.height_px, options.width_px, rng)
        has_spots = options.spots.mean > 0
        spots = (
            place_spots(labels, options.spots, rng)
            if has_spots
            else Spots(np.zeros((0, 2)), np.zeros(0, np.int32))
        )
        image, channels = self._light(labels, spots, rng, has_spots=has_spots)
        return Synthesized(f"synthetic-{options.seed}-{number:05d}", image, channels, labels, spots)

    def _light(
        self, labels: Labels, spots: Spots, rng: np.random.Generator, *, has_spots: bool
    ) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
        optics = self.options.optics
        height, width = labels.shape
        nothing = np.zeros(labels.shape, np.float32)
        names = (NUCLEAR, SPOTS) if has_spots else (NUCLEAR,)
        height_of_spots = self.options.spots.snr * background_noise(optics)
        drawn = height_of_spots * render_spots(spots, height, width, self.options.spots.sigma_px)
        if self.translator is None:
            cells = cell_light(labels, optics, rng)
            light, sharp = [cells, nothing][: len(names)], [nothing, drawn][: len(names)]
            return camera_counts(light, sharp, optics, rng), names
        image = self.translator.image(labels)
        full = 2**optics.bits - 1
        counts = np.rint(image * full).astype(np.uint16)
        found = (NUCLEAR, *(f"channel-{index}" for index in range(1, image.shape[2])))
        if has_spots:
            counts = np.concatenate([counts, camera_counts([nothing], [drawn], optics, rng)], axis=2)
            found = (*found, SPOTS)
        return counts, found


def write_dataset(out: Path, options: SynthesisOptions, progress: Callable[[int, int], None]) -> None:
    """Write the folder `out`, which must not hold a data set; `progress(done, total)` is called after each image.

    Raises:
        InvalidRequestError: `out` holds one, or a network cannot be used.
        UnwritableOutputError: a full disk.
    """
    if (out / "index.csv").exists():
        raise InvalidRequestError(f"{out} already holds a data set: choose another --out or remove it.")
    synthesizer = Synthesizer.of(options)
    make_folder(out)
    rows, spots = [], []
    for number in range(options.images):
        made = synthesizer.image(number)
        write_files(out, files_of(made, options.mpp))
        rows.append(_row(made, options))
        spots += [
            (made.stem, int(cell), f"{x:.3f}", f"{y:.3f}")
            for cell, (x, y) in zip(made.spots.cells, made.spots.positions, strict=True)
        ]
        progress(number + 1, options.images)
    tables = {"spots.csv": _table(("stem", "cell", "x", "y"), spots)} if options.spots.mean > 0 else {}
    # Last: a folder with an index is complete.
    write_files(out, {**tables, "options.txt": _stated(options), "index.csv": _table(_COLUMNS, rows)})


def files_of(made: Synthesized, mpp: float) -> Mapping[str, bytes]:
    """The image and its labels: 16-bit, or 32-bit where there are more objects."""
    dtype = np.uint16 if made.labels.max(initial=0) <= _MOST_16_BIT else np.uint32
    labels = made.labels.astype(dtype)[..., None]
    return {
        f"{made.stem}.tif": stack_tiff(made.image, made.channels, mpp),
        f"{made.stem}_labels.tif": stack_tiff(labels, ("labels",), mpp),
    }


def _row(made: Synthesized, options: SynthesisOptions) -> tuple[object, ...]:
    height, width = made.labels.shape
    return (
        made.stem, KIND, "validate", width, height, f"{options.mpp:g}", options.optics.bits,
        " ".join(made.channels),
        int(made.labels.max(initial=0)), len(made.spots.cells), f"{(made.labels > 0).mean():.4f}", options.seed,
    )  # fmt: skip


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()


def _stated(options: SynthesisOptions) -> bytes:
    values = asdict(options)
    values["generator"] = options.generator and options.generator.name
    values["translator"] = options.translator and options.translator.name
    return ("\n".join(f"{name}: {value}" for name, value in values.items()) + "\n").encode()
