"""Roles of heads: standard descriptive scores on the clean prompts of a run's pairs.

    python -m analysis.roles run=runs/my-run step=last

Definitions and sources are in analysis/attention.py (scores) and analysis/regions.py (which tokens
count). An interval is a 95 % percentile bootstrap over the pairs, with the resamples of the record;
the copying score is of the weights alone and has none. The tracker writes, for every head,

    RUN/roles/step-000040.json   {"schema", "step", "pairs_hash", "unit", "heads": ["L0H0", ...],
                                  "scores": {"induction": {"value": [...], "low", "high", "pairs"}}}

beside the record of each checkpoint; null where a score is undefined, `pairs` is how many define
it. The command prints those of the circuit's heads, and measures them first if the file is missing
and the checkpoint is there.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key, main

if TYPE_CHECKING:
    import torch
    from torch import nn

    from analysis.pairs import Pairs
    from analysis.records import Record

log = logging.getLogger(__name__)

SCHEMA = 1
DIGITS = 5  # significant, in files
TITLES = {  # score -> title of its column
    "previous_token": "previous token",
    "induction": "induction",
    "operands": "to operands",
    "answer": "to answer",
    "think": "to think tag",
    "copying": "copying",
    "receiver": "receiver kurtosis",
}


@dataclass(frozen=True)
class Score:
    """One score of every head, with its interval: NaN where undefined; all [L * H].

    pairs: how many define it; 0 for a score of the weights, whose low and high are NaN.
    """

    value: list[float]
    low: list[float]
    high: list[float]
    pairs: int

    def cell(self, head: int) -> str:
        """`0.41 [0.38-0.45]`, `-1.20 [-1.31, -0.90]`, without an interval `0.41`; `-` if NaN."""
        value, low, high = self.value[head], self.low[head], self.high[head]
        if math.isnan(value):
            return "-"
        if math.isnan(low):
            return f"{value:.2f}"
        return f"{value:.2f} [{low:.2f}{', ' if low < 0 else '-'}{high:.2f}]"


@dataclass(frozen=True)
class Roles:
    """The scores of all heads of a checkpoint, by the keys of TITLES.

    heads: their names, L0H0 first. unit: of the chunks of `receiver`.
    """

    heads: list[str]
    scores: dict[str, Score]
    unit: str

    def cells(self, head: int) -> list[str]:
        """One head's scores as text, in the order of TITLES."""
        return [self.scores[name].cell(head) for name in TITLES]


def no_cells() -> list[str]:
    """What stands for the scores of a head that has none."""
    return ["-"] * len(TITLES)


