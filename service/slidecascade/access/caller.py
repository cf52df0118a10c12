"""A caller: the name that owns jobs, the scopes it has and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from slidecascade.slides.visible import ALL_SLIDES, Visible

Scope = Literal[
    "regions:write", "jobs:read", "jobs:write", "slides:read", "models:read", "infer", "metrics:read", "admin"
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

ADMIN: Final[Scope] = "admin"
"""Includes all other scopes, and shows the jobs of all owners."""


class Limits(BaseModel):
    """Limits of one caller; None: not limited beyond what all callers share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(default=None, ge=1)
    regions_in_flight: int | None = Field(default=None, ge=1)
    queued_jobs: int | None = Field(default=None, ge=1)
    """Jobs that are not done."""

    stored_bytes: int | None = Field(default=None, ge=1)
    """Bytes of uploads and results of all jobs that are kept, checked when a job is submitted."""


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    `name` owns what the caller submits; None: nobody, where authentication is off. `by` is how the caller was
    identified: ``key:<id>``, ``certificate:<id>``, ``oidc`` or ``none``. For the caller there are no slides but
    those that are `visible`.
    """

    name: str | None
    scopes: frozenset[str]
    by: str = "none"
    limits: Limits = UNLIMITED
    visible: Visible = ALL_SLIDES

    def may(self, scope: str) -> bool:
        """Whether the caller has `scope`."""
        return scope in self.scopes or ADMIN in self.scopes

    @property
    def sees_all(self) -> bool:
        """Whether the jobs of all owners are the caller's to see."""
        return ADMIN in self.scopes


ANYONE: Final = Caller(None, frozenset(SCOPES))
"""The caller of every request where authentication is off."""
