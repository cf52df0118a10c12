"""The one table of what each address needs. An address that is not in it needs `admin`, so that a new route is
closed until it has a line here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slidecascade.access.caller import ADMIN, Scope

READ: Final = frozenset({"GET", "HEAD"})
WRITE: Final = frozenset({"POST", "DELETE"})

OPEN: Final = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Health: needs nothing."""

PAGES: Final = re.compile(r"/docs(/.*)?|/viewer(/.*)?")
"""Pages for people, for which a browser asks for the key."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The addresses whose whole path matches `path` need `scope` for `methods`."""

    methods: frozenset[str]
    path: re.Pattern[str]
    scope: Scope


def _rule(methods: frozenset[str], path: str, scope: Scope) -> Rule:
    return Rule(methods, re.compile(path, re.DOTALL), scope)


RULES: Final[Sequence[Rule]] = (
    _rule(WRITE, r"/v1/regions|/analyze_region", "regions:write"),
    _rule(READ, r"/v1/jobs(/.*)?", "jobs:read"),
    _rule(WRITE, r"/show_job|/job_result", "jobs:read"),
    _rule(WRITE, r"/v1/jobs(/.*|:batch)?|/submit_job|/cancel_job", "jobs:write"),
    _rule(READ, r"/v1/slides(/.*)?|/viewer(/.*)?", "slides:read"),
    _rule(WRITE, r"/v2/models/[^/]+(/versions/[^/]+)?/infer", "infer"),
    _rule(WRITE, r"/v1/translate", "infer"),
    _rule(READ, r"/v2(/models/.*)?|/v1/(pipelines|models)(/.*)?", "models:read"),
    _rule(READ, r"/docs(/.*)?|/openapi\.json|/docs\.json|/schema\.json", "models:read"),
    _rule(READ, r"/metrics", "metrics:read"),
    _rule(READ, r"/v1/notifications", ADMIN),
    _rule(WRITE, r"/v1/notifications/[^/]+/resend", ADMIN),
)


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None: none."""
    if path in OPEN:
        return None
    return next((rule.scope for rule in RULES if method in rule.methods and rule.path.fullmatch(path)), ADMIN)


def is_listed(method: str, path: str) -> bool:
    """Whether an address has a line in the table."""
    return path in OPEN or any(method in rule.methods and rule.path.fullmatch(path) for rule in RULES)
