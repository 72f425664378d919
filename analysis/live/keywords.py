"""What HeadTracking is told by name: the keys of `tracking`, as a configuration has them."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import fields
from typing import Any

import msgspec

from analysis.live.schedule import Schedule
from analysis.ranges import check_values
from analysis.tracking.settings import TrackingConfig

WHERE = ("inline", "checkpoint", "sidecar")
SIZES = ("top_n", "fraction", "faithful")


def check_tracking(tracking: TrackingConfig) -> None:
    """When and where a trainer tracks.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
    one_of("tracking.on_error", tracking.on_error, ("raise", "warn"))
    one_of("tracking.where", tracking.where, WHERE)
    Schedule.parse(tracking.schedule)
    if tracking.budget is not None and tracking.where == "sidecar":
        raise ValueError(
            "tracking.budget is for tracking in the trainer; a sidecar takes none of its time"
        )


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError, naming the key and the choices, unless the value is one of them."""
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; choose one of: {', '.join(allowed)}")


def tracking_of(values: dict[str, Any], others: Collection[str]) -> TrackingConfig:
    """The keys of `tracking` that keywords give; one size of the circuit takes fraction's place.

    others: the names of the keywords that are no such key, for who misspells one of them.

    Raises:
        TypeError: a name is unknown; the nearest right one is given.
        ValueError: a value is of another type, or out of range.
    """
    known = {entry.name for entry in fields(TrackingConfig)} - {"enabled"}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, sorted({*known, *others}), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"HeadTracking has no keyword {name!r}{hint}")
    given = [name for name in SIZES if values.get(name) is not None]
    if given and "fraction" not in values:
        values = {**values, "fraction": None}
    try:
        check_values(TrackingConfig, values, "tracking.")
        found = msgspec.convert(values, TrackingConfig)
        check_tracking(found)
        found.settings()
    except (ValueError, TypeError) as error:
        words = " ".join(str(error).split()).removeprefix("tracking: ").replace("tracking.", "")
        raise ValueError(f"HeadTracking: {words}") from error
    return found
