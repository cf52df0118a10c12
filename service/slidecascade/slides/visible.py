"""Which slides a caller may see: all, or those below some folders and of some DICOMweb servers.

A folder is compared with the place that a slide's file really has, links followed: a link from a folder that is
seen to one that is not shows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

SERVER: Final = re.compile(r"dicomweb:[A-Za-z0-9._-]+")


def _checked(name: str) -> str:
    if not SERVER.fullmatch(name) and (not Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name):
        raise ValueError("give the absolute path of a folder of slides, or dicomweb:NAME")
    return name


SlideFolder = Annotated[str, AfterValidator(_checked)]
"""The absolute path of a folder, or ``dicomweb:NAME`` for the slides of a server."""


@dataclass(frozen=True, slots=True)
class Visible:
    """The slides below `folders` (see `SlideFolder`); None: all slides."""

    folders: tuple[str, ...] | None = None

    def has_server(self, slide_id: str) -> bool:
        """Whether the slides of the DICOMweb server that `slide_id` names are seen."""
        return self.folders is None or slide_id.partition("/")[0] in self.folders

    def has_file(self, path: Path) -> bool:
        """Whether a slide is seen, whose file has the resolved `path`, with its companion folder (MIRAX)."""
        if self.folders is None:
            return True
        companion = path.with_suffix("").resolve()
        return any(path.is_relative_to(folder) and companion.is_relative_to(folder) for folder in self._resolved())

    def starts(self, root: Path) -> Iterator[Path]:
        """The folders below `root`, which is resolved, that hold all that is seen of it."""
        if self.folders is None:
            yield root
            return
        for folder in self._resolved():
            if folder.is_relative_to(root):
                yield folder
            elif root.is_relative_to(folder):
                yield root

    def _resolved(self) -> Iterator[Path]:
        for name in self.folders or ():
            if not SERVER.fullmatch(name):
                yield Path(name).resolve()


ALL_SLIDES: Final = Visible()
