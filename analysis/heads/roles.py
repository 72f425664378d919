"""Roles of heads: standard descriptive scores on the clean prompts of a run's pairs.

Definitions and sources are in analysis/heads/attention.py (patterns), analysis/heads/copying.py and
analysis/prompts/regions.py (which tokens count). An interval is a 95 % percentile bootstrap over
the pairs, with the resamples of the record; the copying score is of the weights only and has none.
The tracker writes, for every head,

    RUN/roles/step-000040.json   {"schema", "step", "pairs_hash", "unit", "heads": ["L0H0", ...],
                                  "scores": {"induction": {"value": [...], "low", "high", "pairs"}}}

beside the record of each checkpoint; null where a score is undefined, `pairs` is how many define
it. `headlab roles` prints them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from analysis.models.anatomy import Anatomy
    from analysis.prompts.pairs import Pairs

SCHEMA = 1
DIGITS = 5  # significant, in files


@dataclass(frozen=True)
class Score:
    """One score of every head, with its interval: NaN where undefined; all [A].

    pairs: how many define it; 0 for a score of the weights, whose low and high are NaN.
    """

    value: list[float]
    low: list[float]
    high: list[float]
    pairs: int


@dataclass(frozen=True)
class Roles:
    """The scores of all heads of a checkpoint.

    heads: their names, L0H0 first. scores: `copying` and those of
    `analysis.heads.attention.PATTERN_SCORES`. unit: of the chunks of `receiver`.
    """

    heads: list[str]
    scores: dict[str, Score]
    unit: str


def summarise(
    per_pair: torch.Tensor,
    copying: torch.Tensor,
    heads: Sequence[str],
    unit: str,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence[int] | None = None,
) -> Roles:
    """Means over pairs with their intervals: per_pair [pairs, S, A], copying [A].

    A pair that does not define a score has no part in its mean. groups: the cluster of each pair
    (`Pairs.groups`), None if no two share a prompt; a mean over one cluster has no interval.
    """
    import torch

    from analysis.heads.attention import PATTERN_SCORES
    from analysis.heads.resampling import resample_weights

    groups = range(len(per_pair)) if groups is None else groups
    weights, cluster = resample_weights(groups, resamples, seed).double(), torch.tensor(groups)
    scores = {
        name: _score(per_pair[:, row], weights, cluster) for row, name in enumerate(PATTERN_SCORES)
    }
    nothing = [math.nan] * len(copying)
    scores["copying"] = Score(copying.tolist(), nothing, nothing, 0)
    return Roles(list(heads), scores, unit)


def _score(values: torch.Tensor, weights: torch.Tensor, cluster: torch.Tensor) -> Score:
    """values [pairs, A], weights [1+R, pairs], cluster [pairs]."""
    means, ends = mean_over_pairs(values, weights, cluster)
    low, high = ends.tolist()
    return Score(means[0].tolist(), low, high, int((~values.isnan()).any(1).sum()))


def mean_over_pairs(
    values: torch.Tensor, weights: torch.Tensor, cluster: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the pairs that define a value, [1+R, A], and the ends of their intervals, [2, A].

    NaN where no pair does, and the ends where too few that share no prompt do.
    values: float64 [pairs, A]. weights: of the pairs in each resample, float64 [1+R, pairs].
    cluster: of each pair, [pairs].
    """
    import torch

    from analysis.intervals import FEWEST, percentile

    known = ~values.isnan()
    means = (weights @ values.nan_to_num(0.0)) / (weights @ known.double())
    ends = means.new_full((2, means.shape[1]), torch.nan)
    distinct = torch.stack([known[cluster == one].any(0) for one in cluster.unique()]).sum(0)  # [A]
    if (there := distinct >= FEWEST).any():
        ends[:, there] = percentile(means[:, there], skip_nan=True)
    return means, ends


def head_roles(
    model: nn.Module,
    pairs: Pairs,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_size: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    parts: Anatomy | None = None,
) -> Roles:
    """The scores of every head of a model, which is left as it was.

    Without a tokenizer the attention to operands, answer and think tag is undefined. parts: the
    model's anatomy, detected for None.

    Raises:
        ValueError: the architecture is not supported, or the pairs are of another vocabulary.
    """
    from analysis.detection.detect import anatomy
    from analysis.heads.attention import pattern_scores
    from analysis.heads.copying import copying
    from analysis.models.graph import short_head_name
    from analysis.prompts.regions import find_regions

    parts = anatomy(model) if parts is None else parts
    pairs.check_vocabulary(parts.vocabulary)
    pairs.check_length(parts.max_tokens)
    regions = find_regions(pairs, tokenizer)
    per_pair = pattern_scores(model, pairs, regions.each, batch_size, parts)
    names = [short_head_name(name) for name in parts.graph.head_names]
    sample = resamples, seed, pairs.groups
    return summarise(per_pair, copying(model, parts), names, regions.unit, *sample)


def roles_path(run: Path, step: int) -> Path:
    return run / "roles" / f"step-{step:06d}.json"


def write_roles(run: Path, step: int, pairs_hash: str, roles: Roles) -> None:
    """Write or replace the roles of one step."""
    from analysis.files import write_json

    def plain(values: Sequence[float]) -> list[float | None]:
        return [None if math.isnan(x) else float(f"{x:.{DIGITS}g}") for x in values]

    scores = {
        name: {
            "value": plain(score.value),
            "low": plain(score.low),
            "high": plain(score.high),
            "pairs": score.pairs,
        }
        for name, score in roles.scores.items()
    }
    head = {"schema": SCHEMA, "step": step, "pairs_hash": pairs_hash, "unit": roles.unit}
    write_json(roles_path(run, step), {**head, "heads": roles.heads, "scores": scores})


@dataclass(frozen=True)
class _FileScore:
    value: list[float | None]
    low: list[float | None]
    high: list[float | None]
    pairs: int


@dataclass(frozen=True)
class _File:
    """The form of a file of roles, as far as it is read again."""

    unit: str
    heads: list[str]
    scores: dict[str, _FileScore]


_MEND = "remove it, and headlab roles makes it again"


def read_roles(run: Path, step: int) -> Roles | None:
    """The roles of a step, or None if there are none.

    Raises:
        ValueError: they are damaged or of another schema.
    """
    from analysis.files import as_form, check_schema, read_json

    path = roles_path(run, step)
    try:
        content = read_json(path, dict[str, Any])
    except FileNotFoundError:
        return None
    check_schema(content, SCHEMA, path, _MEND)
    found = as_form(content, _File, path)

    def numbers(values: list[float | None]) -> list[float]:
        if len(values) != len(found.heads):
            raise ValueError(f"{path}: {len(values)} values of {len(found.heads)} heads; {_MEND}")
        return [math.nan if x is None else x for x in values]

    scores = {
        name: Score(numbers(x.value), numbers(x.low), numbers(x.high), x.pairs)
        for name, x in found.scores.items()
    }
    return Roles(found.heads, scores, found.unit)
