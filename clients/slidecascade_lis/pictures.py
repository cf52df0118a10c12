"""The picture of a job that a result may contain."""

from __future__ import annotations

import asyncio
import io
import logging
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

from slidecascade_client import AsyncJob, SlideCascadeClientError
from slidecascade_lis.config import Picture

LOG = logging.getLogger("slidecascade.lis")
_SMALLEST_PX: Final = 32


async def picture_of(job: AsyncJob, wanted: Picture) -> bytes | None:
    """The PNG of a job's file, within its bounds; None where it cannot be had: a result does
    not wait for its picture."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            if wanted.file not in await job.files():
                return None
            await job.fetch(folder, names=[wanted.file])
            return await asyncio.to_thread(reduced, Path(folder) / wanted.file, wanted)
    except (SlideCascadeClientError, OSError) as error:
        LOG.warning("a result has no picture", extra={"fields": {"reason": type(error).__name__}})
        return None


def reduced(path: Path, wanted: Picture) -> bytes | None:
    """The picture as PNG with sides of at most `max_side_px` and at most `max_bytes`, else None."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    side_px = wanted.max_side_px
    while side_px >= _SMALLEST_PX:
        picture.thumbnail((side_px, side_px))
        target = io.BytesIO()
        picture.save(target, "PNG", optimize=True)
        if target.tell() <= wanted.max_bytes:
            return target.getvalue()
        side_px = side_px * 3 // 4
    return None
