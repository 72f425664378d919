"""What two modes of thinking of one model share and what only one has: numbers and text.

Definitions: analysis/commands/think.py and, with on as `before` and off as `after`,
analysis/heads/changes.py.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from analysis.heads.sample import sample_note
from analysis.reporting.kinds import kinds_note
from analysis.reporting.sums import sums_note
from analysis.reporting.text import WIDTH, count, inclusion, number, text_table

if TYPE_CHECKING:
    import torch

    from analysis.heads.changes import Change
    from analysis.intervals import Estimate
from analysis.records.record import Record

MODES = ("on", "off")
SETS = {"think-on-only": "pruned", "think-off-only": "emergent", "both": "retained"}
EXCLUSIVE = ("think-on-only", "think-off-only")


@dataclass(frozen=True)
class Modes:
    """What the two modes share and what only one has.

    records: by mode.  change: on -> off.  in_circuit, chance: by mode, the number of heads of the
    circuit, and (mean, 97.5 % point) of those that a resample has and another one lacks.
    """

    records: dict[str, Record]
    change: Change
    in_circuit: dict[str, Estimate]
    chance: dict[str, tuple[float, float]]

    def ordered(self, name: str) -> list[int]:
        """The heads of one of SETS, the most important in their circuit first."""
        on, off = (self.records[mode].importance.double() for mode in MODES)
        weight = {"think-on-only": on, "think-off-only": off, "both": (on + off) / 2}[name]
        chosen = self.change.masks[SETS[name]].nonzero().flatten().tolist()
        return sorted(chosen, key=lambda head: -float(weight[head]))

    def called(self, name: str) -> torch.Tensor:
        """Which heads are called exclusive: bool [A], none for `both`."""
        masks, state = self.change.called, SETS[name]
        return masks[state] if state in masks else self.change.masks[state] & False

    def head_names(self) -> list[str]:
        """All heads, as L3H2."""
        from analysis.models.graph import short_head_name

        return [short_head_name(name) for name in self.records["on"].graph.head_names]


def compare_modes(on: Record, off: Record, q: float) -> Modes:
    """Compare the records of two modes, whose pairs are of the same problems in the same order.

    The resamples are paired if settings and number of pairs are equal
    (analysis/heads/resampling.py).

    Raises:
        ValueError: they are not, or the records are of different graphs.
    """
    from analysis.heads.changes import compare

    for what in ("settings", "graph", "n_pairs"):
        a, b = getattr(on, what), getattr(off, what)
        if a != b:
            raise ValueError(f"the modes differ in {what} ({a} and {b}); measure both again")
    change, back = compare(on.heads, off.heads, q), compare(off.heads, on.heads, q)
    return Modes(
        {"on": on, "off": off},
        change,
        {"on": back.counts["in_circuit"], "off": change.counts["in_circuit"]},
        {"on": change.null["emergent"], "off": back.null["emergent"]},
    )


def summary(modes: Modes) -> dict[str, Any]:
    """All numbers, for OUT/think.json."""
    c, names = modes.change, modes.head_names()
    on, off = (modes.records[mode] for mode in MODES)
    # a row for each head of the two circuits
    columns = {
        "p_value": c.p_value,
        "inclusion_on": c.inclusion_before,
        "inclusion_off": c.inclusion_after,
        "importance_on": on.shares,
        "importance_off": off.shares,
        "effect": c.effect,
        "effect_low": c.effect_low,
        "effect_high": c.effect_high,
    }
    rows = [
        {"head": names[head], "set": name, "called": bool(modes.called(name)[head])}
        | {column: float(values[head]) for column, values in columns.items()}
        for name in SETS
        for head in modes.ordered(name)
    ]
    # the modes, and what they share
    numbers = ("jaccard", "turnover", "excess_turnover", "overlap", "rank_correlation")
    return {
        "schema": 1,
        "n_pairs": on.n_pairs,
        "same_prompts": on.pairs_hash == off.pairs_hash,
        "modes": {
            mode: {
                "pairs_hash": record.pairs_hash,
                "edges": record.n_edges,
                "heads": asdict(modes.in_circuit[mode]),
                "faithfulness": asdict(record.faithfulness()),
                "by_chance": dict(zip(("mean", "high"), modes.chance[mode], strict=True)),
            }
            for mode, record in modes.records.items()
        },
        "counts": {name: asdict(c.counts[state]) for name, state in SETS.items()},
        "called": {name: int(modes.called(name).sum()) for name in EXCLUSIVE},
        **{name: asdict(getattr(c, name)) for name in numbers},
        "null_turnover": c.null_turnover,
        "heads": rows,
    }


def format_modes(modes: Modes, q: float) -> str:
    """The table of counts and the exclusive heads, in 80 columns."""
    c, on = modes.change, modes.records["on"]
    chance = [
        f"{mean:.1f} ({high:.0f})" if c.is_tested else "-" for mean, high in modes.chance.values()
    ]
    lines = [["", "heads", "by chance: on", "off", "called"]]
    for name, state in SETS.items():
        exclusive = (
            [*chance, str(int(modes.called(name).sum())) if c.is_tested else "-"]
            if name in EXCLUSIVE
            else ["-"] * 3
        )
        lines.append([name.replace("-", " "), count(c.counts[state]), *exclusive])
    for mode, size in modes.in_circuit.items():
        lines.append([f"circuit, think {mode}", count(size), "-", "-", "-"])
    table = text_table(lines, heading=0)
    kept = [f"{mode} {number(record.faithfulness())}" for mode, record in modes.records.items()]
    notes = [
        f"{on.n_pairs} pairs of the same problems. [ ]: 95 % bootstrap interval over pairs. "
        "By chance: heads that one of two resamples of a mode has and the other lacks, mean "
        f"(97.5 % point). Called: beyond a false-discovery rate of {q:g}.",
        f"Faithfulness of the circuits: {', '.join(kept)}. Turnover beyond that of two resamples "
        f"of one mode: {number(c.excess_turnover)}.",
        *(f"{name.replace('-', ' ')}: {_cells(modes, name)}." for name in EXCLUSIVE),
        "In brackets: share of the resamples with the head, think on → think off; * called.",
    ]
    if note := kinds_note(on.graph):
        notes.append(note)
    distinct = min(record.distinct for record in modes.records.values())
    if small := sample_note(on.n_pairs, distinct):
        notes.append(small)
    if sums := sums_note(modes.records.values()):
        notes.append(sums)
    if on.pairs_hash == modes.records["off"].pairs_hash:
        notes.append("Take care: the chat template gives the same prompts with think on and off.")
    return "\n".join([*table, *(part for note in notes for part in textwrap.wrap(note, WIDTH))])


def _cells(modes: Modes, name: str) -> str:
    """`L3H2* (1.00 → 0.02), ...`; the star marks a called head."""
    c, names, called = modes.change, modes.head_names(), modes.called(name)
    cells = [
        f"{names[head]}{'*' * bool(called[head])}"
        f"{inclusion(float(c.inclusion_before[head]), float(c.inclusion_after[head]))}"
        for head in modes.ordered(name)
    ]
    return ", ".join(cells) or "none"
