"""Why sums of edge scores are left out (analysis/attribution/adding_up.py), in a line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.attribution.adding_up import MOST

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
    method, steps = (worst.settings.get(name) for name in ("method", "ig_steps"))
    mend = f"track again with more points than tracking.ig_steps={steps}"
    if steps == "auto":
        mend = "track again with a smaller tracking.gap"
    if method != "EAP-IG-inputs":
        mend = f"scores of {method} need not add up, those of tracking.method=EAP-IG-inputs do"
    if math.isinf(_gap(worst)):
        return f"{SUMS}: {where} the metric does not change between the prompts of the pairs."
    return (
        f"{SUMS}: {where} the scores miss {worst.completeness_gap:.0%} of the metric's change "
        f"(completeness gap; at most {MOST:.0%}); {mend}."
    )


def _gap(record: Record) -> float:
    """The completeness gap; infinite where the metric does not change or is no number."""
    return math.inf if math.isnan(record.completeness_gap) else record.completeness_gap
