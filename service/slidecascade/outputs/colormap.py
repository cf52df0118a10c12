"""The colours of heatmaps. A `Colormap` is made where its name comes in, and is valid from then on."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from slidecascade.errors import InvalidRequestError


class Colormap(StrEnum):
    """All perceptually uniform except ``jet``, which is offered because pathology tools show it."""

    VIRIDIS = "viridis"
    CIVIDIS = "cividis"
    MAGMA = "magma"
    INFERNO = "inferno"
    PLASMA = "plasma"
    JET = "jet"

    @classmethod
    def parse(cls, name: str) -> Colormap:
        """The colormap called `name`.

        Raises:
            InvalidRequestError: listing the names there are.
        """
        if name not in COLORMAPS:
            message = f"must be one of {', '.join(COLORMAPS)}"
            raise InvalidRequestError(f"The colormap is wrong: it {message}.", (("colormap", message),))
        return cls(name)

    def colors(self) -> NDArray[np.uint8]:
        """The 256 colours from low to high, RGB ``(256, 3)``."""
        ramp = np.arange(256, dtype=np.uint8)[:, None]
        table: NDArray[np.uint8] = cv2.applyColorMap(ramp, _OPENCV[self])[:, 0, ::-1]
        return table


_OPENCV: Final = {
    Colormap.VIRIDIS: cv2.COLORMAP_VIRIDIS,
    Colormap.CIVIDIS: cv2.COLORMAP_CIVIDIS,
    Colormap.MAGMA: cv2.COLORMAP_MAGMA,
    Colormap.INFERNO: cv2.COLORMAP_INFERNO,
    Colormap.PLASMA: cv2.COLORMAP_PLASMA,
    Colormap.JET: cv2.COLORMAP_JET,
}
COLORMAPS: Final = tuple(str(item) for item in Colormap)
