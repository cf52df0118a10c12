"""The answers that the results of all kinds have: GeoJSON, summary, heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from slidecascade import wire
from slidecascade.kinds.result import RegionResult
from slidecascade.outputs import heatmap, heatmapfile
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.encoders import Drawing
from slidecascade.outputs.heatmap import Heatmap
from slidecascade.outputs.summary import text

R = TypeVar("R", bound=RegionResult)


@dataclass(frozen=True, slots=True)
class Answers(Generic[R]):
    """The answers of a kind, from the functions in which kinds differ.

    Attributes:
        features: the name of the GeoJSON in the response to BentoML's clients.
        encode: a result as GeoJSON, in chunks.
        summarise: the summary of a result with its heatmaps.
        specs: the definitions of a result's heatmaps.
        compute: a heatmap of a result from its definition.
    """

    features: str
    encode: Callable[[R], Iterator[bytes]]
    summarise: Callable[[R, tuple[Heatmap, ...], Colormap], wire.Summary]
    specs: Callable[[R], Sequence[Any]]
    compute: Callable[[R, Any], Heatmap]

    def heatmaps_of(self, result: R) -> tuple[Heatmap, ...]:
        """All heatmaps of `result`."""
        return tuple(self.compute(result, spec) for spec in self.specs(result))

    def geojson(self, result: R, _drawing: Drawing) -> Iterator[bytes]:
        """The GeoJSON of `result`."""
        yield from self.encode(result)

    def summary(self, result: R, drawing: Drawing) -> Iterator[bytes]:
        """The summary of `result` as JSON."""
        yield text(self.summarise(result, self.heatmaps_of(result), drawing.colormap))

    def heatmap(self, result: R, drawing: Drawing) -> Iterator[bytes]:
        """The requested heatmap as PNG; raises UnknownHeatmapError."""
        yield heatmap.encode_png(self.named(result, drawing.heatmap), drawing.colormap)

    def named(self, result: R, name: str | None) -> Heatmap:
        """The heatmap of that name, None: the first; raises UnknownHeatmapError."""
        return self.compute(result, heatmap.named(name, self.specs(result), pipeline=result.pipeline))

    def native(self, result: R) -> Iterator[bytes]:
        """Summary and GeoJSON in one document, for BentoML's clients."""
        numbers = self.summarise(result, self.heatmaps_of(result), Colormap.VIRIDIS)
        yield b'{"summary":' + text(numbers) + b',"' + self.features.encode() + b'":'
        yield from self.encode(result)
        yield b"}"

    def small_files(self, result: R, maps: tuple[Heatmap, ...], drawing: Drawing) -> Iterator[tuple[str, bytes]]:
        """``summary.json`` and ``heatmaps/NAME.png``; `maps` are all heatmaps of `result`."""
        yield "summary.json", text(self.summarise(result, maps, drawing.colormap), indent=2)
        for item in () if "heatmaps" in drawing.without else maps:
            yield f"heatmaps/{item.name}.png", heatmap.encode_png(item, drawing.colormap)

    def heatmap_files(self, result: R) -> Iterator[tuple[str, bytes]]:
        """``heatmaps/NAME.tiff``: the values of each heatmap."""
        for item in self.heatmaps_of(result):
            yield heatmapfile.name_of(item.name), heatmapfile.encode(item, result.region_l0, result.mpp)
