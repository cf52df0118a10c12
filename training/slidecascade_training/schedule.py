"""Learning rates by step, as Keras schedules, which are part of the compiled step on every backend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

WARM_UP = 0.03  # part of the run
_FLOOR = 0.01  # of the highest rate


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePlan:
    """Rates over `steps` steps, at most `highest`.

    ``constant``; ``cosine``: warm-up, then down along half a cosine (Loshchilov and Hutter 2017); ``cyclical``:
    up and down in a straight line between a tenth of the highest and the highest, `cycles` times (Smith 2017);
    ``range-test``: growing exponentially from a millionth of the highest.
    """

    kind: Literal["constant", "cosine", "cyclical", "range-test"]
    highest: float
    steps: int
    cycles: int = 4

    def rate_at(self, step: float) -> float:
        """The rate of a step, counted from 0."""
        part = min(step / max(1, self.steps), 1.0)
        if self.kind == "constant":
            return self.highest
        if self.kind == "range-test":
            return self.highest * math.pow(10.0, 6.0 * (part - 1.0))
        if self.kind == "cyclical":
            phase = (part * self.cycles) % 1.0
            return self.highest * (0.1 + 0.9 * (1.0 - abs(2.0 * phase - 1.0)))
        rising = min(1.0, (part + 1e-3) / WARM_UP)
        falling = _FLOOR + (1 - _FLOOR) * 0.5 * (1.0 + math.cos(math.pi * part))
        return self.highest * rising * falling

    def as_keras(self) -> Any:
        """The plan as a ``keras.optimizers.schedules.LearningRateSchedule``."""
        import keras
        from keras import ops

        plan = self

        class Planned(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # keras is untyped
            """`rate_at` in operations of the backend."""

            def __call__(self, step: Any) -> Any:
                part = ops.minimum(ops.cast(step, "float32") / max(1, plan.steps), 1.0)
                if plan.kind == "constant":
                    return part * 0.0 + plan.highest
                if plan.kind == "range-test":
                    return plan.highest * ops.exp(math.log(10.0) * 6.0 * (part - 1.0))
                if plan.kind == "cyclical":
                    phase = (part * plan.cycles) % 1.0
                    return plan.highest * (0.1 + 0.9 * (1.0 - ops.absolute(2.0 * phase - 1.0)))
                rising = ops.minimum(1.0, (part + 1e-3) / WARM_UP)
                falling = _FLOOR + (1 - _FLOOR) * 0.5 * (1.0 + ops.cos(math.pi * part))
                return plan.highest * rising * falling

            def get_config(self) -> dict[str, Any]:
                return {}

        return Planned()
