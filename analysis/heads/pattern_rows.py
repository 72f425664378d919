"""Attention patterns as they are kept of a base, and how far a checkpoint's go along with them.

Of each clean prompt the rows of some queries are kept, evenly spread over it, its last one among
them, and all of them where the prompt is short: as many as fit in its share of MOST bytes.

Two patterns of one prompt are compared by the correlation of what they have beyond the usual one of
their layer: each share less the mean share of the layer's heads in the base. Most heads attend to
the first token most of the time, so plain patterns of any two heads go along with each other (0.79
within a layer of SmolLM2-135M, and still 0.75 less the mean of each row; docs/LOG.md). Of a head
that stands by itself in its layer the mean of the row is taken off. What is left of a head that is
as usual is next to nothing, and how that is correlated means nothing: where less than NEGLIGIBLE of
its attention goes elsewhere, the pattern is the same and the correlation 1.

Shape legend: B prompts of a batch, P pairs, T positions, H heads of one output projection, A heads
in all, N shares kept of all prompts, n of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from analysis.heads.columns import alike
from analysis.prompts.pairs import Pair

NEGLIGIBLE = 0.01  # of the attention of a query, in the mean
MOST = 32 * 2**20  # bytes of the patterns of one model, in float16


def budget(n_pairs: int, n_heads: int) -> int:
    """How many shares of one prompt may be kept of each head."""
    return MOST // (2 * n_pairs * n_heads)


def queries(length: int, most: int) -> list[int]:
    """Of a prompt of so many tokens, those whose rows are kept: up to `most` shares in all.

    The rows of K queries that are evenly spread over T hold (K + 1) (T + 2) / 2 shares at most.
    """
    count = max(1, min(length, 2 * most // (length + 2) - 1))
    return sorted(length - 1 - i * length // count for i in range(count))


@dataclass(frozen=True)
class Patterns:
    """What is kept of the patterns of all heads on the clean prompts.

    shares: float16 [N, A], prompt by prompt, row by row; NaN of a head without a pattern.
    lengths: tokens of each prompt, [P]. most: as in `queries`.
    """

    shares: torch.Tensor
    lengths: Sequence[int]
    most: int

    def of_prompts(self) -> Iterator[torch.Tensor]:
        """The shares of each prompt: float64 [n, A]."""
        for shares in self.shares.split(counts_kept(self.lengths, self.most)):
            yield shares.double()

    def usual(self, layers: Sequence[int]) -> Iterator[torch.Tensor]:
        """Of each prompt, the usual shares of the layer of each head: float64 [n, A].

        layers: of the heads, [A].
        """
        of_heads = torch.tensor(layers)
        for length, shares in zip(self.lengths, self.of_prompts(), strict=True):
            found, known = torch.empty_like(shares), ~shares[0].isnan()
            for layer in of_heads.unique():
                own = of_heads == layer
                seen = shares[:, own & known]
                mean = seen.mean(1) if seen.shape[1] > 1 else _even(length, self.most)
                found[:, own] = mean[:, None]
            yield found


def _even(length: int, most: int) -> torch.Tensor:
    """Shares of a query that attends to all keys alike: float64 [n]."""
    keys = [query + 1 for query in queries(length, most)]
    return torch.cat([torch.full((n,), 1 / n, dtype=torch.float64) for n in keys])


def counts_kept(lengths: Sequence[int], most: int) -> list[int]:
    """How many shares are kept of each prompt."""
    return [sum(query + 1 for query in queries(length, most)) for length in lengths]


def entries(length: int, most: int) -> torch.Tensor:
    """The kept shares of a prompt, as pairs of query and key: int64 [n, 2]."""
    kept = torch.tensor(queries(length, most))
    rows = kept.repeat_interleave(kept + 1)
    return torch.stack([rows, torch.cat([torch.arange(int(q) + 1) for q in kept])], 1)


class PatternRows:
    """The kept shares of some clean prompts, filled as their patterns are seen.

    rows: float16 [pairs, width, A]; NaN of a head without a pattern, 0 behind a prompt's own.
    """

    def __init__(self, pairs: Sequence[Pair], n_heads: int, most: int, width: int) -> None:
        """most: as in `queries`. width: shares kept of a prompt at most, over all of a run."""
        self._entries = [entries(len(pair.clean_ids), most) for pair in pairs]
        self.rows = torch.zeros(len(pairs), width, n_heads, dtype=torch.float16)
        for row, kept in zip(self.rows, self._entries, strict=True):
            row[: len(kept)] = torch.nan

    def see(self, start: int, first: int, pattern: torch.Tensor) -> None:
        """Keep of a pattern [B, H, T, T] of pairs from `start` and heads from `first` on."""
        for row, A in enumerate(pattern, start):
            q, k = self._entries[row].to(A.device).T
            self.rows[row, : len(q), first : first + len(A)] = A[:, q, k].T.half().cpu()


def correlations(base: Patterns, now: Patterns, layers: Sequence[int]) -> torch.Tensor:
    """Of each head's pattern with the base's, prompt by prompt: float64 [P, A].

    1 where it is the same, but for NEGLIGIBLE. NaN of a head without a pattern, and of a prompt of
    one token. layers: of the heads, [A].

    Raises:
        ValueError: they are of other prompts, or of other heads.
    """
    if list(base.lengths) != list(now.lengths) or base.shares.shape != now.shares.shape:
        raise ValueError("the patterns of the base are of other prompts or heads")
    found = []
    for usual, a, b in zip(base.usual(layers), base.of_prompts(), now.of_prompts(), strict=True):
        own = alike(_beyond(a, usual).T, _beyond(b, usual).T)
        own[_moved(a, b) < NEGLIGIBLE] = 1.0
        found.append(own if len(a) > 1 else torch.full_like(own, torch.nan))
    return torch.stack(found)


def correlations_among(kept: Patterns, layers: Sequence[int]) -> torch.Tensor:
    """Of different heads of one layer, each two once, the mean over the prompts: float64 [M].

    layers: of the heads, [A].
    """
    own = [[i for i, of in enumerate(layers) if of == layer] for layer in dict.fromkeys(layers)]
    total: list[torch.Tensor] = [torch.zeros(len(heads), len(heads)).double() for heads in own]
    prompts = 0
    for usual, shares in zip(kept.usual(layers), kept.of_prompts(), strict=True):
        beyond = _beyond(shares, usual)
        unit = beyond / beyond.norm(dim=0).clamp_min(1e-300)
        prompts += len(shares) > 1
        for sums, heads in zip(total, own, strict=True):
            sums += unit[:, heads].T @ unit[:, heads]
    upper = [sums[tuple(torch.triu_indices(len(sums), len(sums), 1))] for sums in total]
    return torch.cat(upper) / (prompts or torch.nan)


def _moved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How much of a query's attention goes elsewhere, in the mean: shares [n, A] -> [A].

    The queries are told by their shares, which sum to 1.
    """
    return (a - b).abs().sum(0) / a.sum(0).clamp_min(1e-9) / 2


def _beyond(shares: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """What patterns have beyond the usual one, less its mean: [n, A]."""
    beyond = shares - usual
    return beyond - beyond.mean(0)
