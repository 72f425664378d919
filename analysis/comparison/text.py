"""What a comparison found, for a terminal of 80 columns and, as JSON, for programs."""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from analysis.comparison.definitions import (
    SETS,
    Cell,
    Comparison,
    Difference,
    Profile,
    Since,
    Subject,
)
from analysis.models.graph import short_head_name
from analysis.models.provenance import code_version
from analysis.reporting.text import WIDTH, count, inclusion, number, text_table

SHOWN_HEADS, SHOWN_EDGES = 12, 5
COUNTS = ("in a", "in b", "shared", "lost", "gained")
NUMBERS = (
    *COUNTS,
    *("jaccard", "turnover", "excess turnover", "weighted overlap", "rank correlation"),
)
NO_INTERVALS = (
    "A graph file holds no scores of single pairs, so what is compared with one has no intervals, "
    "no null and no calls."
)


@dataclass(frozen=True)
class Findings:
    """All that one command found. profiles: by subject.  made_with: models and pairs of `cells`."""

    subjects: list[Subject]
    comparisons: list[Comparison]
    profiles: dict[str, Profile]
    cells: list[Cell]
    notes: list[str]
    made_with: dict[str, Any]
    q: float
    seed: int

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know before believing the rest."""
        found = list(self.notes)
        if any(subject.record is None for subject in self.subjects):
            found.append(NO_INTERVALS)
        for c in self.comparisons:
            if c.bases is None or c.a.base is None or c.b.base is None:
                continue
            one, two = (base_weights(s) for s in (c.a, c.b))
            kinds = {(s.origin.get("model") or {}).get("dtype") for s in (c.a.base, c.b.base)}
            if one is None or two is None or len(kinds) > 1:
                found.append(
                    f"{c.a.name} and {c.b.name}: the records of step 0 name no weights, or weights "
                    "of different dtypes, so whether they start from one base is not known."
                )
            elif one != two:
                found.append(
                    f"{c.a.name} and {c.b.name} start from different bases (weights {one} and "
                    f"{two}): what they gained is not gained from the same model."
                )
        return found


def base_weights(subject: Subject) -> str | None:
    """Hash of the weights of a run's base, if its record has one."""
    base = subject.base
    return None if base is None else (base.origin.get("model") or {}).get("weights")


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
    """Heads of a mask [L * H], as L3H2."""
    return [short_head_name(name) for name in subject.graph.names_of(mask)]


def marked_heads(c: Comparison, name: str) -> list[str]:
    """Heads of one set with inclusion in a and b, the clearest change first; * marks the called."""
    mask, heads = c.heads.masks[name], c.heads
    order = sorted(mask.nonzero().flatten().tolist(), key=lambda i: -abs(float(heads.effect[0, i])))
    names = [short_head_name(head) for head in c.a.graph.head_names]
    found = []
    for index in order:
        star = "*" if name in heads.called and bool(heads.called[name][index]) else ""
        kept = heads.inclusion[:, index].tolist()
        text = "" if math.isnan(kept[0]) else f" {inclusion(*kept)}"
        found.append(f"{names[index]}{star}{text}")
    return found


def edge_list(c: Comparison, name: str) -> list[dict[str, Any]]:
    """Edges of one set by name, the clearest change first."""
    d, means = c.edges, torch.stack([c.a.mean, c.b.mean])
    indices = d.masks[name].nonzero().flatten()
    kept, scores = d.inclusion[:, indices], means[:, indices]
    change = torch.nan_to_num((kept[1] - kept[0]).abs())
    strength = scores.abs().amax(0) if len(indices) else change
    order = sorted(range(len(indices)), key=lambda i: (-float(change[i]), -float(strength[i])))
    columns = zip(indices.tolist(), *kept.tolist(), *scores.tolist(), strict=True)
    rows = list(columns)
    keys = ("inclusion_a", "inclusion_b", "score_a", "score_b")
    return [
        {"edge": c.a.graph.edge_name(rows[i][0]), **dict(zip(keys, rows[i][1:], strict=True))}
        for i in order
    ]


def _listed(title: str, names: Sequence[str], most: int) -> list[str]:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    text = f"{title}: {', '.join([*names[:most], *more]) or 'none'}"
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in text_table(rows, heading=0)]


def _about(subject: Subject) -> list[str]:
    size = f"{int(subject.edges.sum())} edges"
    kept = ""
    if subject.record is not None:
        kept = f", faithfulness {number(subject.record.faithfulness())}"
    text = f"{subject.name} = {subject.label}: {size}{kept}; {subject.source}"
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


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
            rows.append([f"{change} in {title}", size, str(int(called.sum())), ", ".join(names)])
    return rows


