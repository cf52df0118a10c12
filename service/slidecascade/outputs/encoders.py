"""The encoders of a kind: the only mapping from media types to encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from slidecascade.kinds.result import RegionResult
from slidecascade.outputs import archive, figure, png
from slidecascade.outputs.caption import Counted
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.files import Files, Overview
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.overlay import MAX_SIDE_PX
from slidecascade.wire import PNG, ZIP

Style = Literal["map", "figure"]
STYLES: Final[tuple[Style, ...]] = ("map", "figure")

Part = Literal["heatmaps", "overlay", "figures"]
PARTS: Final[tuple[Part, ...]] = ("heatmaps", "overlay", "figures")
"""Pictures of the zip that a request can leave out."""

R = TypeVar("R", bound=RegionResult)


@dataclass(frozen=True, slots=True)
class Drawing:
    """How heatmaps are drawn, and the requested one; None: the first.

    A ``map`` is bare, to be laid over the slide; a ``figure`` shows it over the tissue, see `figure.py`. The zip
    leaves out the pictures that `without` names.
    """

    heatmap: str | None = None
    colormap: Colormap = Colormap.VIRIDIS
    style: Style = "map"
    without: frozenset[Part] = frozenset()

    @property
    def shows_tissue(self) -> bool:
        """Whether a picture of the zip needs the region's overview."""
        return not self.without >= {"overlay", "figures"}


@dataclass(frozen=True, slots=True)
class Encoders(Generic[R]):
    """The encoders of a kind.

    Attributes:
        answers: by media type, the default first: a result in pieces. Nothing is computed before the first one is
            asked for.
        files: all files of the zip and of the command line's folder. Raises ModelFailedError when what was found
            holds numbers that are not finite.
        native: what BentoML's clients get.
        heatmap_of: the heatmap of a name, None: the first; for kinds that have heatmaps.
        drawn: what was found over the region's pixels, which stay unchanged; for kinds that can be drawn.
    """

    answers: Mapping[str, Callable[[R, Drawing], Iterator[bytes]]]
    files: Callable[[R, Overview, Drawing], Files]
    native: Callable[[R], Iterator[bytes]]
    heatmap_of: Callable[[R, str | None], Heatmap] | None = None
    drawn: Callable[[R, figure.Overviewed], figure.Rgb] | None = None

    @property
    def offers(self) -> tuple[str, ...]:
        """The media types there are, the default first."""
        return (*self.answers, ZIP)

    def encode(self, media_type: str, result: R, overview: Overview, drawing: Drawing) -> Iterator[bytes]:
        """`result` as one of `offers`."""
        if media_type == ZIP:
            yield from archive.encode(self.files(result, overview, drawing))
        elif media_type == PNG and drawing.style == "figure" and self.heatmap_of is not None:
            item = self.heatmap_of(result, drawing.heatmap)
            shown = figure.Overviewed(*overview(figure.LONGEST_PX))
            yield figure.map_figure(result, item, shown, counted(result), drawing.colormap)
        else:
            yield from self.answers[media_type](result, drawing)


def pictures(
    result: RegionResult,
    maps: Sequence[Heatmap],
    overview: Overview,
    drawing: Drawing,
    *,
    draw: Callable[[figure.Rgb, float], figure.Rgb],
    colormaps: Sequence[Colormap],
) -> Iterator[tuple[str, bytes]]:
    """``overlay.png`` and the files of `figure.figures`, but for what `drawing` leaves out.

    Args:
        draw: draws outlines over an image of the overview's downsample.
    """
    shown = figure.Overviewed(*overview(MAX_SIDE_PX))
    base, page, outlined = figure.overlaid(result, shown, draw)
    if "overlay" not in drawing.without:
        yield "overlay.png", png.encode(page)
    del shown, page  # 50 MB
    if "figures" not in drawing.without:
        yield from figure.figures(
            result, maps, base, outlined=outlined, counts=counted(result), colormaps=colormaps
        )


def counted(result: RegionResult) -> list[Counted]:
    """The classes of `result`, each with its colour and how many there are of it."""
    return [(end.name, end.color, result.counts[end.name]) for end in result.classes.ends]
