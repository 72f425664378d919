"""How far a checkpoint has moved from the base: KL(checkpoint || base) on the clean prompts.

Of the next-token distributions where the metric is read, in nats, averaged over the positions of a
pair: the penalty of RLHF (arXiv 1909.08593), exact over the whole vocabulary instead of one sampled
token. Two runs can then be compared where they have moved as far, instead of at the same step.

The base's log-probabilities are stored once, beside its record. Where they would take more than
MOST bytes, as of answers of many tokens, each pair is read at fewer positions, evenly spread over
its own, and at one at least.

Shape legend: P pairs, K positions read of a pair at most, N positions read in all, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.models.forward import run
from analysis.models.preserve import preserved
from analysis.prompts.pairs import Pair, Pairs, collate

MOST = 64 * 2**20  # bytes of the base's log-probabilities


def positions_read(pairs: Pairs, vocabulary: int) -> int:
    """At how many positions a pair is read at most: K.

    vocabulary: V, tokens that have a logit.
    """
    wanted = max(len(pair.positions) for pair in pairs)
    return min(wanted, max(1, MOST // (4 * vocabulary * len(pairs))))


def thinned(pair: Pair, most: int) -> Pair:
    """The same prompt, read at `most` of its positions or fewer, its last one among them."""
    read = sorted(pair.read_at)
    if len(read) <= most:
        return replace(pair, positions=tuple(read))
    kept = {read[len(read) - 1 - i * len(read) // most] for i in range(most)}
    return replace(pair, positions=tuple(sorted(kept)))


@torch.no_grad()
def logits_at_the_end(model: nn.Module, pair: Pair) -> int:
    """V: how many tokens have a logit, by a run of one prompt."""
    parts = proved(model, anatomy(model))
    with preserved(model):
        batch = collate([replace(pair, positions=(-1,))]).to(parts.device)
        return int(run(parts, batch.clean, batch).shape[1])


@torch.no_grad()
def log_probabilities(
    model: nn.Module, most: int, vocabulary: int, pairs: Pairs, batch_size: int
) -> torch.Tensor:
    """Of the next token at up to `most` positions of each clean prompt: float32 [P, K, V].

    0 where a pair has fewer positions.
    """
    parts = proved(model, anatomy(model))
    found = torch.zeros(len(pairs), most, vocabulary)
    read = Pairs([thinned(pair, most) for pair in pairs])
    start = 0
    with preserved(model):
        for batch in read.batches(batch_size):
            batch = batch.to(parts.device)
            values = run(parts, batch.clean, batch).log_softmax(-1).float().cpu()
            rows = batch.rows.cpu()
            nth = torch.cat([torch.arange(n) for n in torch.bincount(rows).tolist()])
            found[start + rows, nth] = values
            start += len(batch.clean)
    return found


def counts_read(pairs: Pairs, most: int) -> torch.Tensor:
    """At how many positions each pair is read: int64 [P]."""
    return torch.tensor([min(len(pair.positions), most) for pair in pairs])


def kl_from(base: torch.Tensor, now: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """KL(now || base) in nats, averaged over the positions of each pair: float32 [P].

    base, now: log-probabilities [N, V], pair by pair.  counts: positions of each pair, [P].
    Infinite where the base gives a token no probability that `now` gives some.
    """
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    total = torch.zeros(len(counts), dtype=torch.float64)
    for chunk in torch.arange(len(rows)).split(64):  # bounds memory
        p, q = now[chunk].double(), base[chunk].double()
        each = torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1)
        total.index_add_(0, rows[chunk], each)
    return (total / counts).clamp_min(0.0).float()  # below 0 by rounding only