def summarise(
    per_pair: torch.Tensor,
    copying: torch.Tensor,
    heads: Sequence[str],
    unit: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Roles:
    """Means over pairs with their intervals: per_pair [pairs, S, L * H], copying [L * H].

    A pair that does not define a score has no part in its mean.
    """
    from analysis.attention import PATTERN_SCORES
    from analysis.resampling import resample_weights

    weights = resample_weights(len(per_pair), resamples, seed).double()
    scores = {name: _score(per_pair[:, row], weights) for row, name in enumerate(PATTERN_SCORES)}
    nothing = [math.nan] * len(copying)
    scores["copying"] = Score(copying.tolist(), nothing, nothing, 0)
    return Roles(list(heads), scores, unit)


def _score(values: torch.Tensor, weights: torch.Tensor) -> Score:
    """values [pairs, L * H], weights [1+R, pairs]"""
    import numpy as np

    from analysis.intervals import LEVELS

    known = ~values.isnan()
    means = (weights @ values.nan_to_num(0.0)) / (weights @ known.double())
    ends = np.full((2, means.shape[1]), np.nan)
    if (there := known.any(0)).any():
        ends[:, there] = np.nanquantile(means[1:, there].numpy(), LEVELS, axis=0)
    low, high = ends.tolist()
    return Score(means[0].tolist(), low, high, int(known.any(1).sum()))


def head_roles(
    model: nn.Module,
    pairs: Pairs,
    tokenizer: Any = None,
    batch_size: int = 8,
    resamples: int = 1000,
    seed: int = 0,
) -> Roles:
    """The scores of every head of a model, which is left as it was.

    Without a tokenizer the attention to operands, answer and think tag is undefined.

    Raises:
        ValueError: the architecture is not supported, or the pairs are of another vocabulary.
    """
    from analysis.anatomy import anatomy
    from analysis.attention import copying, pattern_scores
    from analysis.graph import short_head_name
    from analysis.regions import find_regions

    parts = anatomy(model)
    pairs.check_vocabulary(parts.causal_lm.config.vocab_size)
    pairs.check_length(parts.max_tokens)
    regions = find_regions(pairs, tokenizer)
    per_pair = pattern_scores(model, pairs, regions.each, batch_size)
    names = [short_head_name(name) for name in parts.graph.head_names]
    return summarise(per_pair, copying(model), names, regions.unit, resamples, seed)


def roles_path(run: Path, step: int) -> Path:
    return run / "roles" / f"step-{step:06d}.json"


def write_roles(run: Path, step: int, pairs_hash: str, roles: Roles) -> None:
    """Write or replace the roles of one step."""
    from analysis.records import write_json

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


def read_roles(run: Path, step: int) -> Roles | None:
    """The roles of a step, or None if there are none.

    Raises:
        ValueError: they are of another schema.
    """
    path = roles_path(run, step)
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["schema"] != SCHEMA:
        raise ValueError(
            f"{path} has schema {content['schema']} and this version reads {SCHEMA}; remove it, "
            "and python -m analysis.roles makes it again"
        )

    def numbers(values: list[float | None]) -> list[float]:
        return [math.nan if x is None else x for x in values]

    scores = {
        name: Score(numbers(x["value"]), numbers(x["low"]), numbers(x["high"]), x["pairs"])
        for name, x in content["scores"].items()
    }
    return Roles(content["heads"], scores, content["unit"])


@dataclass
class Options:
    run: str = key("directory of a run that was tracked")
    step: str = key("a recorded step, or last", "last")
    batch_size: int = key("prompts in one pass; does not change the result", 8)
    redo: bool = key("measure again where the roles are written already", False)


def _record(run: Path, step: str) -> Record:
    """The record of a step that a command line names.

    Raises:
        ValueError: there is none, or it is invalid.
    """
    from analysis.records import invalid_steps, read_record, recorded_steps

    bad = invalid_steps(run)
    valid = [number for number in recorded_steps(run / "heads") if number not in bad]
    number = valid[-1] if step == "last" and valid else int(step) if step.isdecimal() else None
    record = None if number is None else read_record(run, number)
    if record is None:
        known = ", ".join(map(str, valid)) or "none"
        raise ValueError(f"{run} has no valid record of step {step}; it has: {known}")
    return record


def measure(run: Path, record: Record, batch_size: int) -> Roles:
    """The roles at a record, from its checkpoint, written beside it.

    Raises:
        ValueError: the checkpoint is gone, or it or the pairs are not those of the record.
    """
    import torch

    from analysis.loading import Base, find_model, load_model, load_tokenizer_if_any
    from analysis.origin import weight_hashes
    from analysis.pairs import Pairs

    pairs = Pairs.load(run / "pairs.jsonl")
    if pairs.hash != record.pairs_hash:
        raise ValueError(
            f"{run}/pairs.jsonl holds other pairs (hash {pairs.hash}) than the record of step "
            f"{record.step} was measured on ({record.pairs_hash}); restore that file"
        )
    named, base = find_model(f"{run}@{record.step}"), Base.read(run)
    measured = record.origin["model"]
    if base is None:
        model = load_model(named.path, measured["dtype"])
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = base.load(Path(named.path) if record.step else None, device)
    if any(measured[part] != found for part, found in weight_hashes(model).items()):
        raise ValueError(
            f"{named.path} has other weights than step {record.step} of {run} was measured with; "
            "track that checkpoint again (python -m analysis.track redo=true)"
        )
    tokenizer = load_tokenizer_if_any(base.path if base else named.path)
    sample = record.settings["resamples"], record.settings["seed"]
    roles = head_roles(model, pairs, tokenizer, batch_size, *sample)
    write_roles(run, record.step, pairs.hash, roles)
    return roles


def format_roles(roles: Roles, record: Record) -> str:
    """A table of the circuit's heads, the most important first, with what its columns rest on."""
    inside = record.in_circuit.nonzero().flatten().tolist()
    inside.sort(key=lambda head: -float(record.importance[head]))
    lines = [["head", *TITLES.values()], *([roles.heads[h], *roles.cells(h)] for h in inside)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    counts = [f"{TITLES[n]} {s.pairs}" for n, s in roles.scores.items() if n != "copying"]
    return "\n".join([*rows, "", f"pairs: {', '.join(counts)}; receiver over {roles.unit}"])


def act(options: Options) -> None:
    """Print the roles of a step, measured now if they are not there."""
    run = Path(options.run)
    if not run.is_dir():
        raise ValueError(f"there is no run {run}; give a directory that tracking wrote")
    record = _record(run, options.step)
    roles = None if options.redo else read_roles(run, record.step)
    if roles is None:
        roles = measure(run, record, options.batch_size)
    print(format_roles(roles, record))


if __name__ == "__main__":
    main(Options, __doc__ or "", act)
