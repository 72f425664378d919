"""Attention patterns that are kept to be looked at: where heads look when the metric is read.

The tracker writes, of a few clean prompts of a run's pairs, beside the record of each checkpoint

    RUN/patterns/step-000040.safetensors   "seen" bool [A]; "0", "1", ... uint8 [A, T], 255 times
                                           the share of each head's attention that a token gets;
                                           its metadata says the pairs and the tokens as texts

from the positions where the metric is read, in the mean over these. A prompt of more than MOST
tokens has its first ones in one column. A head without a pattern, or without one that is seen
(analysis/heads/patterns.py), is not `seen` and has rows of 0.

Shape legend: P prompts, T tokens of one, A heads in all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor, nn

from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.files import atomic_write
from analysis.heads.patterns import see_patterns
from analysis.models.anatomy import Anatomy, Heads
from analysis.models.graph import Graph
from analysis.models.preserve import preserved
from analysis.prompts.pairs import Pair, Pairs, collate
from analysis.prompts.regions import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA = 1
MOST = 512  # tokens of a prompt
KEPT = 8  # prompts, where nothing else is said
WHOLE = 255  # what stands for all of a head's attention
_MEND = "remove it, and headlab roles redo=true makes it again"


@dataclass(frozen=True)
class Prompt:
    """One of the prompts. pair: its row in the run's pairs. tokens: their texts, [T]."""

    pair: int
    tokens: list[str]


@dataclass(frozen=True)
class KeptPatterns:
    """The patterns of one checkpoint: seen bool [A], weights uint8 [A, T] of each prompt."""

    pairs_hash: str
    prompts: list[Prompt]
    seen: torch.Tensor
    weights: list[torch.Tensor]


def rows_to_keep(pairs: Pairs, most: int) -> list[int]:
    """The first pairs whose clean prompts differ, `most` at most."""
    first: dict[tuple[int, ...], int] = {}
    for row, pair in enumerate(pairs):
        first.setdefault(pair.clean_ids, row)
    return list(first.values())[:most]


def measure_patterns(
    model: nn.Module, pairs: Pairs, batch_size: int, length: int, parts: Anatomy | None = None
) -> torch.Tensor:
    """Attention of each head from where the clean prompts are read: [pairs, A, length].

    length: of the longest prompt or more; columns after a prompt's end are 0. NaN where no pattern
    is seen. parts: the model's anatomy, detected for None. The model is left as it was.

    Raises:
        ValueError: the architecture is not supported.
    """
    parts = proved(model, anatomy(model) if parts is None else parts)
    found = torch.full((len(pairs), parts.graph.n_heads_total, length), torch.nan)
    with preserved(model):
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            keep = partial(_keep, parts.graph, some, found[start : start + batch_size])
            see_patterns(parts, collate(some).clean.to(parts.device), keep)
    return found


def _keep(
    graph: Graph, pairs: Sequence[Pair], found: torch.Tensor, layer: int, heads: Heads, A: Tensor
) -> None:
    """Put what one layer's heads attend to into `found` [B, A, length]; A: [B, H, T, T]."""
    first = graph.head_index[layer, heads.first]
    for pair, pattern, table in zip(pairs, A, found, strict=True):
        length = len(pair.clean_ids)
        own = table[first : first + heads.n_heads]
        own.zero_()
        own[:, :length] = pattern[:, list(pair.read_at), :length].mean(1).float().cpu()


def head_patterns(
    model: nn.Module,
    pairs: Pairs,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_size: int = 8,
    most: int = KEPT,
) -> KeptPatterns:
    """The patterns of a model on the first `most` prompts that differ (see `measure_patterns`)."""
    rows = rows_to_keep(pairs, most)
    some = Pairs([pairs[row] for row in rows])
    length = max(len(pair.clean_ids) for pair in some)
    return as_kept(measure_patterns(model, some, batch_size, length), pairs, rows, tokenizer)


def as_kept(
    measured: torch.Tensor,
    pairs: Pairs,
    rows: Sequence[int],
    tokenizer: PreTrainedTokenizerBase | None,
) -> KeptPatterns:
    """Those of some rows of the pairs, to be kept. measured: of these rows, [P, A, T].

    Without a tokenizer a token's text is its number.
    """
    seen = ~measured.isnan().any(2).any(0)
    prompts, weights = [], []
    for row, table in zip(rows, measured, strict=True):
        ids = pairs[row].clean_ids
        texts = [f"#{i}" for i in ids] if tokenizer is None else token_texts(tokenizer, ids)
        own = table[:, : len(ids)].float().nan_to_num(0.0)
        if (before := len(ids) - MOST + 1) > 1:
            texts = [f"({before} tokens before)", *texts[before:]]
            own = torch.cat([own[:, :before].sum(1, keepdim=True), own[:, before:]], 1)
        prompts.append(Prompt(row, texts))
        weights.append((own * WHOLE).round().clamp(0, WHOLE).to(torch.uint8))
    return KeptPatterns(pairs.hash, prompts, seen, weights)


def patterns_path(run: Path, step: int) -> Path:
    return run / "patterns" / f"step-{step:06d}.safetensors"


def write_patterns(run: Path, step: int, kept: KeptPatterns) -> None:
    """Write or replace the patterns of one step."""
    from safetensors.torch import save

    about = {
        "schema": str(SCHEMA),
        "pairs_hash": kept.pairs_hash,
        "prompts": json.dumps([vars(prompt) for prompt in kept.prompts]),
    }
    tensors = {str(at): table.contiguous() for at, table in enumerate(kept.weights)}
    with atomic_write(patterns_path(run, step)) as draft:
        draft.write_bytes(save({"seen": kept.seen, **tensors}, about))


def read_patterns(run: Path, step: int) -> KeptPatterns | None:
    """The patterns of a step, or None if there are none.

    Raises:
        ValueError: they are damaged or of another schema.
    """
    from safetensors import safe_open

    path = patterns_path(run, step)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        prompts = msgspec.json.decode(about.get("prompts", ""), type=list[Prompt])
    except Exception as error:  # safetensors names its errors in a class of its own
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); {_MEND}") from error
    if about.get("schema") != str(SCHEMA):
        raise ValueError(f"{path} has schema {about.get('schema')}, not {SCHEMA}; {_MEND}")
    names = [str(at) for at in range(len(prompts))]
    if set(tensors) != {"seen", *names} or tensors["seen"].dtype != torch.bool:
        raise ValueError(f"{path} has other tensors than it says; {_MEND}")
    seen, weights = tensors["seen"], [tensors[name] for name in names]
    for prompt, table in zip(prompts, weights, strict=True):
        if table.dtype != torch.uint8 or table.shape != (len(seen), len(prompt.tokens)):
            raise ValueError(f"{path}: there is no share for each head and token; {_MEND}")
    return KeptPatterns(about.get("pairs_hash", ""), prompts, seen, weights)
