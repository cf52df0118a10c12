"""``make bench-viewer``: the page in Chromium and its tiles over HTTP, to ``benchmarks/results/viewer.json``.

On a slide of one level of 0.4 Gpx and on a job of a million cells, by a server of its own. Exits with 2 where
Chromium or the built page is missing.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from benchmarks import record
from benchmarks.jobs.cells import SIDE_PX
from benchmarks.page import write_page
from benchmarks.viewer.slides import GLASS, ONE_LEVEL, ONE_LEVEL_PX, TILE_PX, write_million, write_one_level
from benchmarks.viewer.tab import CHROMIUM, LARGE, Browser, LateError, browsing
from openslide import OpenSlide
from openslide.deepzoom import DeepZoomGenerator

from slidecascade.cli import WRONG_CALL
from slidecascade.commands.service_process import served
from slidecascade.slides.deepzoom import QUALITY
from slidecascade.web.viewer import BUILT

VIEW_PX: Final = 2000
_TILES: Final = 200
_REST_S: Final = 0.8
"""After a drag: the slide moves on for half a second."""
_OUTLINES_VIEW_L0: Final = "10000,10000,9100,6700"
"""A view just above the coarsest scale that shows outlines, of about 4 level-0 pixels for one of the screen."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of panning, for the memory of the tab")
    parser.add_argument("--rounds", type=int, default=3, help="of what is measured cold, or per view")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    arguments = parser.parse_args()
    if CHROMIUM is None or not BUILT.is_dir():
        sys.stderr.write("Chromium and the page are needed: apt-get install chromium; make setup.\n")
        return WRONG_CALL
    provenance = record.Provenance.here()
    with tempfile.TemporaryDirectory(prefix="slidecascade-viewer-") as name:
        figures = measure(Path(name), minutes=arguments.minutes, rounds=arguments.rounds)
    record.write(arguments.out / "viewer.json", figures, provenance)
    if arguments.out == record.RESULTS:
        write_page()
    print({name: value for name, value in figures.items() if name != "memory"})
    return 0


def measure(folder: Path, *, minutes: float, rounds: int) -> dict[str, Any]:
    slides, jobs = folder / "slides", folder / "jobs"
    slides.mkdir()
    write_one_level(slides / ONE_LEVEL)
    job = write_million(slides, jobs)
    (slides / "block.tif").unlink()
    environment = {
        "SLIDECASCADE_SLIDE_ROOTS": str(slides),
        "SLIDECASCADE_JOBS_DIR": str(jobs),
        "SLIDECASCADE_JOBS_MIN_FREE_BYTES": "0",
    }
    figures: dict[str, Any] = {"minutes": minutes, "weight_kb": _weight_kb()}
    with browsing() as browser:
        cold = []
        for _ in range(rounds):
            with served(environment) as (url, _process):
                cold.append(_first_picture(browser, url))
        figures |= {name: _median([each[name] for each in cold]) for name in cold[0]}
        with served(environment) as (url, _process):
            figures |= _tiles(url, slides / ONE_LEVEL)
            figures |= _unless_late(lambda: _outlines(browser, url, job))
            figures |= _unless_late(lambda: _views(browser, url, job, rounds=3 * rounds))
            figures |= _unless_late(lambda: {"memory": _memory(browser, url, job, minutes=minutes)})
    return figures


