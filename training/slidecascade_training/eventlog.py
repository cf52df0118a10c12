"""Curves for TensorBoard, by tensorboardX's own writer of event files.

Its `SummaryWriter` is not used: it writes in a thread, which a full disk terminates while the run waits for it.
`EventsWriter` writes in the calling thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from slidecascade.staging import make_folder, writing_to


class EventLog:
    """An event file in `folder`, a new one for every start of a run.

    Raises:
        UnwritableOutputError: when the file cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._folder = folder
        make_folder(folder)
        with writing_to(folder):
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing_to(self._folder):
            self._writer.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point to each curve and sync the file.

        Raises:
            UnwritableOutputError: the disk is full.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=points))
        with writing_to(self._folder):
            self._writer.write_event(event)
            self._writer.flush()
