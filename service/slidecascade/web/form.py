"""The two parts of a multipart form, parsed in memory while they arrive, unless the caller takes the image."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from slidecascade.errors import MalformedRequestError, UploadTooLargeError
from slidecascade.web.body import Body
from slidecascade.web.preamble import Preamble

MAX_JSON_BYTES: Final = 2**20
"""Maximum size of the JSON document; requests have few fields."""

_NAMES: Final = frozenset({"image", "request"})


TakeImage = Callable[[bytes], Awaitable[None]]
"""Takes the next piece of an image."""

_PIECE_BYTES: Final = 2**20
"""Size of the pieces, at least, but for the last one."""


async def read_form(body: Body, content_type: str, *, take: TakeImage | None = None) -> dict[str, bytes]:
    """The parts of the form in `body` by name; file names are ignored.

    With `take`, the image is given to it in pieces as it arrives, and the part ``image`` is empty.

    Raises:
        MalformedRequestError: for an invalid form, or a repeated or unknown part.
        UploadTooLargeError: when the part ``request`` is larger than `MAX_JSON_BYTES`.
        DeadlineExceededError, CancelledError: see `Body.next`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequestError("The Content-Type of the multipart form has no boundary: add it.")
    # The parser references the parts through their callbacks. With a reference back, each upload would stay in
    # memory after its request until the next cycle collection.
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]  # its TypedDict
    except FormParserError as error:
        raise MalformedRequestError(
            "The boundary of the multipart form is invalid: use 1 to 70 ASCII characters."
        ) from error
    preamble = Preamble(boundary)
    while (chunk := await body.next()) is not None:
        try:
            parser.write(preamble.without(chunk))
        except FormParserError as error:
            raise MalformedRequestError(
                "The body is not a multipart form with the stated boundary: correct Content-Type or the body."
            ) from error
        if take is not None and parts.image_bytes >= _PIECE_BYTES:
            await take(parts.take_image())
    if take is not None and parts.image_bytes:
        await take(parts.take_image())
    return parts.finish()


class _Parts:
    """The parser's callbacks; each part is collected in one buffer."""

    def __init__(self) -> None:
        self._contents: dict[str, BytesIO] = {}
        self._name: str | None = None
        self._header = (b"", b"")
        self._ended = False

    def callbacks(self) -> dict[str, Callable[..., Any]]:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    @property
    def image_bytes(self) -> int:
        """How much of the image has arrived and was not taken."""
        return self._contents["image"].tell() if "image" in self._contents else 0

    def take_image(self) -> bytes:
        """What has arrived of the image; it is not held any more."""
        content = self._contents["image"].getvalue()
        self._contents["image"].seek(0)
        self._contents["image"].truncate()
        return content

    def finish(self) -> dict[str, bytes]:
        if not self._ended:
            raise MalformedRequestError("The multipart form ends before its last boundary: send it completely.")
        return {name: content.getvalue() for name, content in self._contents.items()}

    def _begin_part(self) -> None:
        self._name = None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _end_header(self) -> None:
        (name, value), self._header = self._header, (b"", b"")
        if name.lower() == b"content-disposition":
            self._name = parse_options_header(value)[1].get(b"name", b"").decode("latin-1")

    def _end_headers(self) -> None:
        if self._name not in _NAMES:
            raise MalformedRequestError("The form has a part other than 'image' and 'request': remove it.")
        if self._name in self._contents:
            raise MalformedRequestError(f"The form has the part {self._name!r} twice: send it once.")
        self._contents[self._name] = BytesIO()

    def _data(self, data: bytes, start: int, end: int) -> None:
        content = self._contents[str(self._name)]
        if self._name == "request" and content.tell() + end - start > MAX_JSON_BYTES:
            raise UploadTooLargeError(f"The part 'request' is larger than {MAX_JSON_BYTES} bytes.")
        content.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._ended = True
