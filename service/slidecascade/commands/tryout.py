"""``slidecascade try MODEL IMAGE``: a picture of what one model finds in an image, and a sentence about it.

The image passes the `Analyser`, as it does in the service, through a pipeline of the model alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

import yaml

from slidecascade import wire
from slidecascade.analysis.analyser import Analyser, Report
from slidecascade.cancellation import Control
from slidecascade.commands.arguments import channel_of, region_of
from slidecascade.commands.files import require_file
from slidecascade.commands.progress import bar
from slidecascade.errors import InvalidRequestError, MissingResolutionError, PipelineSpecError, UnknownModelError
from slidecascade.kinds.result import RegionResult
from slidecascade.models.repository import ModelPackage, load_package, load_repository
from slidecascade.models.spec import ClassifierSpec
from slidecascade.outputs.comparison import Comparison, Panel, fitted, page
from slidecascade.outputs.encoders import counted
from slidecascade.outputs.figure import Overviewed
from slidecascade.patches.result import PatchesResult
from slidecascade.pipelines.alone import pipeline_alone
from slidecascade.settings import Settings, read_settings
from slidecascade.slides.slide import can_open
from slidecascade.staging import writing_to
from slidecascade.timing import Silent

PANEL_PX: Final = 800
"""Longest side of each of the two pictures."""

LEAST_SIDE_PX: Final = 32
"""A region of fewer pixels of the network shows too little for anything to be found."""

MOST_NAMED: Final = 6
"""Classes in the sentence."""

_NOUNS: Final = {"cells": "objects", "areas": "areas", "patches": "squares"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="a package's folder, or the name of a model in the models folder")
    add("image", type=Path, help="an image (PNG, JPEG, TIFF, WebP) or a slide in a format of OpenSlide")
    add("--mpp", type=float, help="um per pixel; required if the image states none")
    add("--region", type=region_of, help="x,y,width,height in pixels of the image or of level 0")
    add("--channels", type=channel_of, nargs="+", default=[], metavar="MEANING=CHANNEL",
        help="channels by index or name, such as nuclear=0 membrane=CD45")  # fmt: skip
    add("--out", type=Path, metavar="FILE.png", help="the picture (IMAGE.MODEL.png in the current folder)")
    add("--models", type=Path, help="the models folder")


def run(arguments: argparse.Namespace) -> int:
    """Write the picture and print the sentence; returns the exit code."""
    require_file(arguments.image)
    settings = read_settings(models_dir=arguments.models)
    package = _package(arguments.model, settings)
    out = arguments.out or Path(f"{arguments.image.stem}.{package.spec.name}.png")
    if out.suffix.lower() != ".png":
        raise InvalidRequestError(f"The picture is a PNG file, and --out is {out.name}: end its name with .png.")
    if out.exists() and out.samefile(arguments.image):
        raise InvalidRequestError("--out is the image itself: give the picture another name.")
    if not out.absolute().parent.is_dir():
        raise InvalidRequestError(f"The folder {out.parent} of --out does not exist: create it.")
    logging.getLogger("slidecascade").addHandler(logging.NullHandler())
    try:
        picture, sentence = tried(package, arguments)
    except PipelineSpecError as error:  # the model's fault, of a pipeline that nobody wrote
        raise InvalidRequestError(f"{package.spec.name!r} cannot be tried by itself: {error.detail}") from error
    except MissingResolutionError as error:
        raise InvalidRequestError(
            f"{arguments.image.name} does not state a usable pixel size: add --mpp, the micrometres per pixel."
        ) from error
    with writing_to(out):
        out.write_bytes(picture)
    sys.stdout.write(f"{sentence}\nThe picture is {out}. {wire.RESEARCH_USE_ONLY}\n")
    return 0


def tried(package: ModelPackage, arguments: argparse.Namespace) -> tuple[bytes, str]:
    """The picture as PNG, and the sentence.

    Raises:
        InvalidRequestError, PipelineSpecError: the model cannot be tried by itself.
        Others: see `Analyser.analyse`.
    """
    file = pipeline_alone(package.spec)
    with tempfile.TemporaryDirectory(prefix="slidecascade-try-") as name:
        models, pipelines = Path(name, "models"), Path(name, "pipelines")
        models.mkdir()
        pipelines.mkdir()
        (models / package.spec.name).symlink_to(package.onnx_path.parents[1].resolve())
        text = yaml.safe_dump(file.model_dump(mode="json", by_alias=True, exclude_none=True))
        (pipelines / "alone.yaml").write_text(text, encoding="utf-8")
        slide = can_open(arguments.image)
        settings = read_settings(
            models_dir=models,
            pipelines_dir=pipelines,
            slide_roots=(arguments.image.resolve().parent,) if slide else None,
        )
        with closing(Analyser(settings, observer=Silent())) as analyser:
            request = _request(package.spec.name, arguments, is_slide=slide)
            image = None if slide else arguments.image.read_bytes()
            report = analyser.analyse(request, image, Control(), progress=bar("tiles"))
            return _shown(analyser, report, package, arguments.image.name)


def _package(model: str, settings: Settings) -> ModelPackage:
    """The package in the folder `model`, or of that name.

    Raises:
        UnknownModelError: there is neither.
        ModelPackageError: it is not valid.
    """
    folder = Path(model)
    if (folder / "model.yaml").is_file():
        return load_package(folder.resolve())
    if folder.is_dir() and len(folder.parts) > 1:
        raise UnknownModelError(f"The folder {model} has no model.yaml: give the folder of one package.")
    packages = load_repository(settings.models_dir)
    if model not in packages:
        raise UnknownModelError(
            f"There is no model {model!r}: give a package's folder, or one of {', '.join(packages) or 'none'}."
        )
    return packages[model]


def _request(model: str, arguments: argparse.Namespace, *, is_slide: bool) -> wire.RegionRequest:
    fields: dict[str, object] = {
        "pipeline": model,
        "mpp": arguments.mpp,
        "slide": arguments.image.resolve().name if is_slide else None,
        "channels": dict(arguments.channels),
        "allow_partial": True,
    }
    if arguments.region:
        fields["region"] = dict(zip(("x", "y", "width", "height"), arguments.region, strict=True))
    return wire.parse_request(fields)


def _shown(analyser: Analyser, report: Report, package: ModelPackage, image: str) -> tuple[bytes, str]:
    result = report.analysis
    for warning in result.warnings:
        sys.stderr.write(f"Warning ({warning.code}): {warning.message}\n")
    draw = analyser.encoders(result.pipeline).drawn
    assert draw is not None  # noqa: S101 - all kinds of `pipeline_alone` can be drawn
    # Small images are enlarged first, so that outlines stay thin.
    original, downsample = report.overview(PANEL_PX)
    plain, scale = fitted(original, PANEL_PX)
    found = draw(result, Overviewed(plain, downsample / scale))
    spec = package.spec
    context_px = spec.crop.size_px if isinstance(spec, ClassifierSpec) else 0
    sentence = sentence_of(result, image, context_px=context_px)
    region = result.region_l0
    shown = Comparison(
        title=spec.name,
        subtitle=f"{image}: x {region.x}, y {region.y}, {region.width} x {region.height} px of {result.mpp:.4g} "
        f"um; the network reads at {spec.mpp:g} um",
        sentence=sentence,
        headings=("The image", "Classes" if isinstance(spec, ClassifierSpec) else "Outlines"),
        rows=((Panel(plain), Panel(found, _probabilities(result))),),
        counts=tuple(counted(result)),
        um_per_px=result.mpp * downsample / scale,
    )
    return page(shown), sentence


def _probabilities(result: RegionResult) -> tuple[str, ...]:
    """The mean and the highest probability of the classes of patches, the most probable first."""
    if not isinstance(result, PatchesResult) or not result.is_seen.any():
        return ()
    seen = result.probabilities[result.is_seen]
    order = seen.mean(axis=0).argsort()[::-1][:MOST_NAMED].tolist()
    names = result.models[0].classes
    return tuple(
        f"{names[index]}: mean probability {seen[:, index].mean():.2f}, highest {seen[:, index].max():.2f}"
        for index in order
    )


def _beyond(result: RegionResult, context_px: int) -> str:
    """What to know of an image that is smaller than what the network looks at."""
    side_px = _side_px(result)
    if side_px >= context_px:
        return ""
    return (
        f" The image has {side_px:.0f} px at the network's resolution, less than the {context_px} px that it "
        "looks at: beyond the image it was given white."
    )


def _side_px(result: RegionResult) -> float:
    """The shorter side of the region in pixels of the network."""
    return min(result.region_l0.width, result.region_l0.height) * result.mpp / result.models[0].grid.mpp


def sentence_of(result: RegionResult, image: str, *, context_px: int = 0) -> str:
    """Whether anything was found, and where to look if not; `context_px` is the side of a classifier's crop."""
    counts = {name: number for name, number in result.counts.items() if number}
    failed = len(result.tiles.failed)
    missing = f" {failed} of {result.tiles.total} tiles could not be read or run." if failed else ""
    missing += _beyond(result, context_px)
    if not counts:
        if _side_px(result) < LEAST_SIDE_PX:
            cause = f"it has {_side_px(result):.2g} px at the network's resolution: give a larger image"
        elif result.tiles.background == result.tiles.total and not failed:
            cause = "no tissue was found in it: give a part of the image that shows some"
        else:
            cause = (
                f"check that its pixel size ({result.mpp:.4g} um), its stain and its channels are those that "
                "the network was trained on"
            )
        return f"Nothing was found in {image}; {cause}.{missing}"
    total = sum(counts.values())
    each = ", ".join(
        f"{name} {number:,}" for name, number in sorted(counts.items(), key=lambda item: -item[1])[:6]
    )
    noun = _NOUNS[result.kind]
    was = "was" if total == 1 else "were"
    verb = f"{was} classified" if result.kind == "patches" else f"{was} found"
    return f"{total:,} {noun if total > 1 else noun.removesuffix('s')} {verb} in {image}: {each}.{missing}"
