"""Whether the heads that a run calls are needed: which they are, and their measure at a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.interventions.head_sets import SETS, NoHeads, heads_of_set, parse_heads
from analysis.interventions.needed import CONTROLS, effect_of, fair_controls, match_of
from analysis.models.graph import Graph, Head, short_head_name
from analysis.prompts.pairs import Pairs
from analysis.records.needed import Effect, Needed
from analysis.tracking import distributed

if TYPE_CHECKING:
    from torch import nn

    from analysis.trajectories.trajectory import Point

CALLED = "called_emergent"
GIVEN = "given"


@dataclass(frozen=True)
class Question:
    """Which heads of a step are taken out, and what they are compared with.

    plan: what is known before anything is measured.  heads: those that are taken out, the most
    important first.  random: sets that match them.  metric: of the run.
    """

    plan: Needed
    heads: list[Head]
    random: list[list[Head]]


def question(
    base: Point,
    point: Point,
    heads: str = CALLED,
    most: int | None = None,
    controls: int = CONTROLS,
    seed: int = 0,
) -> Question:
    """What is to be measured at a point of a run, whose first point is the base.

    heads: a SET of analysis/interventions/head_sets.py at the point, or heads as that reads them.
    most: only so many, the most important. controls: random sets. seed: of their draws.

    Raises:
        ValueError: there are no such heads in the model.
    """
    record = point.record
    of = heads if heads in SETS else GIVEN
    try:
        found = (
            parse_heads(heads, record.graph)
            if of == GIVEN
            else heads_of_set(heads, point.change, base.record, record)
        )
    except NoHeads:
        found = []
    plan = Needed(
        step=record.step,
        pairs_hash=record.pairs_hash,
        metric=str(record.settings["metric"]),
        of=of,
        called=len(found),
        heads=[],
    )
    if not found:
        return Question(replace(plan, note=f"no head is {of.replace('_', ' ')}"), [], [])
    some, sets = fair_controls(found[:most], record.graph, controls, seed)
    note = _note(record.graph, found[:most], some, sets, controls)
    match = match_of(some, sets) if sets else None
    names = [short_head_name(record.graph.head_names[record.graph.head_index[h]]) for h in some]
    return Question(replace(plan, heads=names, match=match, note=note), some, sets)


def _note(
    graph: Graph,
    wanted: Sequence[Head],
    some: Sequence[Head],
    sets: Sequence[Sequence[Head]],
    controls: int,
) -> str:
    """What is to be said of the random sets, if anything."""
    if not controls:
        return "no random sets were asked for"
    if not sets:
        return f"no fair control: the other heads of {graph} give no random sets that match"
    said = []
    if len(some) < len(wanted):
        said.append(
            f"the {len(some)} most important of {len(wanted)}: more leave too few other heads for "
            "a fair control"
        )
    if len(sets) < controls:
        least = 1 / (1 + len(sets))
        said.append(f"only {len(sets)} different random sets match, so p is {least:.2g} or more")
    return "; ".join(said)


def measure(
    asked: Question,
    pairs: Pairs,
    model: nn.Module,
    batch_size: int = 8,
    resamples: int = 1000,
    seed: int = 0,
) -> Needed:
    """What taking the heads out does in the model; the plan, where there are none.

    To be called by all ranks, with the same weights; the model is left as it was.

    Raises:
        ValueError: as `effect_of`.
    """
    if not asked.heads:
        return asked.plan
    now = _effect(asked, model, pairs, batch_size, resamples, seed)
    return replace(asked.plan, pairs_hash=pairs.hash, now=now)


def in_base(
    found: Needed,
    asked: Question,
    pairs: Pairs,
    load: Callable[[], nn.Module],
    batch_size: int = 8,
    resamples: int = 1000,
    seed: int = 0,
) -> Needed:
    """What was found, with what taking the same heads out of the base does; `load` gives the base.

    To be called by all ranks. It raises on all of them, or on none.

    Raises:
        ValueError: as `effect_of`, or `load`.
    """
    base = distributed.together(load)
    return replace(found, base=_effect(asked, base, pairs, batch_size, resamples, seed))


def noted(found: Needed, more: str) -> Needed:
    """With one note more."""
    return replace(found, note="; ".join(part for part in (found.note, more) if part))


def _effect(
    asked: Question, model: nn.Module, pairs: Pairs, batch_size: int, resamples: int, seed: int
) -> Effect:
    return effect_of(
        model,
        pairs,
        asked.heads,
        asked.random,
        asked.plan.metric,
        batch_size,
        resamples,
        seed,
    )
