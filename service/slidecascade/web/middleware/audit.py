"""A line of the audit log for each request."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

from slidecascade.access.audit import AuditLog, Event
from slidecascade.access.caller import Caller
from slidecascade.settings import Settings
from slidecascade.web.entry import ALWAYS_OPEN
from slidecascade.web.middleware.exchange import Exchange

_OBJECTS: Final = ("job_id", "slide_id", "notification_id", "name")
"""Parameters in paths that name what a request is about, the first that there is."""

_ERROR: Final = 400


class Audit:
    """Writes the log that the settings name from `start` until `stop`; without one it does nothing."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.audit_dir
        self._retry_after_s = settings.retry_after_s
        self._log: AuditLog | None = None

    def start(self) -> None:
        """Open the log.

        Raises:
            SettingsError: another process writes it, or its end was changed.
            UnwritableOutputError: its folder cannot be written.
        """
        if self._folder is not None:
            self._log = AuditLog(self._folder)

    def stop(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def require(self, scope: Scope) -> None:
        """Raise NotReadyError while the log cannot be written; health is answered."""
        if self._log is not None and scope["path"] not in ALWAYS_OPEN:
            self._log.require_writable(self._retry_after_s)

    def note(self, exchange: Exchange, scope: Scope, route: str, status: int) -> None:
        """Record a request that was answered; those of health and metrics only when they were rejected."""
        if self._log is None or (scope["path"] in ALWAYS_OPEN and status < _ERROR):
            return
        caller = scope["state"].get("caller")
        known = caller if isinstance(caller, Caller) else None
        parameters = scope.get("path_params", {})
        name = exchange.object or next((str(parameters[key]) for key in _OBJECTS if key in parameters), None)
        self._log.write(
            Event(
                who=(known.name or "anonymous") if known else "unknown",
                by=known.by if known else "none",
                action=f"{scope['method']} {route}",
                object=None if name is None else self._log.identify(name),
                outcome=status,
                request_id=exchange.request_id,
            )
        )
