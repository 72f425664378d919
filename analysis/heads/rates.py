"""How often the calls of a run are right, over many worlds whose truth is known.

    any false       share of runs with at least one false call: of a head, at a checkpoint, whose
                    true state is that of the base. Where nothing changes it is the rate that is
                    promised for a run
    false discovery mean over runs of the share of false ones among the calls of the whole run
    power           share of the true changes that are called, over all runs
    coverage        share of runs whose 95 % interval, at the last checkpoint, holds the true number

Each is a mean over worlds with its Monte-Carlo standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from analysis.heads.calls import level_of
from analysis.heads.changes import COUNTS, FDR, Change, Heads, compare, effect, jaccard, sets
from analysis.heads.worlds import World


@dataclass(frozen=True)
class Rate:
    """A mean over worlds, with its Monte-Carlo standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Rate:
        found = torch.tensor(list(values), dtype=torch.float64)
        found = found[~found.isnan()]
        if len(found) < 2:
            return cls(float(found.mean()), math.nan)
        return cls(float(found.mean()), float(found.std()) / math.sqrt(len(found)))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.error:.3f})"


@dataclass(frozen=True)
class Rates:
    """See the top.

    calls: mean number of heads called in a run.  raw: share of runs with a raw difference that is
    not a true one.  coverage: of the counts by COUNTS and of jaccard.  effect: share of the
    intervals of E that hold the true E, of heads in both true circuits.
    """

    any_false: Rate
    false_discovery: Rate
    power: Rate
    calls: Rate
    raw: Rate
    coverage: dict[str, Rate]
    effect: Rate


@dataclass(frozen=True)
class _Seen:
    """What one world gives; power is NaN where nothing changed."""

    false: int
    calls: int
    found: int
    changed: int
    raw_false: bool
    coverage: dict[str, bool]
    effect: float


def measure_rates(
    make: Callable[[int], World],
    word: str,
    n_pairs: int,
    worlds: int,
    q: float = FDR,
    resamples: int = 300,
    times: int = 1,
) -> Rates:
    """The rates of runs, one in each world.

    make: the world of a seed.  word: the run's checkpoints, such as bmmm, the base first (see
    analysis/heads/worlds.py).  times: as many pairs for the base (tracking.base_pairs).
    """
    seen = [_see(make(seed), word, n_pairs, q, resamples, times) for seed in range(worlds)]
    changed = sum(world.changed for world in seen)
    power = Rate.of(world.found / world.changed for world in seen if world.changed)
    return Rates(
        any_false=Rate.of(float(world.false > 0) for world in seen),
        false_discovery=Rate.of(world.false / max(1, world.calls) for world in seen),
        power=Rate(sum(w.found for w in seen) / changed if changed else math.nan, power.error),
        calls=Rate.of(world.calls for world in seen),
        raw=Rate.of(float(world.raw_false) for world in seen),
        coverage={
            name: Rate.of(float(world.coverage[name]) for world in seen)
            for name in (*COUNTS, "jaccard")
        },
        effect=Rate.of(world.effect for world in seen),
    )


def _see(world: World, word: str, n_pairs: int, q: float, resamples: int, times: int) -> _Seen:
    true = world.truth()
    moved = true[0].inside[0] != true[1].inside[0]
    of_base, *of_others = world.run(n_pairs, word)
    base = world.base(of_base, times, resamples)
    others = [world.heads(scores, resamples) for scores in of_others]
    changes = [compare(base, heads, q) for heads in others]
    level = level_of([change.evidence for change in changes], q)
    really = [moved if letter == "m" else torch.zeros_like(moved) for letter in word[1:]]
    called = [change.at(level).found for change in changes]
    raw = [change.masks["emergent"] | change.masks["pruned"] for change in changes]
    last = changes[-1].at(level)
    covered, held = _covered(last, [true[0], true[1 if word[-1] == "m" else 0]])
    return _Seen(
        false=_total(c & ~r for c, r in zip(called, really, strict=True)),
        calls=_total(called),
        found=_total(c & r for c, r in zip(called, really, strict=True)),
        changed=_total(really),
        raw_false=_total(c & ~r for c, r in zip(raw, really, strict=True)) > 0,
        coverage=covered,
        effect=held,
    )


def _total(masks: Iterable[torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _covered(change: Change, true: Sequence[Heads]) -> tuple[dict[str, bool], float]:
    """Whether the intervals hold the true numbers; the share of those of E that do."""
    before, after = (heads.inside[0] for heads in true)
    values = {name: float(mask.sum()) for name, mask in sets(before, after).items()}
    values["jaccard"] = float(jaccard(before, after))
    intervals = {**change.counts, "jaccard": change.jaccard}
    found = {
        name: intervals[name].low - 1e-9 <= value <= intervals[name].high + 1e-9
        for name, value in values.items()
    }
    wanted = effect(true[0].importance[0], true[1].importance[0])
    held = (change.effect_low <= wanted) & (wanted <= change.effect_high)
    return found, float(held[before & after].double().mean())
