"""Which steps are tracked: every save, every N steps, ever rarer ones, or a list.

Step 0 and the last step of a run are always tracked, so that a trajectory has its two ends.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

log = logging.getLogger(__name__)

FORMS = "saves, every:N, exponential, exponential:FACTOR, or a list such as [1,10,100]"


@dataclass(frozen=True)
class Schedule:
    """kind: `saves`, `every`, `exponential` or `list`; number: the N or the FACTOR."""

    kind: str
    number: float = 0.0
    steps: tuple[int, ...] = ()

    @classmethod
    def parse(cls, value: object) -> Schedule:
        """The schedule that `tracking.schedule` describes.

        Raises:
            ValueError: it describes none.

        >>> Schedule.parse("every:10")
        Schedule(kind='every', number=10, steps=())
        >>> Schedule.parse([100, 1]).steps
        (1, 100)
        """
        wrong = ValueError(f"tracking.schedule is {value!r}; choose {FORMS}")
        if isinstance(value, list):
            if not value or not all(type(step) is int and step >= 0 for step in value):
                raise wrong
            return cls("list", steps=tuple(sorted(set(value))))
        kind, _, number = str(value).partition(":")
        if kind == "saves" and not number:
            return cls(kind)
        try:
            if kind == "every" and int(number) >= 1:
                return cls(kind, int(number))
            if kind == "exponential" and 1 < float(number or 2) < math.inf:
                return cls(kind, float(number or 2))
        except ValueError:
            pass
        raise wrong

    def is_due(self, step: int) -> bool:
        """Whether a step is tracked though nothing else happens at it; never with `saves`.

        >>> exponential = Schedule.parse("exponential")
        >>> [step for step in range(20) if exponential.is_due(step)]
        [1, 2, 4, 8, 16]
        """
        if self.kind == "every":
            return step % int(self.number) == 0
        if self.kind == "exponential":
            value = 1.0
            while round(value) < step:
                value = max(value * self.number, round(value) + 1)
            return step > 0 and round(value) == step
        return step in self.steps

    def includes(self, step: int, last: int) -> bool:
        """Whether a checkpoint of this step is tracked, in a run whose last step is `last`.

        >>> [step for step in (0, 5, 10, 12) if Schedule.parse("every:10").includes(step, 12)]
        [0, 10, 12]
        """
        return self.kind == "saves" or step in (0, last) or self.is_due(step)


class Budget:
    """Keeps tracking below a share of the wall-clock time since it was made; None: no limit."""

    def __init__(self, share: float | None) -> None:
        self.share = share
        self.spent = self.last = 0.0
        self.started = time.monotonic()

    def add(self, seconds: float) -> None:
        """Count what an observation took."""
        self.spent += seconds
        self.last = seconds

    def allows(self, step: int) -> bool:
        """Whether there is time for one more, as long as the last; it is said if not."""
        if self.share is None:
            return True
        elapsed = time.monotonic() - self.started
        would_be = (self.spent + self.last) / max(elapsed + self.last, 1e-9)
        if would_be > self.share:
            log.warning(
                "step %d is not tracked: tracking would take %.1f %% of the time, and "
                "tracking.budget allows %.1f %%",
                step,
                100 * would_be,
                100 * self.share,
            )
        return would_be <= self.share
