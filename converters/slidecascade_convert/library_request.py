"""The options of a conversion of a published library's network, which states most of them itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from slidecascade.errors import InvalidRequestError
from slidecascade_convert.request import require_classes, require_name

Library = Literal["stardist", "cpnet", "u2net", "u2netp", "mesmer", "maskrcnn"]
LIBRARIES: Final[tuple[str, ...]] = get_args(Library)


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryRequest:
    """One call of ``slidecascade convert`` for the file of a library's own saver.

    Attributes:
        source: the file or folder.
        library: whose network it is; None: recognised by its content.
        channels: meanings of the channels that the network is given; empty: the library's usual ones.
        mpp: micrometres per pixel of the training images; None where the library or a diameter states it.
        diameter_um: mean diameter of the cells that a CPnet is to find, from which `mpp` follows.
        halo_px: None: as wide as the receptive field wants.

    Raises:
        InvalidRequestError: when fields contradict each other.
    """

    source: Path
    name: str
    out: Path
    library: Library | None
    classes: tuple[str, ...]
    channels: tuple[str, ...] = ()
    mpp: float | None = None
    diameter_um: float | None = None
    halo_px: int | None = None
    licence: str = "not stated"
    version: int = 1

    def __post_init__(self) -> None:
        require_name(self.name)
        require_classes(self.classes)
        if len(self.classes) != 1:
            raise InvalidRequestError("A segmenter finds one class of objects: give one --classes.")
        if len(set(self.channels)) != len(self.channels) or not all(self.channels):
            raise InvalidRequestError("The channels' meanings must be unique: correct --input-channels.")
        if self.mpp is not None and self.diameter_um is not None:
            raise InvalidRequestError("--diameter and --mpp both state the pixel size: give one of them.")
