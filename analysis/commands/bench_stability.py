"""How methods of attribution compare on a model and its pairs: `headlab bench part=stability`.

    headlab bench part=stability shape=DIR prompts=pairs.jsonl methods=EAP-IG-inputs,CEAP:4,GIM

For each method (NAME, NAME:POINTS or NAME:auto)

    seconds       of the attribution of all pairs, and its completeness gap
    edges, heads  Jaccard index of the circuits of two disjoint halves of the pairs, over splits
                  (analysis/comparison/stability.py)
    faithfulness  on each half of the circuit that the other half ranks, in one split, with a 95 %
                  interval over clusters of pairs; edges outside the circuit are patched

and the differences from the first method, split by split and resample by resample. Splits share
their pairs: their range tells how the cut moves the numbers, and is no interval for other pairs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from analysis.attribution.edge_scores import EdgeScores
    from analysis.circuits.faithfulness import CircuitEvaluation
    from analysis.models.loading import Model
    from analysis.prompts.pairs import Pairs

RESAMPLES = 1000


@dataclass(frozen=True)
class Asked:
    """What is measured: methods with their points, and sizes of the circuits, as shares."""

    methods: list[tuple[str, int | str]]
    metric: str
    shares: list[float]
    splits: int
    batch: int


def asked(methods: str, steps: int, metric: str, shares: str, splits: int, batch: int) -> Asked:
    """Read `NAME[:POINTS],...` and the sizes; POINTS may be auto.

    Raises:
        ValueError: a method or metric is unknown, a number of points or a share is none.
    """
    from analysis.attribution.eap import check_ranked, check_settings
    from analysis.attribution.quadrature import AUTO

    found: list[tuple[str, int | str]] = []
    for entry in methods.split(","):
        name, _, points = entry.strip().partition(":")
        if points and points != AUTO and not points.isdecimal():
            raise ValueError(
                f"methods: {entry} must be NAME, NAME:POINTS or NAME:auto, such as CEAP:4"
            )
        found.append((name, points if points == AUTO else int(points or steps)))
        check_settings(name, metric, found[-1][1], "midpoint", "grouped", batch)
        check_ranked(name, metric)
    try:
        sizes = [float(share) for share in shares.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < share <= 1 for share in sizes):
        raise ValueError(f"shares is {shares!r}; write shares of the edges, such as 0.01,0.05")
    return Asked(found, metric, sizes, splits, batch)


def measure_stability(directory: str, prompts: str | None, asked: Asked) -> None:
    """Attribute, select, evaluate, print.

    Raises:
        ValueError: there is no such model or file of pairs, or what `attribute` refuses.
    """
    from analysis.attribution.quadrature import AT_ENDS, AUTO
    from analysis.comparison.stability import splits
    from analysis.models.loading import load_model, load_tokenizer
    from analysis.prompts.pairs import Pairs, holds_text

    if prompts is None or not Path(prompts).is_file():
        raise ValueError(f"part=stability needs prompts=FILE.jsonl, a file of pairs; not {prompts}")
    if not Path(directory).is_dir():
        raise ValueError(f"part=stability needs shape=DIR, a model's directory; not {directory}")
    tokenizer = load_tokenizer(directory) if holds_text(Path(prompts)) else None
    pairs = Pairs.load(Path(prompts), tokenizer, asked.metric)
    print(f"{len(pairs)} pairs, {pairs.n_distinct} distinct; {asked.metric}", flush=True)
    inside = splits(pairs.groups, asked.splits)
    model = load_model(directory, "float32")
    scores = {}
    for name, points in asked.methods:
        label = name if name in (*AT_ENDS, "exact") else f"{name}:{points}"
        started = time.perf_counter()
        found = scores[label] = _attributed(model, pairs, name, points, asked)
        taken = f"{label}: {time.perf_counter() - started:.1f} s"
        if points == AUTO and found.points is not None and label != name:
            taken += f", {found.points.double().mean():.1f} points a pair"
        print(f"{taken}, completeness gap {found.completeness_gap:.2%}", flush=True)
    _print_agreement(scores, inside, asked)
    _print_faithfulness(model, scores, pairs, asked)


def _attributed(
    model: Model, pairs: Pairs, name: str, points: int | str, asked: Asked
) -> EdgeScores:
    from analysis.attribution.eap import attribute

    return attribute(model, pairs, name, asked.metric, points, "midpoint", batch_size=asked.batch)


def _sizes(scores: EdgeScores, shares: Sequence[float]) -> list[int]:
    from analysis.circuits.circuit import edge_budget

    return [edge_budget(scores.graph, None, share) for share in shares]


def _print_agreement(scores: dict[str, EdgeScores], inside: torch.Tensor, asked: Asked) -> None:
    from analysis.comparison.stability import agreement

    first = None
    for label, found in scores.items():
        agreed = agreement(found.graph, found.per_edge, inside, _sizes(found, asked.shares))
        first = first or agreed
        for index, share in enumerate(asked.shares):
            cells = [
                f"{what} {_ranged(own[:, index])} ({_ranged(own[:, index] - base[:, index])})"
                for what, own, base in (
                    ("edges", agreed.edges, first.edges),
                    ("heads", agreed.heads, first.heads),
                )
            ]
            print(f"{label}, {share:g} of the edges: {', '.join(cells)}", flush=True)


def _print_faithfulness(
    model: Model, scores: dict[str, EdgeScores], pairs: Pairs, asked: Asked
) -> None:
    from analysis.comparison.stability import splits
    from analysis.heads.resampling import resample_weights

    (second,) = splits(pairs.groups, 1)
    evaluated = _evaluated(model, scores, pairs, second, asked)
    order = [*(~second).nonzero().flatten().tolist(), *second.nonzero().flatten().tolist()]
    weights = resample_weights(pairs.groups, RESAMPLES, 0)[:, order].double()
    base = [each.resampled(weights) for each in evaluated[: len(asked.shares)]]
    for place, each in enumerate(evaluated):
        label, index = list(scores)[place // len(asked.shares)], place % len(asked.shares)
        kept = each.resampled(weights)
        print(
            f"{label}, {asked.shares[index]:g} of the edges: faithfulness {_interval(kept)} "
            f"({_interval(kept - base[index])})"
        )


def _evaluated(
    model: Model,
    scores: dict[str, EdgeScores],
    pairs: Pairs,
    second: torch.Tensor,
    asked: Asked,
) -> list[CircuitEvaluation]:
    """Each method's circuits of each size; the first half's pairs, then the second's."""
    from analysis.circuits.faithfulness import CircuitEvaluation, evaluate_circuits
    from analysis.comparison.stability import crossed
    from analysis.prompts.pairs import Pairs

    both = [
        crossed(found.graph, found.per_edge, second, _sizes(found, asked.shares))
        for found in scores.values()
    ]
    halves = []
    for half, inside in enumerate((~second, second)):
        own = Pairs([pairs[index] for index in inside.nonzero().flatten().tolist()])
        circuits = [circuit for of_method in both for circuit in of_method[half]]
        halves.append(evaluate_circuits(model, own, circuits, asked.metric, batch_size=asked.batch))
    return [
        CircuitEvaluation(*(_joined(name, a, b) for name in ("circuit", "full", "empty")))
        for a, b in zip(*halves, strict=True)
    ]


def _joined(name: str, a: CircuitEvaluation, b: CircuitEvaluation) -> torch.Tensor:
    import torch

    return torch.cat([getattr(a, name), getattr(b, name)])


def _ranged(values: torch.Tensor) -> str:
    """The mean over splits, and the range of 95 % of them."""
    low, high = values.double().quantile(values.new_tensor([0.025, 0.975]).double())
    return f"{float(values.mean()):.3f} [{float(low):.3f} to {float(high):.3f}]"


def _interval(rows: torch.Tensor) -> str:
    """Row 0, and the range of 95 % of the others."""
    low, high = rows[1:].quantile(rows.new_tensor([0.025, 0.975]))
    return f"{float(rows[0]):.3f} [{float(low):.3f} to {float(high):.3f}]"
