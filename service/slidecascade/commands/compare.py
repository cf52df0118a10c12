"""``slidecascade compare``: pipelines of cells ranked on images with ground truth."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from slidecascade.analysis.analyser import Analyser
from slidecascade.commands.progress import bar
from slidecascade.errors import InvalidRequestError
from slidecascade.settings import read_settings
from slidecascade.staging import make_folder, write_files
from slidecascade.timing import Silent
from slidecascade_evaluation import comparereport
from slidecascade_evaluation.comparison import MEASURES, compare
from slidecascade_evaluation.truth import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipelines", required=True, metavar="A,B,...", help="pipelines of cells")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        action="append",
        help="folder of x.png or x.tif with x_labels.png or x_labels.tif; repeat it to compare sets, such as one "
        "that `slidecascade synthesize` made and one of real cells",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the page, plots and comparison.json")
    parser.add_argument("--split", choices=SPLITS, help="of folders with index.csv; default: validate")
    parser.add_argument("--kind", help="use the images of this kind in sets of several, by index.csv")
    parser.add_argument("--mpp", type=float, help="um per pixel of the images; default: that of each segmenter")
    parser.add_argument(
        "--channel", type=_channel, default=0, help="of 16-bit images: the channel to use, by number or name (0)"
    )
    parser.add_argument("--rank-by", choices=tuple(MEASURES), default="map", help="default: mean AP over IoU")
    parser.add_argument("--models", type=Path, help="the models folder")


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the table and write the folder; the exit code."""
    # Imported first: a missing matplotlib is reported before the work.
    from slidecascade_evaluation import compareplots

    logging.getLogger("slidecascade").addHandler(logging.NullHandler())
    pipelines = tuple(dict.fromkeys(name for name in arguments.pipelines.split(",") if name))
    if not pipelines:
        raise InvalidRequestError("--pipelines names none: give names with commas between them.")
    make_folder(arguments.out)
    analyser = Analyser(read_settings(models_dir=arguments.models), observer=Silent())
    try:
        comparisons = [
            compare(
                analyser,
                pipelines,
                folder,
                measure=arguments.rank_by,
                split=arguments.split,
                kind=arguments.kind,
                mpp=arguments.mpp,
                channel=arguments.channel,
                progress=bar(folder.name),
            )
            for folder in arguments.data
        ]
    finally:
        analyser.close()
    sys.stdout.write(comparereport.table(comparisons))
    pictures = compareplots.draw(comparisons)
    html = comparereport.page(comparisons, pictures, compareplots.draw_worst(comparisons))
    document = json.dumps(comparereport.document(comparisons), indent=2) + "\n"
    files = {"comparison.json": document.encode(), "index.html": html.encode(), **pictures}
    write_files(arguments.out, files)
    return 0


def _channel(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
