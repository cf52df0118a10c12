"""What is sent, and the answer it must get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.answers import Reference

MPP = 0.5
_BOUNDARY = "slidecascade-load"
CONTENT_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass(frozen=True, slots=True)
class Case:
    """A request's body and the answer to it."""

    body: bytes
    reference: Reference


def write_cases(folder: Path, *, pipeline: str, count: int, side_px: int) -> list[int]:
    """Make `count` cases: rendered tissue, each another piece of it, and one of bare glass.

    The answers come from this process, one region after the other, without the server that is to be measured.
    Returns the number of cells of each.
    """
    import cv2
    import numpy as np

    from slidecascade import wire
    from slidecascade.analysis.analyser import Analyser
    from slidecascade.cancellation import Control
    from slidecascade.outputs.cells import geojson
    from slidecascade.settings import read_settings
    from slidecascade.timing import Silent
    from slidecascade_render.liver.tissue import TissueOptions, render

    request = wire.RegionRequest(pipeline=pipeline, mpp=MPP)
    analyser = Analyser(read_settings(), observer=Silent())
    cells = []
    for number in range(count):
        image = np.full((side_px, side_px, 3), 255, np.uint8)
        if number:
            image = render(TissueOptions(seed=number, mpp=MPP), width_px=side_px, height_px=side_px).image
        png = bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])
        analysis = analyser.run(analyser.prepare(request, png, Control()), Control()).cells
        (folder / f"{number}.body").write_bytes(_form(request.model_dump_json(exclude_none=True).encode(), png))
        (folder / f"{number}.geojson").write_bytes(b"".join(geojson.encode(analysis)))
        cells.append(len(analysis.instances))
    analyser.close()
    return cells


def read_cases(folder: Path) -> list[Case]:
    """The cases `write_cases` left in `folder`."""
    bodies = sorted(folder.glob("*.body"))
    return [Case(path.read_bytes(), Reference.of(path.with_suffix(".geojson").read_bytes())) for path in bodies]


def _form(request: bytes, png: bytes) -> bytes:
    """A multipart form, made once: what is measured is the server, not the making of forms."""
    edge = b"--" + _BOUNDARY.encode()
    lines = (
        edge,
        b'Content-Disposition: form-data; name="request"',
        b"Content-Type: application/json",
        b"",
        request,
        edge,
        b'Content-Disposition: form-data; name="image"; filename="region.png"',
        b"Content-Type: image/png",
        b"",
        png,
        edge + b"--",
        b"",
    )
    return b"\r\n".join(lines)
