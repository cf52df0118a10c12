"""``slidecascade synthesize``: fluorescence images of cells with exact masks and counted spots."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

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
_BOUNDS: dict[str, tuple[float, float]] = {
    "images": (1, 1_000_000), "seed": (0, 2**31), "width": (16, _MOST_SIDE_PX), "height": (16, _MOST_SIDE_PX),
    "mpp": (0.01, 100), "cells": (0, 200_000), "diameter": (3, 1000), "size_deviation": (0, 1),
    "elongation": (1, 10), "irregularity": (0, 0.3), "touching": (0, 1), "overlap": (0, 0.6), "photons": (1, 1e6),
    "background": (0, 1e5), "psf": (0, 20), "haze": (0, 1), "read_noise": (0, 1e4), "bleed": (0, 1),
    "texture": (0, 1), "spots": (0, 200), "spot_sigma": (0.5, 10), "spot_snr": (0.1, 1000),
    "spots_apart": (0, 100), "spot_unit": (0.01, 1000),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    masks, optics, spots = MaskOptions(), OpticsOptions(), SpotOptions()
    parser.add_argument("--out", type=Path, required=True, help="folder of the images; must not hold a data set")
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--width", type=int, default=512, help="pixels")
    parser.add_argument("--height", type=int, default=512, help="pixels")
    parser.add_argument("--mpp", type=float, default=0.5, help="um per pixel that the files state")
    cells = parser.add_argument_group("masks")
    cells.add_argument(
        "--generator", type=Path, help="ONNX graph from a latent to a mask, in place of the options below"
    )
    cells.add_argument("--cells", type=int, default=masks.cells, help="cells of an image")
    cells.add_argument("--diameter", type=float, default=masks.diameter_px, help="median diameter in pixels")
    cells.add_argument(
        "--size-deviation", type=float, default=masks.size_deviation, help="of the logarithm of diameters"
    )
    cells.add_argument("--elongation", type=float, default=masks.elongation, help="largest ratio of a cell's axes")
    cells.add_argument("--irregularity", type=float, default=masks.irregularity, help="deviation from ellipses")
    cells.add_argument("--touching", type=float, default=masks.touching, help="part of the cells beside another")
    cells.add_argument(
        "--overlap", type=float, default=masks.overlap, help="part of the radii that neighbours share"
    )
    light = parser.add_argument_group("images")
    light.add_argument(
        "--translator",
        metavar="MODEL|PATH",
        help="installed model of the task translate, or ONNX graph from mask to image, in place of the optics",
    )
    light.add_argument("--models", type=Path, help="the models folder")
    light.add_argument("--photons", type=float, default=optics.photons, help="of the brightest pixels of a cell")
    light.add_argument("--background", type=float, default=optics.background, help="photons everywhere")
    light.add_argument(
        "--psf", type=float, default=optics.psf_px, help="standard deviation of the point spread in pixels"
    )
    light.add_argument("--haze", type=float, default=optics.haze, help="part of the light out of focus")
    light.add_argument("--read-noise", type=float, default=optics.read_noise, help="of the camera, in photons")
    light.add_argument(
        "--bleed", type=float, default=optics.bleed, help="part of a channel's light seen in the others"
    )
    light.add_argument("--texture", type=float, default=optics.texture, help="variation inside cells")
    light.add_argument("--bits", type=int, choices=(8, 12, 16), default=optics.bits, help="of the camera")
    points = parser.add_argument_group("spots, in a channel of their own")
    points.add_argument("--spots", type=float, default=spots.mean, help="mean of a cell (default 0: no channel)")
    points.add_argument("--spot-sigma", type=float, default=spots.sigma_px, help="pixels")
    points.add_argument(
        "--spot-snr", type=float, default=spots.snr, help="height over the noise of the background"
    )
    points.add_argument("--spots-apart", type=float, default=spots.apart_px, help="least distance in pixels")
    points.add_argument(
        "--spot-unit",
        type=float,
        help="pixels of a unit of the distribution (default: by the cell's radius; 1: the published numbers)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; the exit code."""
    _require_bounds(arguments)
    translator, multiple = _translator(arguments)
    options = SynthesisOptions(
        images=arguments.images,
        seed=arguments.seed,
        height_px=arguments.height,
        width_px=arguments.width,
        mpp=arguments.mpp,
        masks=MaskOptions(
            cells=arguments.cells,
            diameter_px=arguments.diameter,
            size_deviation=arguments.size_deviation,
            elongation=arguments.elongation,
            irregularity=arguments.irregularity,
            touching=arguments.touching,
            overlap=arguments.overlap,
        ),
        optics=OpticsOptions(
            photons=arguments.photons,
            background=arguments.background,
            psf_px=arguments.psf,
            haze=arguments.haze,
            read_noise=arguments.read_noise,
            bleed=arguments.bleed,
            texture=arguments.texture,
            bits=arguments.bits,
        ),
        spots=SpotOptions(
            mean=arguments.spots,
            unit_px=arguments.spot_unit,
            sigma_px=arguments.spot_sigma,
            apart_px=arguments.spots_apart,
            snr=arguments.spot_snr,
        ),
        generator=arguments.generator,
        translator=translator,
        translator_multiple=multiple,
    )
    write_dataset(arguments.out, options, bar("images"))
    sys.stdout.write(f"{arguments.images} images in {arguments.out}\n")
    return 0


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
    for name, (low, high) in _BOUNDS.items():
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InvalidRequestError(
                f"--{name.replace('_', '-')} is {value:g}: it must be from {low:g} to {high:g}."
            )
