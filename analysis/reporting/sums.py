"""Why sums of edge scores are left out (analysis/attribution/adding_up.py), in a line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.attribution.adding_up import MOST
from analysis.attribution.refinement import MOST as MOST_POINTS

if TYPE_CHECKING:
    from analysis.records.record import Record

SUMS = "Importance, effect and weighted overlap are sums of edge scores, and are left out"


def sums_note(records: Iterable[Record]) -> str:
    """Why sums are left out of what is shown of some records, and how to mend it; "" if none is."""
    broken = [record for record in records if not record.adds_up]
    if not broken:
        return ""
    worst = max(broken, key=_gap)
    where = f"at step{'s' * (len(broken) > 1)} {', '.join(str(r.step) for r in broken[:5])}"
    where += f" and {len(broken) - 5} more" * (len(broken) > 5)
    if math.isinf(_gap(worst)):
        return f"{SUMS}: {where} the metric does not change between the prompts of the pairs."
    return (
        f"{SUMS}: {where} the scores miss {worst.completeness_gap:.0%} of the metric's change "
        f"(completeness gap; at most {MOST:.0%}); {_mend(worst)}."
    )


def _mend(record: Record) -> str:
    """What makes the scores of a record add up."""
    method, steps = (record.settings.get(name) for name in ("method", "ig_steps"))
    if method not in ("EAP-IG-inputs", "CEAP"):
        return f"scores of {method} need not add up, those of tracking.method=EAP-IG-inputs do"
    if record.experts is not None and record.settings.get("routing", "free") == "free":
        return "what jumps where other experts are chosen is in no score; see tracking.routing"
    if steps != "auto":
        return f"track again with more points than tracking.ig_steps={steps}"
    if record.points is not None and record.points > MOST_POINTS / 2:
        return (
            f"pairs took {record.points:.0f} points of the path, and auto takes at most "
            f"{MOST_POINTS}; track again with a number, such as tracking.ig_steps=200"
        )
    return "track again with a smaller tracking.gap"


def _gap(record: Record) -> float:
    """The completeness gap; infinite where the metric does not change or is no number."""
    return math.inf if math.isnan(record.completeness_gap) else record.completeness_gap