def _unless_late(part: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """The figures of a part; none, and a line on stderr, when the page did not come to what was waited for."""
    try:
        return part()
    except LateError as error:
        sys.stderr.write(f"A part was not measured: {error}\n")
        return {}


def _weight_kb() -> float:
    """All that a first visit loads, as sent to a browser that takes gzip."""
    return round(sum(path.stat().st_size for path in BUILT.glob("*.gz")) / 1e3, 1)


def _first_picture(browser: Browser, url: str) -> dict[str, float]:
    """From the click on a slide whose coarse levels are not made to its first tile, and to all exact ones."""
    with browser.tab(url) as tab:
        tab.goto(f"{url}/livez")
        # The list's thumbnails would have the levels made before the click.
        tab.block("*/thumbnail*")
        tab.open()
        start = tab.now()
        tab.evaluate(f"document.querySelector(\"[data-slide='{ONE_LEVEL}']\").click()")
        shown = tab.first("first-picture", after=start)
        exact = tab.first("exact-picture", after=start)
        return {"first_picture_ms": shown["at"] - start, "exact_picture_ms": exact["at"] - start}


def _tiles(url: str, slide: Path) -> dict[str, float]:
    """Tiles over one connection that is kept: of level 0 made and kept, and of the coarse levels; and those of
    level 0 as OpenSlide makes them of `slide` in this process, in turn with ours."""
    rng = np.random.default_rng(0)
    fine = (ONE_LEVEL_PX - 1).bit_length()
    columns = ONE_LEVEL_PX // TILE_PX
    places = [(fine, int(x), int(y)) for x, y in rng.integers(0, columns, (_TILES, 2))]
    low = [(level, 0, 0) for level in range(fine - 4)] * 10
    with httpx.Client(base_url=url, timeout=120) as client:
        content_id = client.get(f"/v1/slides/{ONE_LEVEL}").json()["content_id"]

        def fetch(level: int, column: int, row: int) -> None:
            path = f"/v1/slides/{ONE_LEVEL}/dzi_files/{level}/{column}_{row}.jpeg?content_id={content_id}"
            client.get(path).raise_for_status()

        _times_ms(low[:1] + places[:5], fetch)
        with OpenSlide(slide) as reader:
            tiles = DeepZoomGenerator(reader, tile_size=TILE_PX, overlap=0, limit_bounds=False)

            def make(level: int, column: int, row: int) -> None:
                tiles.get_tile(level, (column, row)).save(io.BytesIO(), "JPEG", quality=QUALITY)

            _times_ms(places[:5], make)
            made, openslide = _times_ms(places[5:], fetch, make)
        (kept,), (coarse,) = _times_ms(places, fetch), _times_ms(low, fetch)
    return {
        f"{name}_{share}_ms": round(float(np.percentile(found, percent)), 2)
        for name, found in (
            ("tile_made", made),
            ("openslide_tile", openslide),
            ("tile_kept", kept),
            ("low_tile", coarse),
        )
        for share, percent in (("p50", 50), ("p95", 95))
    }


def _times_ms(tiles: list[tuple[int, int, int]], *makers: Callable[[int, int, int], None]) -> np.ndarray:
    """``(len(makers), len(tiles))``: each tile by all makers in turn, so that other load meets them alike."""
    found = np.empty((len(makers), len(tiles)))
    for place, tile in enumerate(tiles):
        for maker, work in enumerate(makers):
            start = time.perf_counter()
            work(*tile)
            found[maker, place] = (time.perf_counter() - start) * 1e3
    return found


def _outlines(browser: Browser, url: str, job: str) -> dict[str, float]:
    """Drawing all outlines of the coarsest view that has them, and frames while it is dragged; in turn
    with that the same without outlines: what browser, tiles and page take of a frame by themselves."""
    with browser.tab(url, LARGE) as tab:
        tab.open(f"#slide={GLASS}&view={_OUTLINES_VIEW_L0}&job={job}")
        cells = tab.counted()
        time.sleep(1)  # until tiles and layers are there too
        draws: list[float] = []
        for _ in range(5):
            now = tab.now()
            tab.set_outlines(False)
            tab.set_outlines(True)
            draws.append(tab.first("outlines", after=now)["cost"])
        frames: dict[str, list[float]] = {"pan_frame": [], "pan_frame_floor": []}
        for _ in range(3):
            for name, found in frames.items():
                tab.set_outlines(name == "pan_frame")
                tab.watch_frames()
                for way in (-1, 1):
                    tab.drag(250 * way, 120 * way, steps=40)
                found.extend(tab.frames_ms().tolist())
        return {
            "outlines": cells,
            "outlines_draw_ms": _median(draws),
            **{
                f"{name}_p{percent}_ms": round(float(np.percentile(found, percent)), 1)
                for name, found in frames.items()
                for percent in (50, 95)
            },
        }


def _views(browser: Browser, url: str, job: str, *, rounds: int) -> dict[str, float]:
    """Views of 2000 px at random places with cells: from the first request for cells to outlines drawn."""
    rng = np.random.default_rng(1)
    found: list[float] = []
    cells: list[int] = []
    with browser.tab(url) as tab:
        while len(found) < rounds:
            x, y = rng.integers(0, SIDE_PX - VIEW_PX, 2).tolist()
            tab.open(f"#slide={GLASS}&view={x},{y},{VIEW_PX},{VIEW_PX}&job={job}")
            # The cells are copies of a block, with glass between some of them.
            if not (counted := tab.counted()):
                continue
            asked = tab.first("/cells?bbox")
            # Not before the answers: the view may have been drawn without cells meanwhile.
            drawn = tab.first("outlines", after=tab.last_end("/cells?bbox"))
            found.append(drawn["at"] - asked["at"])
            cells.append(counted)
    return {
        "view_cells": float(np.median(cells)),
        "view_p50_ms": _median(found),
        "view_p95_ms": round(float(np.percentile(found, 95)), 1),
    }


def _memory(browser: Browser, url: str, job: str, *, minutes: float) -> list[dict[str, float]]:
    """The tab's private memory and its scripts' heap, about ten times while the view is dragged over the slide.

    It rests between the drags, so that its cells are read and drawn.
    """
    with browser.tab(url) as tab:
        tab.open(f"#slide={GLASS}&view=10000,10000,3000,2500&job={job}")
        tab.counted()
        samples: list[dict[str, float]] = []
        begun = time.monotonic()
        step, every_s = 0, minutes * 6
        while (passed := time.monotonic() - begun) < minutes * 60 or len(samples) < 2:
            if passed >= len(samples) * every_s:
                samples.append(
                    {
                        "s": round(passed, 1),
                        "private_mb": round(browser.tabs_mb(), 1),
                        "heap_mb": round(tab.heap_mb(), 1),
                    }
                )
            # To and fro in long rows, so that most squares are new.
            tab.drag(-700 if step // 30 % 2 == 0 else 700, -300 if step % 30 == 29 else 0, steps=8)
            time.sleep(_REST_S)
            step += 1
        return samples


def _median(values: list[float]) -> float:
    return round(float(np.median(values)), 1)


if __name__ == "__main__":
    sys.exit(main())
