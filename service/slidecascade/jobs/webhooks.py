"""Notifications over HTTP by Standard Webhooks 1.0.0 (https://www.standardwebhooks.com).

Targets are named by the operator in a YAML file; a request chooses one by its name and gives no address::

    public_url: https://slidecascade.hospital.org      # optional: links become absolute
    targets:
      lis:
        url: https://lis.hospital.org/hooks/slidecascade
        secrets: [whsec_...]                            # the new one first while a secret is replaced

A notification holds ids and links only. It is sent until the target answers with 2xx, with a growing wait between
attempts; after the last attempt, or when the target answers 410, it is dead and stays listed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import httpx
import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, ValidationError, field_validator
from standardwebhooks.webhooks import Webhook

from slidecascade import __version__
from slidecascade.errors import SettingsError
from slidecascade.jobs.outbox import Notification, Outbox

LOG = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 6 * 3600.0
"""Longest wait between two attempts."""

_GROWTH: Final = 4.0
_THREADS: Final = 2
_POLL_S: Final = 0.5
_MARGIN_S: Final = 5.0
"""How much longer than its timeout an attempt belongs to one process."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(_Config):
    """Where notifications are sent, and how patiently.

    `timeout_s` bounds an attempt as a whole. `first_retry_s` is the wait after the first failed attempt; each
    further wait is four times as long, up to `LONGEST_WAIT_S`. With the defaults the last attempt is made 33 hours
    after the first.
    """

    url: HttpUrl
    secrets: Annotated[tuple[SecretStr, ...], Field(min_length=1, max_length=5)]
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    first_retry_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    attempts: Annotated[int, Field(ge=1, le=100)] = 12

    @field_validator("secrets")
    @classmethod
    def _can_sign(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            try:
                key = base64.b64decode(secret.get_secret_value().removeprefix("whsec_") + "==")
            except ValueError:
                raise ValueError("a secret is not `whsec_` and base64") from None
            if not 24 <= len(key) <= 64:
                raise ValueError("a secret must have 24 to 64 bytes")
        return secrets


class Webhooks(_Config):
    """The operator's file."""

    public_url: HttpUrl | None = None
    targets: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Target]


NONE: Final = Webhooks(targets={})


def read_webhooks(path: Path | None) -> Webhooks:
    """The targets in the YAML file at `path`; without a file there are none.

    Raises:
        SettingsError: the file cannot be read or is wrong; the message quotes no secret.
    """
    if path is None:
        return NONE
    try:
        return Webhooks.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise SettingsError(f"SLIDECASCADE_WEBHOOKS_FILE cannot be read ({reason}): check the path.") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"SLIDECASCADE_WEBHOOKS_FILE is wrong at {place}: {first['msg']}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise SettingsError("SLIDECASCADE_WEBHOOKS_FILE is not YAML in UTF-8: check its form.") from None


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why an attempt failed; `is_final`: no further one would help."""

    reason: str
    is_final: bool = False


class Notifier:
    """Delivers what is in the outbox, in threads of its own, from `start` until `stop`."""

    def __init__(self, outbox: Outbox, webhooks: Webhooks) -> None:
        self._outbox = outbox
        self._targets = webhooks.targets
        self._base = "" if webhooks.public_url is None else str(webhooks.public_url).rstrip("/")
        self._lease_s = max([0.0, *(target.timeout_s for target in self._targets.values())]) + _MARGIN_S
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"notifier-{index}", daemon=True) for index in range(_THREADS)
        ]

    def start(self) -> None:
        """Begin to deliver; without targets nothing is done."""
        for thread in self._threads if self._targets else ():
            thread.start()

    def stop(self) -> None:
        """Begin no more attempts; what is left is delivered by the next process."""
        self._stopping.set()

    def join(self, ends_at: float) -> None:
        """Wait for the attempts at hand, at most until `ends_at` on the monotonic clock."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, ends_at - time.monotonic()))

    def _run(self) -> None:
        # A loop of its own: in it an attempt as a whole has a deadline, and not each read of a socket alone.
        with asyncio.Runner() as loop:
            # Redirects are not followed: the operator configured this address and no other.
            http = httpx.AsyncClient(follow_redirects=False, timeout=None)  # noqa: S113  # see `_answer`
            try:
                self._deliver_until_stopped(loop, http)
            finally:
                loop.run(http.aclose())

    def _deliver_until_stopped(self, loop: asyncio.Runner, http: httpx.AsyncClient) -> None:
        while not self._stopping.is_set():
            notification = self._outbox.claim(lease_s=self._lease_s)
            if notification is None:
                self._stopping.wait(_POLL_S)
                continue
            try:
                self._deliver(loop, http, notification)
            except Exception:  # the worker boundary: the lease ends, and it is tried again
                LOG.exception("notification not recorded", extra={"fields": {"job": notification.job}})

    def _deliver(self, loop: asyncio.Runner, http: httpx.AsyncClient, notification: Notification) -> None:
        target = self._targets.get(notification.target)
        fields = {"job": notification.job, "event": notification.event}
        if target is None:
            failed: _Failed | None = _Failed("the target is not configured any more", is_final=True)
        else:
            failed = loop.run(self._attempt(http, target, notification))
        if failed is None:
            self._outbox.delivered(notification)
            LOG.info("notification delivered", extra={"fields": fields})
            return
        made = notification.attempts + 1
        wait_s = None
        if target is not None and not failed.is_final and made < target.attempts:
            wait_s = min(target.first_retry_s * _GROWTH ** (made - 1), LONGEST_WAIT_S)
            wait_s *= random.uniform(0.8, 1.2)  # noqa: S311  # targets that come back are not hit all at once
        self._outbox.failed(notification, failed.reason, again_in_s=wait_s)
        level = logging.ERROR if wait_s is None else logging.WARNING
        message = "notification dead" if wait_s is None else "notification failed"
        LOG.log(level, message, extra={"fields": fields | {"attempts": made, "reason": failed.reason}})

    async def _attempt(
        self, http: httpx.AsyncClient, target: Target, notification: Notification
    ) -> _Failed | None:
        """Send it once, in `timeout_s` of the target; None: the target has accepted it."""
        content = self.content(notification)
        headers = signed(content, notification.id, target.secrets)
        try:
            async with (
                asyncio.timeout(target.timeout_s),
                http.stream("POST", str(target.url), content=content, headers=headers) as answer,
            ):
                status = answer.status_code  # the body is not read: it may be of any size
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return _Failed(type(error).__name__)  # not its message, which may hold the address
        if httpx.codes.is_success(status):
            return None
        return _Failed(f"status {status}", is_final=status == httpx.codes.GONE)

    def content(self, notification: Notification) -> str:
        """The JSON body, the same at every attempt."""
        path = f"{self._base}/v1/jobs/{notification.job}"
        links = {"self": path}
        if notification.event == "job.succeeded":
            links |= {"result": f"{path}/result", "files": f"{path}/files"}
        at = datetime.fromtimestamp(notification.created_at, UTC).isoformat().replace("+00:00", "Z")
        status = notification.event.removeprefix("job.")
        data = {"id": notification.job, "status": status, "links": links}
        return orjson.dumps({"type": notification.event, "timestamp": at, "data": data}).decode()


def signed(content: str, notification: str, secrets: tuple[SecretStr, ...]) -> dict[str, str]:
    """The headers of an attempt that is made now, with a signature by each secret."""
    now = datetime.now(UTC)
    signatures = [Webhook(secret.get_secret_value()).sign(notification, now, content) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": f"slidecascade/{__version__}",
        "webhook-id": notification,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
