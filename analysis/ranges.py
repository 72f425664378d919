"""The numbers that a key takes, declared beside the key: `key("pairs in one pass", 8, COUNT)`.

Every number is finite, whatever its range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; None: no bound on that side.

    ends: as intervals are written, whether the bounds belong to it. also: further numbers that mean
    something of their own, such as -1 for "all".
    """

    low: float | None = None
    high: float | None = None
    ends: str = "[]"
    also: tuple[float, ...] = ()

    def holds(self, value: float) -> bool:
        """Whether a finite number is one of these.

        >>> [Range(0, 1, "(]").holds(value) for value in (0, 0.5, 1)]
        [False, True, True]
        """
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if (value == low and self.ends[0] == "(") or (value == high and self.ends[1] == ")"):
            return False
        return low <= value <= high or value in self.also

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            text = f"lie in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
        elif self.low is not None:
            text = f"be {'above' if self.ends[0] == '(' else 'at least'} {self.low}"
        elif self.high is not None:
            text = f"be {'below' if self.ends[1] == ')' else 'at most'} {self.high}"
        else:
            text = "be a number"
        return " or ".join([text, *map(str, self.also)])


COUNT = Range(1)  # of things of which there is one at least
NATURAL = Range(0)
POSITIVE = Range(0, ends="(]")
SHARE = Range(0, 1, "()")
PART = Range(0, 1, "(]")  # of a whole, which may be all of it
SEED = Range(0, 2**32 - 1)  # what numpy takes
PORT = Range(1, 2**16 - 1)


def check_number(key: str, value: object, allowed: Range | None = None) -> None:
    """Raise ValueError, naming the key, for a number outside a range, and for NaN and infinities.

    Lists and mappings are looked through; what is no number passes.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            check_number(f"{key}.{name}", inner, allowed)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_number(f"{key}[{place}]", inner, allowed)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be a finite number")
        if allowed is not None and not allowed.holds(value):
            raise ValueError(f"{key} must {allowed}, not {value}")


def declared(schema: type, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every field of a dataclass and of those inside it, by its dotted name."""
    for entry in fields(schema):
        factory = entry.default_factory
        if factory is not MISSING and is_dataclass(factory):
            yield from declared(factory, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry


def check_values(schema: type, values: dict[str, Any], prefix: str = "") -> None:
    """`check_number` for all values of a dataclass, given as nested mappings.

    Raises:
        ValueError: naming the key.
    """
    for name, entry in declared(schema):
        value: Any = values
        for part in name.split("."):
            value = (value or {}).get(part)
        check_number(prefix + name, value, entry.metadata.get("range"))
