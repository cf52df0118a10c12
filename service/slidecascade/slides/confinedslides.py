"""Opens each slide in a process that may read its files and do nothing else, so that a broken one breaks no other.

The processes are forked from a template that has imported everything and reads no slide: they start within
milliseconds and share its memory. How they are confined: `slidecascade.slides.slideprocess`,
`docs/threat-model.md`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from slidecascade.errors import NotReadyError, UnreadableSlideError
from slidecascade.slides.confinedprocess import EndedError, StartedProcess
from slidecascade.slides.confinedslide import ENDED, ConfinedSlide, SlideProcess, refusal
from slidecascade.slides.fileslide import FileSlide
from slidecascade.slides.heldfile import HeldFile
from slidecascade.slides.openslides import DirectSlides, SlideOpener
from slidecascade.slides.slidetask import MESSAGE_BYTES, Look, Looked, Open, Opened, Ready, Refused, Start, Started

LOG = logging.getLogger(__name__)

START_S: Final = 60.0
_LOOK_S: Final = 30.0
_TRIES: Final = 2
_PROGRAM: Final = "slidecascade.slides.slideprocess"


class ConfinedSlides:
    """A `SlideOpener`, whose template is started at once and is ready a moment later.

    Args:
        died: called when a process ended on a slide.
    """

    def __init__(self, *, retry_after_s: int, died: Callable[[], None]) -> None:
        self._retry_after_s = retry_after_s
        self._died = died
        self._lock = threading.Lock()
        self._template = _Template()
        self._is_closed = False
        self._has_reported = False

    @property
    def pid(self) -> int:
        """Of the template."""
        return self._template.pid

    def open(self, file: HeldFile, path: Path) -> FileSlide:
        """See `SlideOpener`."""
        slide = self._opened(file, path) or self._opened(None, path)
        if slide is None:
            raise UnreadableSlideError(ENDED)
        return slide

    @contextmanager
    def looking(self, folders: Sequence[Path]) -> Iterator[Callable[[Path], bool]]:
        """See `SlideOpener`; a file that ends the process is not recognised."""
        looker = _Looker(lambda: self._start(Start.below(*folders), []))
        try:
            yield looker.recognises
        finally:
            looker.close()

    def close(self) -> None:
        """End the template; slides that are open stay so until they are closed."""
        with self._lock:
            self._is_closed = True
            self._template.kill()

    def _opened(self, file: HeldFile | None, path: Path) -> ConfinedSlide | None:
        """The slide at `path`, of which `file` is held, if that is all it needs; without, by its name."""
        rights = Start() if file is not None else Start.below(path.parent)
        process = self._start(rights, [] if file is None else [file.descriptor])
        try:
            answer = process.ask(Open(path=os.fsencode(path), is_held=file is not None))
            if isinstance(answer, Refused):
                raise refusal(answer)
            if not isinstance(answer, Opened):
                raise EndedError("it answered something else")
            if answer.info is not None:
                return ConfinedSlide(path if file is None else file.path, answer, process)
        except EndedError as error:
            process.fail(error)
            raise UnreadableSlideError(ENDED) from None
        except BaseException:
            process.close()
            raise
        process.close()
        return None

    def _start(self, rights: Start, descriptors: list[int]) -> SlideProcess:
        """A process that is confined; raises NotReadyError."""
        for _ in range(_TRIES):
            with suppress(EndedError), _reported():
                with self._lock:
                    if self._is_closed:
                        break
                    if not self._template.is_alive:
                        self._template.kill()
                        self._template = _Template()
                    process = self._template.fork(rights, descriptors, self._died)
                confined = process.await_confined()
                if not self._has_reported:
                    self._has_reported = True
                    LOG.info("slide process ready", extra={"fields": confined.model_dump(exclude={"kind"})})
                return process
        raise NotReadyError(
            "No process to read slides could be started: ask the operator to look at the log.",
            retry_after_s=self._retry_after_s,
        )


def open_slides(processes: int, *, retry_after_s: int, died: Callable[[], None]) -> SlideOpener:
    """`ConfinedSlides`, or with no processes that decode, slides that this process reads."""
    return ConfinedSlides(retry_after_s=retry_after_s, died=died) if processes else DirectSlides()


@contextmanager
def _reported() -> Iterator[None]:
    """Log a lack of descriptors or of processes, and raise EndedError for it."""
    try:
        yield
    except OSError as error:
        LOG.exception("slide processes cannot be started")
        raise EndedError("there is no room for it") from error


class _Looker:
    """Looks at files in a process that is started when it is needed, and anew when it has ended."""

    def __init__(self, start_process: Callable[[], SlideProcess]) -> None:
        self._start_process = start_process
        self._process: SlideProcess | None = None

    def recognises(self, path: Path) -> bool:
        """Whether OpenSlide knows the format of the file; False where it ends the process."""
        process = self._process = self._process or self._start_process()
        try:
            answer = process.ask(Look(path=os.fsencode(path)), seconds=_LOOK_S)
            if not isinstance(answer, Looked):
                raise EndedError("it answered something else")
        except EndedError as error:
            process.fail(error)
            self._process = None
            return False
        return answer.is_slide

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


class _Template(StartedProcess):
    """The process that others are forked from, which stay when it is killed; used by one thread at a time."""

    def __init__(self) -> None:
        super().__init__(_PROGRAM)
        self._is_ready = False

    def fork(self, rights: Start, descriptors: Sequence[int], died: Callable[[], None]) -> SlideProcess:
        """A new process that has `descriptors`; raises EndedError, and is not alive then."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._await_ready()
                socket.send_fds(self._channel, [rights.encoded()], [theirs.fileno(), *descriptors])
            message, held, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, 1)
            started = Started.model_validate_json(message)
        except (OSError, ValidationError) as error:
            ours.close()
            self.kill()
            LOG.exception("slide processes cannot be started")
            raise EndedError("the template has ended") from error
        return SlideProcess(ours, started.pid, held[0] if held else None, died)

    def _await_ready(self) -> None:
        """Raises OSError or ValidationError where it cannot start."""
        if not self._is_ready:
            self._channel.settimeout(START_S)
            ready = Ready.model_validate_json(self._channel.recv(MESSAGE_BYTES))
            self._is_ready = True
            LOG.info("slide processes ready", extra={"fields": ready.model_dump()})
