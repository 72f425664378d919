"""What a comparison found as rows of tables and as lists, for the terminal, the page and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analysis.comparison.definitions import Comparison, Difference, HeadDifference, Subject
from analysis.comparison.findings import Findings
from analysis.heads.between import Since
from analysis.intervals import Estimate
from analysis.models.graph import short_head_name
from analysis.reporting.text import count, inclusion, number

COUNTS = ("in a", "in b", "shared", "lost", "gained")
NUMBERS = (
    *COUNTS,
    *("jaccard", "turnover", "excess turnover", "weighted overlap", "rank correlation"),
)


@dataclass(frozen=True)
class EdgeRow:
    """An edge that is in a or in b; inclusion is NaN without resamples."""

    edge: str
    inclusion_a: float
    inclusion_b: float
    score_a: float
    score_b: float


@dataclass(frozen=True)
class HeadRow:
    """A head that is in a or in b; called: None where nothing is called."""

    head: str
    change: str
    called: bool | None
    inclusion_a: float
    inclusion_b: float
    p_value: float
    importance_a: float
    importance_b: float
    effect: Estimate


def head_list(c: Comparison) -> list[HeadRow]:
    """Every head that is in a or in b: lost and gained ones first, then by effect."""
    heads, found = c.heads, []
    for name in ("gained", "lost", "shared"):
        indices = heads.masks[name].nonzero().flatten().tolist()
        for index in sorted(indices, key=lambda i: -_clearness(heads, i)):
            called = bool(heads.called[name][index]) if name in heads.called else None
            found.append(
                HeadRow(
                    head=c.a.graph.head_names[index],
                    change=name,
                    called=called,
                    inclusion_a=float(heads.inclusion[0, index]),
                    inclusion_b=float(heads.inclusion[1, index]),
                    p_value=float(heads.p_value[index]),
                    importance_a=float(heads.importance[0, index]),
                    importance_b=float(heads.importance[1, index]),
                    effect=Estimate(*heads.effect[:, index].tolist()),
                )
            )
    return found


def _clearness(heads: HeadDifference, index: int) -> float:
    """|effect| of a head; where nothing ranks the heads they stay in their order."""
    effect = float(heads.effect[0, index])
    return 0.0 if math.isnan(effect) else abs(effect)


def edge_list(c: Comparison, name: str) -> list[EdgeRow]:
    """Edges of one set by name, the clearest change first."""
    d, means = c.edges, torch.stack([c.a.mean, c.b.mean])
    indices = d.masks[name].nonzero().flatten()
    kept, scores = d.inclusion[:, indices], means[:, indices]
    change = torch.nan_to_num((kept[1] - kept[0]).abs())
    strength = scores.nan_to_num(0.0).abs().amax(0) if len(indices) else change
    order = sorted(range(len(indices)), key=lambda i: (-float(change[i]), -float(strength[i])))
    rows = list(zip(indices.tolist(), *kept.tolist(), *scores.tolist(), strict=True))
    return [EdgeRow(c.a.graph.edge_name(rows[i][0]), *rows[i][1:]) for i in order]


def _cell(difference: Difference, name: str) -> str:
    if name not in difference.numbers:
        return "-"
    return (count if name in COUNTS else number)(difference.numbers[name])


def number_rows(comparison: Comparison) -> list[list[str]]:
    """What is compared, of heads and of edges."""
    both: tuple[Difference, Difference] = (comparison.heads, comparison.edges)
    rows = []
    for name in NUMBERS:
        cells = [_cell(d, name) for d in both]
        if cells != ["-", "-"]:
            rows.append([_titled(name, comparison), *cells])
        if name in ("lost", "gained") and comparison.heads.called:
            rows.append(["  called", str(int(comparison.heads.called[name].sum())), "-"])
            chances = [f"{d.null[name][0]:.1f}, 97.5 %: {d.null[name][1]:.0f}" for d in both]
            rows.append([f"  by chance in {comparison.a.name}", *chances])
        if name == "turnover" and not math.isnan(comparison.heads.null_turnover):
            rows.append(["  by chance", *(f"{d.null_turnover:.2f}" for d in both)])
    return rows


def _titled(name: str, comparison: Comparison) -> str:
    a, b = comparison.a.name, comparison.b.name
    titles = {"in a": f"in {a}", "in b": f"in {b}", "shared": "shared", "jaccard": "Jaccard"}
    titles |= {"lost": f"lost (in {a} only)", "gained": f"gained (in {b} only)"}
    return titles.get(name, name)


def head_names(subject: Subject, mask: torch.Tensor) -> list[str]:
    """Heads of a mask [A], as L3H2."""
    return [short_head_name(name) for name in subject.graph.names_of(mask)]


def marked_heads(c: Comparison, name: str) -> list[str]:
    """Heads of one set with inclusion in a and b, the clearest change first; * marks the called."""
    mask, heads = c.heads.masks[name], c.heads
    order = sorted(mask.nonzero().flatten().tolist(), key=lambda i: -_clearness(heads, i))
    names = [short_head_name(head) for head in c.a.graph.head_names]
    found = []
    for index in order:
        star = "*" if name in heads.called and bool(heads.called[name][index]) else ""
        kept = heads.inclusion[:, index].tolist()
        found.append(f"{names[index]}{star}{inclusion(*kept)}")
    return found


def since_rows(bases: dict[str, Since], c: Comparison) -> list[list[str]]:
    """Of each group of heads: how many, how many called, which."""
    titles = {"both": "both", "only a": f"only {c.a.name}", "only b": f"only {c.b.name}"}
    rows = []
    for change, since in bases.items():
        for group, title in titles.items():
            called = since.called[group]
            names = [
                name + "*" * star
                for name, star in zip(
                    head_names(c.a, since.masks[group]),
                    called[since.masks[group]].tolist(),
                    strict=True,
                )
            ]
            size = count(since.counts[group])
            known = all(subject.can_be_resampled for subject in (c.a, c.b))
            n_called = str(int(called.sum())) if known else "-"
            rows.append([f"{change} in {title}", size, n_called, ", ".join(names)])
    return rows


def cross_rows(findings: Findings, models: Sequence[str]) -> list[list[str]]:
    """Cross-faithfulness for some models: circuits down, models across, `-` where it is empty."""
    by_place = {(cell.circuit, cell.model): cell for cell in findings.cells}
    rows = [["circuit", *(f"in model {name}" for name in models)]]
    for subject in findings.subjects:
        cells = [by_place[subject.name, model] for model in models]
        titles = (subject.name, "  less own", "  random")
        found = [
            (c.faithfulness, None if c.circuit == c.model else c.below_own, c.random) for c in cells
        ]
        for title, values in zip(titles, zip(*found, strict=True), strict=True):
            rows.append([title, *("-" if v is None else number(v) for v in values)])
    return rows


def reasons(findings: Findings) -> list[str]:
    """Why columns of cross-faithfulness are empty."""
    found = dict.fromkeys((cell.model, cell.reason) for cell in findings.cells if cell.reason)
    return [f"in model {model}: empty, because {reason}" for model, reason in found]
