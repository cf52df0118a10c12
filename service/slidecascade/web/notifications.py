"""The routes of notifications: which were delivered, which wait, which are dead, and sending one again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query

from slidecascade import errors, wire
from slidecascade.jobs.desk import Desk
from slidecascade.jobs.outbox import Notification
from slidecascade.web.pool import Pool
from slidecascade.web.statuses import problems

MAX_LISTED: Final = 500


def add_notifications(router: APIRouter, desk: Desk, lookups: Pool) -> None:
    """Add the routes to `router`."""

    @router.get("/notifications", summary="List the notifications of ended jobs, the newest first")
    async def list_notifications(
        state: wire.NotificationState | None = None, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED
    ) -> wire.NotificationList:
        found = await lookups.run(desk.notifications, state=state, limit=limit)
        return wire.NotificationList(notifications=tuple(map(_info, found)))

    @router.post(
        "/notifications/{notification_id}/resend",
        summary="Send a notification again",
        status_code=202,
        responses=problems(errors.UnknownNotificationError),
    )
    async def resend(notification_id: str) -> wire.NotificationInfo:
        return _info(await lookups.run(desk.resend, notification_id))


def _info(notification: Notification) -> wire.NotificationInfo:
    is_waiting = notification.state == "waiting"
    ended_at = notification.ended_at
    return wire.NotificationInfo(
        id=notification.id,
        job=notification.job,
        target=notification.target,
        event=notification.event,
        state=notification.state,
        attempts=notification.attempts,
        created_at=_utc(notification.created_at),
        next_at=_utc(notification.due_at) if is_waiting else None,
        ended_at=None if ended_at is None else _utc(ended_at),
        error=notification.error,
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
