"""Are these heads needed? A set of heads at its mean, against random sets that match it.

A circuit says which heads carry the difference of two prompts, and the call which of them are new.
Neither says that the model can't do without them. So the set is taken out of the model (each head
gives its mean over the tokens of all clean prompts, whatever the prompt), the pairs' metric is read
on the clean prompts, and the same is done to random sets with as many heads in each layer and none
of the set (analysis/interventions/random_sets.py):

    change   metric with the set at its mean - metric of the model as it is, mean over pairs
    excess   change - mean change of the random sets
    p        (1 + random sets that change the metric as much) / (1 + random sets), so that 20 sets
             give 0.048 at the least

The intervals are 95 % bootstraps over pairs, that of the excess over the random sets too. The heads
were chosen on these very pairs, so give other pairs (`pairs=`) where the size of the change counts.

A control is fair if it is not the same few heads again and again, and in the same layers: at least
FEWEST random sets, at least LAYERS of their heads in the set's own layers, and two of them share at
most OVERLAP of their heads. Of a set that leaves no fair control as many heads are kept as leave
one, the most important first.

Shape legend: P pairs, S sets, n heads of one output projection, e head width.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from analysis.attribution.metrics import Metric, metric_named
from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.heads.resampling import resample_weights
from analysis.intervals import estimate, resamples_of
from analysis.interventions.operations import Constants, Intervention, intervened
from analysis.interventions.random_sets import matched_random_sets
from analysis.models.forward import run, run_decoder
from analysis.models.hooks import Hooks
from analysis.models.linear import wide
from analysis.models.preserve import preserved
from analysis.records.needed import Effect, Match, Number, Right
from analysis.tracking import distributed
from analysis.tracking.sharing import SharedPairs

if TYPE_CHECKING:
    from torch import nn

    from analysis.models.anatomy import Anatomy, Heads
    from analysis.models.graph import Graph, Head
    from analysis.prompts.pairs import Batch, Pairs

CONTROLS = 20  # random sets
FEWEST, LAYERS, OVERLAP = 5, 0.75, 0.5  # of a fair control
log = logging.getLogger(__name__)


def fair_controls(
    heads: Sequence[Head], graph: Graph, count: int = CONTROLS, seed: int = 0
) -> tuple[list[Head], list[list[Head]]]:
    """As many of the heads, the first ones, as leave fair random sets, and `count` such sets.

    No sets for `count` 0, and where not even one head leaves fair ones: then all heads.
    """
    quiet = logging.getLogger(matched_random_sets.__module__)
    for kept in range(len(heads), 0, -1) if count else ():
        some, level = list(heads[:kept]), quiet.level
        quiet.setLevel(logging.ERROR)  # what it warns of is told below, once
        try:
            sets = matched_random_sets(some, graph, count, seed)
        except ValueError:  # more than half of all heads
            continue
        finally:
            quiet.setLevel(level)
        if is_fair(match_of(some, sets), count):
            return some, sets
    return list(heads), []


def is_fair(match: Match, count: int = CONTROLS) -> bool:
    """Whether random sets, of which `count` were asked for, are a fair control."""
    enough = match.sets >= min(FEWEST, count)
    return enough and match.layers >= LAYERS and match.overlap <= OVERLAP


def match_of(heads: Sequence[Head], sets: Sequence[Sequence[Head]]) -> Match:
    """How well random sets match the heads."""
    wanted = Counter(layer for layer, _ in heads)
    there = [(wanted & Counter(layer for layer, _ in one)).total() / len(heads) for one in sets]
    common = [len(set(a) & set(b)) / len(heads) for a, b in combinations(sets, 2)]
    return Match(len(sets), _mean(there), _mean(common))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def effect_of(
    model: nn.Module,
    pairs: Pairs,
    heads: Sequence[Head],
    random: Sequence[Sequence[Head]] = (),
    metric: str = "kl",
    batch_size: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    parts: Anatomy | None = None,
) -> Effect:
    """What the heads at their mean do to the metric of the pairs, beside what random sets do.

    The model is left as it was. To be called by all ranks of a distributed run: they share the
    pairs. parts: the model's anatomy, detected for None.

    Raises:
        ValueError: unknown metric, pairs that do not fit the model, or an architecture that is not
            supported.
    """
    measure = metric_named(metric)
    parts = proved(model, anatomy(model) if parts is None else parts, only_heads=True)
    pairs.check_vocabulary(parts.vocabulary)
    pairs.check_length(parts.max_tokens)
    shared, sets = SharedPairs(pairs, batch_size), [list(heads), *map(list, random)]
    with preserved(model):
        means = distributed.together(partial(mean_z, parts, pairs, batch_size))
        changes = [at_mean(parts, means, one) for one in sets]
        how = partial(_values, model, parts, changes, measure)
        values, right = shared.measure(how, [1 + len(sets)] * 2)
    weights = resample_weights(pairs.groups, resamples, seed)
    weights = resamples_of(weights, pairs.n_distinct).double()
    change = weights @ (values[:, 1:] - values[:, :1])  # [1+R, S]
    excess, p = None, None
    if random:
        of_sets = resample_weights(range(len(random)), resamples, seed + 1).double()[: len(weights)]
        excess = estimate(change[:, 0] - (change[:, 1:] * of_sets).sum(1))
        as_much = int((change[0, 1:] >= change[0, 0]).sum())
        p = (1 + as_much) / (1 + len(random))
    shares = right.mean(0).tolist()
    return Effect(
        change=Number.of(estimate(change[:, 0])),
        random=change[0, 1:].tolist(),
        excess=None if excess is None else Number.of(excess),
        p_value=p,
        right=None if right.isnan().any() else Right(shares[0], shares[1], shares[2:]),
    )


def _values(
    model: nn.Module,
    parts: Anatomy,
    changes: Sequence[tuple[Intervention, Constants]],
    metric: Metric,
    pairs: Pairs,
    batch_size: int,
) -> list[torch.Tensor]:
    """The metric, and whether the target is the likeliest token: [P, 1 + S] each."""
    rows = []
    with torch.no_grad():
        for batch in pairs.batches(batch_size):
            batch = batch.to(parts.device)
            clean = run(parts, batch.clean, batch)
            found = [_read(clean, clean, batch, metric)]
            for change, added in changes:
                with intervened(model, change, added, parts):
                    found.append(_read(run(parts, batch.clean, batch), clean, batch, metric))
            rows.append(torch.stack(found, 2))
    values, right = torch.cat(rows, 1)
    return [values, right]


def _read(logits: torch.Tensor, clean: torch.Tensor, batch: Batch, metric: Metric) -> torch.Tensor:
    """The metric and the share of the places whose label is the likeliest token: [2, B]."""
    values = metric(logits, clean, batch).double().cpu()
    if batch.labels is None:
        return torch.stack([values, torch.full_like(values, torch.nan)])
    right = (logits.argmax(-1) == batch.labels).double().cpu()
    rows = batch.rows.cpu()
    places = torch.zeros_like(values).index_add(0, rows, torch.ones_like(right))
    return torch.stack([values, torch.zeros_like(values).index_add(0, rows, right) / places])


@torch.no_grad()
def mean_z(parts: Anatomy, pairs: Pairs, batch_size: int) -> dict[tuple[int, int], torch.Tensor]:
    """The mean of every head over the tokens of all clean prompts, by layer and first head: [n, e].

    Padding is left out.

    Raises:
        ValueError: the model adds tokens of its own.
    """
    sums: dict[tuple[int, int], torch.Tensor] = {}
    masks: list[torch.Tensor] = []  # of the batch that runs: [B * T]

    def add(layer: int, heads: Heads, z: torch.Tensor) -> None:
        mask, key = masks[-1], (layer, heads.first)
        if z.numel() // z.shape[-1] != len(mask):
            raise ValueError(
                f"layer {layer} has {z.numel() // z.shape[-1]} tokens of {len(mask)}: the model "
                "adds tokens of its own, so a head has no mean over the prompts"
            )
        total = wide(z).reshape(len(mask), heads.n_heads, -1)[mask].double().sum(0)
        sums[key] = sums[key] + total if key in sums else total

    with Hooks() as hooks:
        for block, heads in parts.heads:
            hooks.input(heads.o_proj, partial(add, block.layer, heads))
        for batch in pairs.batches(batch_size):
            masks.append(batch.mask.to(parts.device).flatten().bool())
            run_decoder(parts, batch.clean.to(parts.device))
    tokens = int(torch.cat(masks).sum())
    return {key: (total / tokens).cpu() for key, total in sums.items()}


def at_mean(
    parts: Anatomy, means: dict[tuple[int, int], torch.Tensor], heads: Sequence[Head]
) -> tuple[Intervention, Constants]:
    """The heads at their means, as an intervention."""
    change, tables = Intervention("mean", tuple(heads)), {}
    for layer, there in change.by_layer.items():
        rows: dict[int, torch.Tensor] = {}
        for some in parts.heads_of(layer, there):
            of_part, at = means[layer, some.part.first], (some.places, some.heads)
            rows |= {place: of_part[head] for place, head in zip(*at, strict=True)}
        tables[layer] = torch.stack([rows[place] for place in range(len(there))])[None]
    return change, Constants(tables)
