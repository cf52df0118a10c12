"""``slidecascade dataset``: labelled crops or tiles from slides and annotations."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from slidecascade.errors import InvalidRequestError
from slidecascade_training.datasets.build import DatasetOptions, build
from slidecascade_training.datasets.folder import Way
from slidecascade_training.datasets.patches import CLASSES, SAMPLINGS, PatchOptions, build_patches
from slidecascade_training.datasets.vocabulary import Vocabulary

DEFAULT_STRIDE_PX = 128
"""Side of a square of patches."""

_WAYS: dict[str, Way] = {
    "points": "points",
    "regions": "regions",
    "pipeline": "pipeline",
    "outlines": "outlines",
    "masks": "masks",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slides", type=Path, required=True, help="folder of slides, or of plain images")
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        help="folder of QuPath GeoJSON, ASAP XML or ImageScope XML, named like the slides; a csv of masks",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; must not exist")
    parser.add_argument(
        "--mpp", type=float, required=True, help="um per pixel of the crops, as the model needs them"
    )
    parser.add_argument("--size", type=int, required=True, help="side of a crop or tile in pixels")
    parser.add_argument(
        "--from",
        dest="way",
        nargs="+",
        default=["points"],
        metavar=("points|regions|pipeline NAME|outlines|masks|patches", "NAME"),
        help="points: one crop for each point or outline (default); regions: crops all over the regions; "
        "pipeline NAME: cells found by that pipeline, labelled by the points in them or the regions around them; "
        "outlines: tiles with label images, for segmenters; pixels of a tile outside outlines are background; "
        "masks: tiles with masks, from a table of run lengths (id,encoding) as --annotations; "
        "patches: contexts of --size around squares of --stride, labelled by NAME_mask.tif or the polygons "
        "of NAME.geojson in --annotations",
    )
    parser.add_argument("--classes", type=_names_of, default=(), metavar="A,B", help="default: all classes found")
    parser.add_argument(
        "--rename",
        type=_renaming_of,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="rename a class",
    )
    parser.add_argument("--skip-others", action="store_true", help="skip annotations of classes not in --classes")
    parser.add_argument("--skip-outside", action="store_true", help="skip annotations outside their slide")
    parser.add_argument(
        "--annotation-origin",
        choices=("slide", "bounds"),
        help="origin of annotations: the corner of level 0 or of the scanned part (default: bounds for GeoJSON, "
        "as in QuPath, unless the file states it; slide for XML)",
    )
    parser.add_argument(
        "--slide-mpp",
        type=_slide_mpp_of,
        action="append",
        default=[],
        metavar="[SLIDE=]MPP",
        help="um per pixel of slides and images that state none; with a file name, of that file",
    )
    parser.add_argument(
        "--validation", type=float, default=0.2, help="fraction held out for validation (default: 0.2)"
    )
    parser.add_argument("--no-validation", action="store_true", help="hold out nothing for validation")
    parser.add_argument("--stride", type=int, help="spacing of crops within regions in pixels (default: --size)")
    parser.add_argument(
        "--within",
        metavar="CLASS",
        help="outlines: tiles only inside regions of this class, in which every cell is outlined",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    parser.add_argument(
        "--sampling",
        choices=SAMPLINGS,
        default="all",
        help="patches: all squares with tissue (default), or as the reference: a third of the positives, half as "
        "many negatives of the same slide, and as many again from slides that are nearly negative",
    )
    parser.add_argument(
        "--mask-above", type=int, default=0, help="patches: grey level above which a mask is positive (0)"
    )
    parser.add_argument(
        "--mask-class", metavar="CLASS", help="patches: class of the polygons that are positive (default: all)"
    )
    parser.add_argument("--models", type=Path, help="the models folder, for --from pipeline")


def run(arguments: argparse.Namespace) -> int:
    """Build the data set and print the balance of classes; returns the exit code."""
    logging.getLogger("slidecascade").addHandler(logging.NullHandler())
    way, *rest = arguments.way
    if arguments.way == ["patches"]:
        return _run_patches(arguments)
    if way not in _WAYS or len(rest) != (way == "pipeline"):
        raise InvalidRequestError(
            "--from is invalid: use points, regions, outlines, masks, patches, or pipeline and a pipeline's name."
        )
    options = DatasetOptions(
        slides_dir=arguments.slides,
        annotations_dir=arguments.annotations,
        out=arguments.out,
        mpp=arguments.mpp,
        size_px=arguments.size,
        way=_WAYS[way],
        pipeline=rest[0] if rest else None,
        models_dir=arguments.models,
        slide_mpp=next((mpp for name, mpp in reversed(arguments.slide_mpp) if not name), None),
        slide_mpps={name: mpp for name, mpp in arguments.slide_mpp if name},
        vocabulary=Vocabulary(
            wanted=arguments.classes, renamed=dict(arguments.rename), others_skipped=arguments.skip_others
        ),
        validation=0.0 if arguments.no_validation else arguments.validation,
        seed=arguments.seed,
        stride_px=arguments.stride,
        within=arguments.within,
        outside_skipped=arguments.skip_outside,
        annotation_origin=arguments.annotation_origin,
    )
    built = build(options, report=lambda line: sys.stderr.write(f"{line}\n"))
    sys.stdout.write(built.balance.table())
    for reason, count in built.left_out.items():
        if count:
            sys.stderr.write(f"Skipped: {count} {reason}.\n")
    for name in built.unmatched:
        sys.stderr.write(f"Skipped: {name}, because no slide has its name.\n")
    for warning in built.balance.warnings():
        sys.stderr.write(f"{warning}\n")
    sys.stdout.write(f"The data set is in {arguments.out}.\n")
    return 0


def _run_patches(arguments: argparse.Namespace) -> int:
    """Contexts from slides with masks."""
    options = PatchOptions(
        slides_dir=arguments.slides,
        masks_dir=arguments.annotations,
        out=arguments.out,
        mpp=arguments.mpp,
        context_px=arguments.size,
        stride_px=arguments.stride or DEFAULT_STRIDE_PX,
        slide_mpp=next((mpp for name, mpp in reversed(arguments.slide_mpp) if not name), None),
        slide_mpps={name: mpp for name, mpp in arguments.slide_mpp if name},
        sampling=arguments.sampling,
        above=arguments.mask_above,
        polygons=arguments.mask_class,
        class_names=arguments.classes or CLASSES,
        validation=0.0 if arguments.no_validation else arguments.validation,
        seed=arguments.seed,
    )
    balance = build_patches(options, report=lambda line: sys.stderr.write(f"{line}\n"))
    sys.stdout.write(balance.table())
    for warning in balance.warnings():
        sys.stderr.write(f"{warning}\n")
    sys.stdout.write(f"The data set is in {arguments.out}.\n")
    return 0


def _names_of(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _renaming_of(text: str) -> tuple[str, str]:
    old, separator, new = text.rpartition("=")
    if not (separator and old and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW, e.g. 'Tumor: Positive=Positive'")
    return old, new


def _slide_mpp_of(text: str) -> tuple[str, float]:
    """``0.5``, or ``liver.svs=0.5``."""
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or SLIDE=NUMBER, e.g. liver.svs=0.5") from None