def format_comparison(c: Comparison) -> list[str]:
    """One pair as lines."""
    lines = [f"{c.a.name} -> {c.b.name}    {c.a.label} -> {c.b.label}"[:WIDTH], ""]
    lines += _columns([["", "heads", "edges"], *number_rows(c)])
    lines.append("")
    for name in SETS[1:]:
        lines += _listed(f"heads {name}", marked_heads(c, name), SHOWN_HEADS)
    for name in SETS[1:]:
        shown = edge_list(c, name)[:SHOWN_EDGES]
        names = []
        for edge in shown:
            kept = edge["inclusion_a"], edge["inclusion_b"]
            text = "" if math.isnan(kept[0]) else f" {inclusion(*kept)}"
            names.append(edge["edge"] + text)
        names += [""] * (int(c.edges.masks[name].sum()) - len(shown))
        lines += _listed(f"edges {name}", names, SHOWN_EDGES)
    if c.bases is not None:
        lines += ["", "Against the base of each run (called in brackets):"]
        rows = since_rows(c.bases, c)
        for row in rows:
            lines += _listed(f"  {row[0]}, {row[1]} ({row[2]})", row[3].split(", "), SHOWN_HEADS)
        for change, since in c.bases.items():
            lines.append(f"  Jaccard of the {change} heads: {number(since.jaccard)}")
    return lines


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


def format_findings(findings: Findings) -> str:
    """Everything in plain text, in 80 columns."""
    rule = "-" * WIDTH
    lines = [line for subject in findings.subjects for line in _about(subject)]
    for text in findings.warnings:
        lines += textwrap.wrap(f"Take care: {text}", WIDTH, subsequent_indent="  ")
    for comparison in findings.comparisons:
        lines += [rule, *format_comparison(comparison)]
    lines += [rule, "Cross-faithfulness: 1 is the whole model, 0 the empty circuit", ""]
    names = [subject.name for subject in findings.subjects]
    full = [name for name in names if any(c.model == name and not c.reason for c in findings.cells)]
    for start in range(0, len(full), 3):
        lines += [*_columns(cross_rows(findings, full[start : start + 3])), ""]
    for reason in reasons(findings):
        lines += textwrap.wrap(reason, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    notes = [
        "[ ]: 95 % bootstrap over pairs. (0.02 → 0.97): share of the resamples that hold "
        "the head or edge in the first and in the second. *: called, a change of a head beyond a "
        f"false-discovery rate of {findings.q:g}. By chance: between two resamples of one circuit.",
        "less own: less the faithfulness of the model's own circuit. random: a random circuit of "
        "as many edges.",
    ]
    lines += [rule, *(part for note in notes for part in textwrap.wrap(note, WIDTH))]
    return "\n".join(lines) + "\n"


def to_json(findings: Findings) -> dict[str, Any]:
    """Everything, traced to where it comes from; NaN is null."""
    content = {
        "code": code_version(),
        "q": findings.q,
        "seed": findings.seed,
        "warnings": findings.warnings,
        "subjects": {s.name: _subject_json(s) for s in findings.subjects},
        "comparisons": [_comparison_json(c) for c in findings.comparisons],
        "layers": {name: asdict(found) for name, found in findings.profiles.items()},
        "cross_faithfulness": {
            **findings.made_with,
            "cells": [asdict(cell) for cell in findings.cells],
        },
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _subject_json(subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = {
        "label": subject.label,
        "source": str(subject.source),
        "graph": asdict(subject.graph),
        "n_edges": int(subject.edges.sum()),
    }
    record = subject.record
    if record is None:
        digest = hashlib.sha256(subject.source.read_bytes()).hexdigest()[:16]
        return {**found, "file_hash": digest, "intervals": False}
    names = ("step", "pairs_hash", "n_pairs", "settings", "selection", "origin")
    return {
        **found,
        "intervals": True,
        **{name: getattr(record, name) for name in names},
        "faithfulness": asdict(record.faithfulness()),
        "base_weights": base_weights(subject),
    }


def _difference_json(d: Difference) -> dict[str, Any]:
    numbers = {name.replace(" ", "_"): asdict(value) for name, value in d.numbers.items()}
    return {"numbers": numbers, "null_turnover": d.null_turnover, "null": d.null}


def head_list(c: Comparison) -> list[dict[str, Any]]:
    """Every head that is in a or in b: lost and gained ones first, then by effect."""
    heads, found = c.heads, []
    for name in ("gained", "lost", "shared"):
        indices = heads.masks[name].nonzero().flatten().tolist()
        for index in sorted(indices, key=lambda i: -abs(float(heads.effect[0, i]))):
            called = bool(heads.called[name][index]) if name in heads.called else None
            value, low, high = heads.effect[:, index].tolist()
            found.append(
                {
                    "head": c.a.graph.head_names[index],
                    "change": name,
                    "called": called,
                    "inclusion_a": float(heads.inclusion[0, index]),
                    "inclusion_b": float(heads.inclusion[1, index]),
                    "p_value": float(heads.p_value[index]),
                    "importance_a": float(heads.importance[0, index]),
                    "importance_b": float(heads.importance[1, index]),
                    "effect": {"value": value, "low": low, "high": high},
                }
            )
    return found


def _comparison_json(c: Comparison) -> dict[str, Any]:
    bases = None
    if c.bases is not None:
        bases = {
            change: {
                "raw": {g: c.a.graph.names_of(mask) for g, mask in since.masks.items()},
                "called": {g: c.a.graph.names_of(mask) for g, mask in since.called.items()},
                "counts": {g: asdict(count) for g, count in since.counts.items()},
                "jaccard": asdict(since.jaccard),
            }
            for change, since in c.bases.items()
        }
    return {
        "a": c.a.name,
        "b": c.b.name,
        "heads": {**_difference_json(c.heads), "members": head_list(c)},
        "edges": {**_difference_json(c.edges), **{name: edge_list(c, name) for name in SETS}},
        "against_bases": bases,
    }
