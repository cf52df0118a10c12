"""What a result can be answered as: the one place where a media type is mapped to an encoder, for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from slidecascade.kinds.result import RegionResult
from slidecascade.outputs import archive
from slidecascade.outputs.colormap import Colormap
from slidecascade.outputs.files import Files, Overview
from slidecascade.wire import ZIP

R = TypeVar("R", bound=RegionResult)


@dataclass(frozen=True, slots=True)
class Drawing:
    """How heatmaps are drawn, and which is asked for; None: the first."""

    heatmap: str | None = None
    colormap: Colormap = Colormap.VIRIDIS


@dataclass(frozen=True, slots=True)
class Encoders(Generic[R]):
    """The encoders of a kind.

    Attributes:
        answers: by media type, the default first: a result in pieces. Nothing is computed before the first one is
            asked for.
        files: all files of the zip and of the command line's folder. Raises ModelFailedError when what was found
            holds numbers that are not finite.
        native: what BentoML's clients get.
    """

    answers: Mapping[str, Callable[[R, Drawing], Iterator[bytes]]]
    files: Callable[[R, Overview, Drawing], Files]
    native: Callable[[R], Iterator[bytes]]

    @property
    def offers(self) -> tuple[str, ...]:
        """The media types there are, the default first."""
        return (*self.answers, ZIP)

    def encode(self, media_type: str, result: R, overview: Overview, drawing: Drawing) -> Iterator[bytes]:
        """`result` as one of `offers`."""
        if media_type == ZIP:
            yield from archive.encode(self.files(result, overview, drawing))
        else:
            yield from self.answers[media_type](result, drawing)
