"""How much of a model's behaviour circuits of growing size keep: the faithfulness curve, CPR, CMD.

    python -m analysis.faithfulness model.path=DIR pairs.path=FILE.jsonl out=DIR

The edges are ranked by attribution, and circuits of 0.1 to 100 % of them are run with every other
edge ablated (analysis/patching.py). With f the faithfulness of a circuit, (m(C) - m(empty)) /
(m(full) - m(empty)), and x the share of the edges, by trapezoids as MIB does (arXiv 2504.13151):

    CPR  area under f(x)              higher is better
    CMD  area between f(x) and 1      lower is better

Intervals: 95 % percentile bootstrap over pairs. Control: the same curve for edges ranked at random.
OUT/faithfulness.json holds it all; `circuit.signed=true` ranks by score instead of |score|, and
`circuit.greedy=true` grows the circuits from the logits up. OUT also gets the files of
`python -m analysis.attribute`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key, main
from analysis.measurement import Options

if TYPE_CHECKING:
    import torch

    from analysis.attribution import EdgeScores
    from analysis.circuits import Circuit
    from analysis.patching import CircuitEvaluation

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RESAMPLES = 1000


@dataclass
class FaithfulnessOptions(Options):
    ablation: str = key("what the edges outside carry: patch, zero or mean", "patch")
    control: bool = key("run the circuits of a random ranking too", True)
    seed: int = key("of the random ranking and the bootstrap", 0)


@dataclass(frozen=True)
class Curve:
    """Faithfulness at each of FRACTIONS, and its areas; values are (value, low, high)."""

    n_edges: list[int]
    points: list[tuple[float, float, float]]
    cpr: tuple[float, float, float]
    cmd: tuple[float, float, float]


def area(values: torch.Tensor, fractions: Sequence[float] = FRACTIONS) -> torch.Tensor:
    """Area under values [..., len(fractions)] over the fractions, by trapezoids: [...]."""
    import torch

    return torch.trapezoid(values, torch.tensor(fractions, dtype=values.dtype))


def circuits_of(scores: EdgeScores, greedy: bool, signed: bool) -> list[Circuit]:
    """The circuit of each of FRACTIONS; the last is the whole graph."""
    import torch

    from analysis.circuits import Circuit, select_circuit

    some = [
        select_circuit(scores, fraction=share, greedy=greedy, signed=signed)
        for share in FRACTIONS[:-1]
    ]
    return [*some, Circuit(scores.graph, torch.ones(scores.graph.n_edges, dtype=torch.bool))]


def curve(circuits: list[Circuit], evaluations: list[CircuitEvaluation], seed: int) -> Curve:
    """Faithfulness with intervals, from the metric of each pair.

    Raises:
        ValueError: the full model and the empty circuit measure the same, so nothing is to explain.
    """
    import torch

    metric = torch.stack([e.circuit for e in evaluations]).double()  # [circuits, pairs]
    full, empty = evaluations[0].full.double(), evaluations[0].empty.double()
    if full.mean() == empty.mean():
        raise ValueError(
            "the metric is the same for the full model and the empty circuit; the pairs or the "
            "metric show no difference that a circuit could explain"
        )
    n_pairs = len(full)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(n_pairs, (RESAMPLES, n_pairs), generator=generator)

    def faithfulness(rows: torch.Tensor) -> torch.Tensor:
        m, top, bottom = metric[:, rows].mean(-1), full[rows].mean(-1), empty[rows].mean(-1)
        return ((m - bottom) / (top - bottom)).movedim(0, -1)

    value, samples = faithfulness(torch.arange(n_pairs)), faithfulness(draws)

    def estimate(v: torch.Tensor, resampled: torch.Tensor) -> tuple[float, float, float]:
        bounds = torch.tensor([0.025, 0.975], dtype=v.dtype)
        low, high = torch.quantile(resampled, bounds).tolist()
        return float(v), low, high

    return Curve(
        n_edges=[circuit.n_edges for circuit in circuits],
        points=[estimate(value[i], samples[:, i]) for i in range(len(circuits))],
        cpr=estimate(area(value), area(samples)),
        cmd=estimate(area((1 - value).abs()), area((1 - samples).abs())),
    )


def random_scores(scores: EdgeScores, seed: int) -> EdgeScores:
    """The same scores in a random order of the edges: the control."""
    import torch

    order = torch.randperm(scores.graph.n_edges, generator=torch.Generator().manual_seed(seed))
    per_pair = torch.zeros_like(scores.per_pair)
    per_pair[:, scores.graph.edge_mask] = scores.per_edge[:, order]
    return replace(scores, per_pair=per_pair)


def table(curves: dict[str, Curve]) -> str:
    """The curves as text for a terminal."""

    def cell(estimate: tuple[float, float, float]) -> str:
        value, low, high = (round(number, 3) + 0.0 for number in estimate)  # no -0.000
        return f"{value:6.3f} [{low:.3f}, {high:.3f}]"

    names = list(curves)
    rows = [["edges", "after pruning", *names]]
    first = curves[names[0]]
    for index, share in enumerate(FRACTIONS):
        cells = [cell(curves[name].points[index]) for name in names]
        rows.append([f"{share:.1%}", str(first.n_edges[index]), *cells])
    rows.append(["CPR", "", *(cell(curves[name].cpr) for name in names)])
    rows.append(["CMD", "", *(cell(curves[name].cmd) for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )


def act(options: FaithfulnessOptions) -> None:
    """Attribute, evaluate the circuits, print and write."""
    from analysis.measurement import load, measure, summary, write
    from analysis.patching import evaluate_circuits
    from analysis.records import write_json

    model, pairs = load(options)
    scores = measure(options, model, pairs)
    rankings = {"attribution": scores}
    if options.control:
        rankings["random"] = random_scores(scores, options.seed)
    how, curves = options.attribution, {}
    for name, ranking in rankings.items():
        circuits = circuits_of(ranking, options.circuit.greedy, options.circuit.signed)
        evaluations = evaluate_circuits(
            model, pairs, circuits, how.metric, options.ablation, how.batch_size
        )
        curves[name] = curve(circuits, evaluations, options.seed)
    content: dict[str, Any] = {"ablation": options.ablation, "fractions": FRACTIONS}
    content.update({name: vars(found) for name, found in curves.items()})
    write(options, scores, model.config.hidden_size)
    path = Path(options.out) / "faithfulness.json"
    write_json(path, {**summary(options, scores), **content})
    print(table(curves))
    print(f"wrote {path}")


if __name__ == "__main__":
    main(FaithfulnessOptions, __doc__ or "", act)
