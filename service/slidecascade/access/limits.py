"""Limits of each caller, counted in this process: requests a minute and regions in flight."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from slidecascade.access.caller import Caller
from slidecascade.errors import LimitExceededError

_MINUTE_S: Final = 60.0
_MOST_CALLERS: Final = 10_000
"""Callers that are remembered; the one that was idle longest is forgotten, and may start again."""


@dataclass(slots=True)
class _Use:
    requests: float
    """Requests left of a bucket that fills up within a minute."""

    at: float
    regions: int = 0


class Usage:
    """Counts what callers use. Used from the event loop only."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    def request(self, caller: Caller) -> None:
        """Count a request. Raises LimitExceededError when the caller has none left."""
        limit = caller.limits.requests_per_minute
        if limit is None:
            return
        now = self._clock()
        use = self._use(caller, limit, now)
        use.requests = min(float(limit), use.requests + (now - use.at) * limit / _MINUTE_S)
        use.at = now
        if use.requests < 1:
            wait_s = (1 - use.requests) * _MINUTE_S / limit
            raise exceeded("requests_per_minute", limit, retry_after_s=int(wait_s) + 1)
        use.requests -= 1

    @contextmanager
    def region(self, caller: Caller, *, retry_after_s: int) -> Iterator[None]:
        """Count a region while the block runs. Raises LimitExceededError when the caller has as many as it may."""
        limit = caller.limits.regions_in_flight
        if limit is None:
            yield
            return
        use = self._use(caller, caller.limits.requests_per_minute or 0, self._clock())
        if use.regions >= limit:
            raise exceeded("regions_in_flight", limit, retry_after_s=retry_after_s)
        use.regions += 1
        try:
            yield
        finally:
            use.regions -= 1

    def _use(self, caller: Caller, requests: int, now: float) -> _Use:
        name = caller.name or ""
        use = self._uses.get(name)
        if use is None:
            use = self._uses[name] = _Use(float(requests), now)
            if len(self._uses) > _MOST_CALLERS:
                idle = next((key for key, other in self._uses.items() if other.regions == 0), None)
                if idle is not None:
                    del self._uses[idle]
        self._uses.move_to_end(name)
        return use


def exceeded(name: str, limit: int, *, retry_after_s: int) -> LimitExceededError:
    """The error of a caller that has used `limit`."""
    return LimitExceededError(
        f"The limit {name} of this key is {limit}, and it is used up: try again later, or ask the operator for "
        "a higher one.",
        retry_after_s=retry_after_s,
    )
