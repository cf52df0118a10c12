"""``slidecascade synthesize``: fluorescence images of cells with exact masks and counted spots."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slidecascade.commands.progress import bar
from slidecascade.errors import InvalidRequestError
from slidecascade.models.repository import load_repository
from slidecascade.models.spec import TranslatorSpec
from slidecascade.settings import read_settings
from slidecascade_render.fluorescence.dataset import SynthesisOptions, write_dataset
from slidecascade_render.fluorescence.masks import MaskOptions
from slidecascade_render.fluorescence.optics import OpticsOptions
from slidecascade_render.fluorescence.spots import SpotOptions

_MOST_SIDE_PX = 16384


@dataclass(frozen=True, slots=True)
class _Number:
    """A flag for a number: the field of the options that it is, and the bounds of its value."""

    flag: str
    field: str
    low: float
    high: float
    help: str

    @property
    def name(self) -> str:
        """Its attribute of the parsed arguments."""
        return self.flag.replace("-", "_")


_IMAGES: Final = (
    _Number("seed", "seed", 0, 2**31, "the same seed gives the same bytes (default 0)"),
    _Number("width", "width_px", 16, _MOST_SIDE_PX, "pixels"),
    _Number("height", "height_px", 16, _MOST_SIDE_PX, "pixels"),
    _Number("mpp", "mpp", 0.01, 100, "um per pixel that the files state"),
)
_MASKS: Final = (
    _Number("cells", "cells", 0, 200_000, "cells of an image"),
    _Number("diameter", "diameter_px", 3, 1000, "median diameter in pixels"),
    _Number("size-deviation", "size_deviation", 0, 1, "of the logarithm of diameters"),
    _Number("elongation", "elongation", 1, 10, "largest ratio of a cell's axes"),
    _Number("irregularity", "irregularity", 0, 0.3, "deviation from ellipses"),
    _Number("touching", "touching", 0, 1, "part of the cells beside another"),
    _Number("overlap", "overlap", 0, 0.6, "part of the radii that neighbours share"),
)
_OPTICS: Final = (
    _Number("photons", "photons", 1, 1e6, "of the brightest pixels of a cell"),
    _Number("background", "background", 0, 1e5, "photons everywhere"),
    _Number("psf", "psf_px", 0, 20, "standard deviation of the point spread in pixels"),
    _Number("haze", "haze", 0, 1, "part of the light out of focus"),
    _Number("read-noise", "read_noise", 0, 1e4, "of the camera, in photons"),
    _Number("bleed", "bleed", 0, 1, "part of a channel's light seen in the others"),
    _Number("texture", "texture", 0, 1, "variation inside cells"),
)
_SPOTS: Final = (
    _Number("spots", "mean", 0, 200, "mean of a cell (default 0: no channel)"),
    _Number("spot-sigma", "sigma_px", 0.5, 10, "pixels"),
    _Number("spot-snr", "snr", 0.1, 1000, "height over the noise of the background"),
    _Number("spots-apart", "apart_px", 0, 100, "least distance in pixels"),
    _Number(
        "spot-unit",
        "unit_px",
        0.01,
        1000,
        "pixels of a unit of the distribution (default: by the cell's radius; 1: the published numbers)",
    ),
)
_COUNT: Final = _Number("images", "images", 1, 1_000_000, "images to make")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the images; must not hold a data set")
    parser.add_argument(f"--{_COUNT.flag}", type=int, required=True, help=_COUNT.help)
    _add(parser, _IMAGES, SynthesisOptions(images=1))
    cells = parser.add_argument_group("masks")
    cells.add_argument(
        "--generator", type=Path, help="ONNX graph from a latent to a mask, in place of the options below"
    )
    _add(cells, _MASKS, MaskOptions())
    light = parser.add_argument_group("images")
    light.add_argument(
        "--translator",
        metavar="MODEL|PATH",
        help="installed model of the task translate, or ONNX graph from mask to image, in place of the optics",
    )
    light.add_argument("--models", type=Path, help="the models folder")
    _add(light, _OPTICS, OpticsOptions())
    light.add_argument("--bits", type=int, choices=(8, 12, 16), default=OpticsOptions().bits, help="of the camera")
    _add(parser.add_argument_group("spots, in a channel of their own"), _SPOTS, SpotOptions())


def _add(
    group: argparse._ActionsContainer,
    numbers: Sequence[_Number],
    options: SynthesisOptions | MaskOptions | OpticsOptions | SpotOptions,
) -> None:
    """Flags for `numbers`, by default those of `options`."""
    for number in numbers:
        default = getattr(options, number.field)
        kind = int if isinstance(default, int) else float
        group.add_argument(f"--{number.flag}", type=kind, default=default, help=number.help)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; the exit code."""
    _require_bounds(arguments)
    translator, multiple = _translator(arguments)
    options = SynthesisOptions(
        images=arguments.images,
        **_stated(arguments, _IMAGES),
        masks=MaskOptions(**_stated(arguments, _MASKS)),
        optics=OpticsOptions(**_stated(arguments, _OPTICS), bits=arguments.bits),
        spots=SpotOptions(**_stated(arguments, _SPOTS)),
        generator=arguments.generator,
        translator=translator,
        translator_multiple=multiple,
    )
    write_dataset(arguments.out, options, bar("images"))
    sys.stdout.write(f"{arguments.images} images in {arguments.out}\n")
    return 0


def _stated(arguments: argparse.Namespace, numbers: Sequence[_Number]) -> dict[str, Any]:
    """The values of `numbers`, by the fields of their options."""
    return {number.field: getattr(arguments, number.name) for number in numbers}


def _translator(arguments: argparse.Namespace) -> tuple[Path | None, int]:
    """The graph, and what its heights and widths are multiples of: of a path, or else of an installed model.

    Raises:
        InvalidRequestError: there is neither.
    """
    stated = arguments.translator
    if stated is None or Path(stated).suffix == ".onnx" or Path(stated).is_file():
        return (None if stated is None else Path(stated)), 1
    packages = load_repository(read_settings(models_dir=arguments.models).models_dir)
    package = packages.get(stated)
    if package is None or not isinstance(package.spec, TranslatorSpec):
        found = ", ".join(name for name, each in packages.items() if isinstance(each.spec, TranslatorSpec))
        raise InvalidRequestError(
            f"--translator {stated} is neither an ONNX file nor an installed translator; there is "
            f"{found or 'none installed'}: correct the name or give a path."
        )
    return package.onnx_path, package.spec.input.multiple_of


def _require_bounds(arguments: argparse.Namespace) -> None:
    for number in (_COUNT, *_IMAGES, *_MASKS, *_OPTICS, *_SPOTS):
        value = getattr(arguments, number.name)
        if value is not None and not (math.isfinite(value) and number.low <= value <= number.high):
            raise InvalidRequestError(
                f"--{number.flag} is {value:g}: it must be from {number.low:g} to {number.high:g}."
            )
