"""A file on its way to the caller's disk, in pieces that may come from several tries and several programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

import httpx

from slidecascade_client.reply import Reply

_WHOLE = 200
_PART = 206


class Download:
    """The file `name` of `source` below `folder`.

    What has arrived is kept beside the target, with the ETag of the file it is a part of, so that a later try,
    also of another program, asks for the rest only. Another file than the one begun is fetched from its beginning.
    """

    def __init__(self, folder: Path, name: str, *, source: str) -> None:
        self._target = folder / name
        mark = sha256(source.encode()).hexdigest()[:8]
        self._part = self._target.with_name(f".{self._target.name}.{mark}.part")
        self._about = self._part.with_suffix(".etag")
        self.is_done = False

    @property
    def received_bytes(self) -> int:
        """How much has arrived."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def headers(self) -> Mapping[str, str]:
        """What a request for the rest carries; what arrives must be the file's own bytes."""
        etag = self._etag()
        if etag is None or not self.received_bytes:
            return {"accept-encoding": "identity"}
        return {
            "accept-encoding": "identity",
            "range": f"bytes={self.received_bytes}-",
            "if-range": etag,
        }

    @contextmanager
    def receiving(self, response: httpx.Response) -> Iterator[IO[bytes]]:
        """Where the content of a successful `response` is written to.

        Raises:
            OSError: when it cannot be written.
        """
        self._part.parent.mkdir(parents=True, exist_ok=True)
        goes_on = response.status_code == _PART and response.headers.get("content-range", "").startswith(
            f"bytes {self.received_bytes}-"
        )
        if not goes_on:
            self._about.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
            etag = response.headers.get("etag", "")
            if etag.startswith('"'):  # a weak one does not identify bytes
                self._about.write_text(json.dumps({"etag": etag}), encoding="utf-8")
        if response.status_code == _PART and not goes_on:
            raise httpx.RemoteProtocolError("The service sent another part of the file than it was asked for.")
        with self._part.open("ab") as file:
            yield file

    def finish(self, reply: Reply) -> None:
        """All has arrived: the file appears under its name."""
        reply.body.close()
        self._part.replace(self._target)
        self._about.unlink(missing_ok=True)
        self.is_done = True

    def restart(self) -> None:
        """Forget what has arrived."""
        self._part.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def _etag(self) -> str | None:
        try:
            etag = json.loads(self._about.read_text(encoding="utf-8"))["etag"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return etag if isinstance(etag, str) else None
