"""Fields that are kept as one large tile, and the files of a result that is held as a whole: areas and patches."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from slidecascade.geometry import Box
from slidecascade.jobs.fields import Field
from slidecascade.jobs.parts import FieldReport, Parts, failure_records, unreadable
from slidecascade.kinds.sink import KeepingSink
from slidecascade.kinds.tile_result import AnyTileResult
from slidecascade.outputs.files import Files
from slidecascade.outputs.gzipped import gzipped
from slidecascade.staging import write_file, writing_to

T = TypeVar("T", bound=AnyTileResult)

SUFFIX: Final = "npz"


class OneTileSink(KeepingSink[T]):
    """Takes the tiles of one field.

    Args:
        region: what is analysed, in pixels of the grid.
        encode: all tiles of the field, joined, as the bytes of its part.
    """

    def __init__(self, field: Field, *, region: Box, parts: Parts, encode: Callable[[Sequence[T]], bytes]) -> None:
        super().__init__()
        self._field = field
        self._region = region
        self._parts = parts
        self._encode = encode

    def keep(self, seconds: Mapping[str, float]) -> FieldReport:
        """Write the field's part; see `survey.FieldSink`."""
        part = self._encode(self._results)
        report = FieldReport(
            index=self._field.index,
            tiles=len(self._field.tiles),
            background=self.background,
            failed=failure_records(self._failures),
            seen_px=self.seen_px(self._region),
            seconds=dict(seconds),
        )
        return self._parts.keep(report, {SUFFIX: part})


def decoded(parts: Parts, index: int, decode: Callable[[bytes], T]) -> T:
    """What a field gave.

    Raises:
        UnreadablePartError: the part is gone or damaged.
    """
    try:
        return decode(parts.path(index, SUFFIX).read_bytes())
    except (ValueError, OSError) as error:
        raise unreadable(index) from error


def write_files(
    folder: Path,
    made: Files,
    heatmaps: Iterable[tuple[str, bytes]],
    *,
    outputs: Container[str],
    own: Mapping[str, str],
    gzip: bool,
) -> None:
    """Write the files of a result that `outputs` asks for, the summary last.

    Args:
        heatmaps: names and contents of the files with the values of heatmaps.
        own: for names of files of this kind alone, the output that asks for them.
        gzip: whether GeoJSON is packed.
    """
    with writing_to(folder):
        if "geojson" in outputs:
            name = f"{made.large_name}.gz" if gzip else made.large_name
            write_file(folder / name, gzipped(made.large) if gzip else made.large)
        for name, content in heatmaps if "heatmaps" in outputs else ():
            write_file(folder / name, content)
        summary = b""
        for name, content in made.small:
            if name == "summary.json":
                summary = content
                continue
            drawn = "heatmaps" if name.startswith(("heatmaps/", "figures/")) else None
            output = own.get(name, drawn)
            if output is None or output in outputs:
                write_file(folder / name, content)
        write_file(folder / "summary.json", summary)
