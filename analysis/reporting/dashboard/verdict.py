"""What became of a run's heads, in one sentence: findings first."""

from __future__ import annotations

import math

from analysis.heads.changes import CHANGES
from analysis.trajectories.run import Run


def verdict(run: Run) -> str:
    """What emerged and was pruned by the last checkpoint, and whether beyond chance."""
    points = run.points
    if not points:
        return "No head was tracked yet."
    last = points[-1]
    if last.record.lacks_behaviour:
        return (
            f"At step {last.step} the model does not show the behaviour on these pairs, so it has "
            "no circuit."
        )
    if len(points) < 2:
        inside = int(last.masks["in_circuit"].sum())
        return f"The base has {_heads(inside)} in its circuit; no later checkpoint was tracked yet."
    raw, called = (
        [int(masks[name].sum()) for name in CHANGES] for masks in (last.masks, last.change.called)
    )
    chance = [last.change.null[name][0] for name in CHANGES]
    began = f"By step {last.step}, {_changed(raw)}"
    if any(math.isnan(mean) for mean in chance):
        return f"{began}; the pairs are too few to tell this from chance."
    by_chance = f"{chance[0]:.1f} and {chance[1]:.1f} by chance"
    if not any(raw):
        return f"{began}."
    if not any(called):
        return f"{began}, none of them beyond the noise of the pairs ({by_chance})."
    said = " and ".join(f"{n} {name}" for n, name in zip(called, CHANGES, strict=True) if n)
    return f"{began} ({by_chance}); {said} beyond the noise of the pairs."


def _heads(count: int) -> str:
    return f"{count} head{'s' * (count != 1)}"


def _changed(raw: list[int]) -> str:
    """`14 heads have emerged and 2 were pruned`."""
    emerged, pruned = raw
    if not emerged and not pruned:
        return "no head has emerged and none was pruned"
    has, was = ("has" if emerged == 1 else "have"), ("was" if pruned == 1 else "were")
    first = f"{_heads(emerged)} {has} emerged" if emerged else "no head has emerged"
    return f"{first} and {f'{pruned} {was} pruned' if pruned else 'none was pruned'}"
