"""How what is told of the same heads stands in the files of a record.

    RUN/heads/step-000040/same-<hash>.safetensors   heads against the base's
    RUN/heads/step-000000/kept-<hash>.safetensors   columns and patterns of the base

Definitions: analysis/heads/same.py. A record of an older version has neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from analysis.files import as_form
from analysis.heads.columns import Columns
from analysis.heads.pattern_rows import Patterns
from analysis.heads.same import FIGURES, Kept, Same
from analysis.intervals import Estimate
from analysis.records.stored import Shapes, StoredTensors


@dataclass(frozen=True)
class Interval:
    """analysis.intervals.Estimate; null stands for what is no number."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SameForm:
    """Of record.json: `Same` without its tensors; heads: the changed ones by name."""

    heads: list[str]
    below: Interval
    chance: dict[str, list[float | None]] | None = None


@dataclass(frozen=True)
class KeptForm:
    """Of record.json: how `Kept` was made, and the sizes of its tensors."""

    sketched: bool
    most: int
    numbers: int
    shares: int


def same_content(same: Same, changed: list[str]) -> dict[str, Any]:
    """Its part of record.json. changed: names of the heads."""
    chance = {} if same.chance is None else {"chance": same.chance}
    return {"heads": changed, "below": asdict(same.below), **chance}


def kept_content(kept: Kept) -> dict[str, Any]:
    """Its part of record.json."""
    columns, patterns = kept.columns, kept.patterns
    form = KeptForm(columns.sketched, patterns.most, len(columns.values), len(patterns.shares))
    return asdict(form)


def same_tensors(same: Same) -> dict[str, torch.Tensor]:
    return {name: getattr(same, name) for name in FIGURES}


def kept_tensors(kept: Kept) -> dict[str, torch.Tensor]:
    return {
        "columns": kept.columns.values,
        "lengths": kept.columns.lengths,
        "shares": kept.patterns.shares,
        "tokens": torch.tensor(list(kept.patterns.lengths), dtype=torch.int32),
    }


def shapes_of_same(n_heads: int) -> Shapes:
    return dict.fromkeys(FIGURES, (torch.float32, (3, n_heads)))


def shapes_of_kept(form: KeptForm, n_pairs: int, n_heads: int) -> Shapes:
    return {
        "columns": (torch.float16, (form.numbers,)),
        "lengths": (torch.int32, (n_heads,)),
        "shares": (torch.float16, (form.shares, n_heads)),
        "tokens": (torch.int32, (n_pairs,)),
    }


def same_from(content: Mapping[str, Any], stored: StoredTensors, path: Path) -> Same:
    """What its part of record.json and its file hold; the figures are kept, as they are small."""
    form = as_form(content, SameForm, path)
    nan = float("nan")
    below = Estimate(*(nan if x is None else x for x in asdict(form.below).values()))
    chance = form.chance
    if chance is not None and (
        set(chance) != set(FIGURES) or {len(x) for x in chance.values()} != {2}
    ):
        raise ValueError(f"{path}: chance must give two numbers for {' and '.join(FIGURES)}")
    levels: dict[str, tuple[float, float]] | None = None
    if chance is not None:
        ends = {name: [nan if x is None else x for x in both] for name, both in chance.items()}
        levels = {name: (mean, high) for name, (mean, high) in ends.items()}
    o_proj, attention = (stored[name].clone() for name in FIGURES)
    return Same(o_proj, attention, below, levels)


def kept_from(form: KeptForm, stored: StoredTensors) -> Kept:
    columns = Columns(stored["columns"], stored["lengths"], form.sketched)
    return Kept(columns, Patterns(stored["shares"], stored["tokens"].tolist(), form.most))
