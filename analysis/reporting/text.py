"""Numbers as text: one form for a count, an estimate and a score, each with its interval."""

from __future__ import annotations

from typing import Any

from analysis.intervals import Estimate
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Point

WIDTH = 80


def with_inclusion(run: Run, state: str) -> str:
    """Heads in a raw state at the last record, with inclusion at base and then.

    `L3H2* (0.02 → 0.97)`; the star marks a head that is called.
    """
    change, mask = run.points[-1].change, run.points[-1].masks[state]
    called = change.called[state][mask].tolist()
    shares = (change.inclusion_before[mask].tolist(), change.inclusion_after[mask].tolist())
    found = zip(run.final_heads(state), called, *shares, strict=True)
    cells = [f"{name}{'*' * star} ({base:.2f} → {now:.2f})" for name, star, base, now in found]
    return ", ".join(cells) or "none"


def format_interval(estimate: Estimate) -> str:
    """`12-16`."""
    return f"{estimate.low:.0f}-{estimate.high:.0f}"


def format_estimate(estimate: Estimate) -> str:
    """`14 [12-16]`."""
    return f"{estimate.value:.0f} [{format_interval(estimate)}]"


def format_score(evaluation: dict[str, Any]) -> str:
    """pass@1 in per cent with its interval: `41.2 [38-45]`."""
    value, low, high = (100 * evaluation[key] for key in ("pass_at_1", "low", "high"))
    return f"{value:.1f} [{low:.0f}-{high:.0f}]"


def format_called(point: Point) -> str:
    """Called emergent and pruned heads: `+9 -4`."""
    return " ".join(
        f"{sign}{int(point.change.called[name].sum())}"
        for sign, name in (("+", "emergent"), ("-", "pruned"))
    )
