"""How much of a model's behaviour circuits of growing size keep: the faithfulness curve, CPR, CMD.

    headlab faithfulness model.path=DIR pairs.path=FILE.jsonl out=DIR

The edges are ranked by attribution, and circuits of 0.1 to 100 % of them are run with every other
edge ablated (analysis/attribution/patching.py). With f the faithfulness of a circuit, (m(C) -
m(empty)) / (m(full) - m(empty)), and x the share of the edges, by trapezoids as MIB does (arXiv
2504.13151):

    CPR  area under f(x)              higher is better
    CMD  area between f(x) and 1      lower is better

A circuit looks better on the pairs that ranked it than on others. Held out: each pair under the
circuits that the other half of the pairs ranks (analysis/circuits/halves.py), of as many edges.

Intervals: 95 % percentile bootstrap over pairs. Control: the same curve for edges ranked at random.
OUT/faithfulness.json holds it all; `circuit.signed=true` ranks by score instead of |score|, and
`circuit.greedy=true` grows the circuits from the logits up. OUT also gets the files of
`headlab attribute`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.circuits.faithfulness_curve import (
    FRACTIONS,
    RESAMPLES,
    Curve,
    circuits_of,
    crossed,
    curve,
    random_scores,
)
from analysis.cli import key
from analysis.commands import measuring
from analysis.ranges import SEED
from analysis.reporting.text import number, text_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analysis.attribution.edge_scores import EdgeScores
    from analysis.circuits.circuit import Circuit
    from analysis.circuits.faithfulness import CircuitEvaluation


@dataclass
class Options(measuring.Options):
    ablation: str = key("what the edges outside carry: patch, zero or mean", "patch")
    control: bool = key("run the circuits of a random ranking too", True)
    seed: int = key("of the random ranking, the halves and the bootstrap", 0, SEED)


def table(curves: dict[str, Curve]) -> str:
    """The curves as text for a terminal."""
    from analysis.intervals import Estimate

    def cell(found: tuple[float, float, float]) -> str:
        return number(Estimate(*found), digits=3)

    names = list(curves)
    rows = [["edges", "after pruning", *(name.replace("_", " ") for name in names)]]
    first = curves[names[0]]
    for index, share in enumerate(FRACTIONS):
        cells = [cell(curves[name].points[index]) for name in names]
        rows.append([f"{share:.1%}", str(first.n_edges[index]), *cells])
    rows.append(["CPR", "", *(cell(curves[name].cpr) for name in names)])
    rows.append(["CMD", "", *(cell(curves[name].cmd) for name in names)])
    return "\n".join(text_tables(rows))


def act(options: Options) -> None:
    """Attribute, evaluate the circuits, print and write."""
    from analysis.circuits.faithfulness import evaluate_circuits
    from analysis.circuits.halves import halves
    from analysis.commands.measuring import checked, load, measure, summary, write
    from analysis.files import write_json
    from analysis.heads.resampling import resample_weights
    from analysis.intervals import resamples_of
    from analysis.prompts.pairs import Pairs

    model, pairs = load(options)
    scores = measure(options, model, pairs)
    precision = checked(options, model, pairs, scores)
    rankings = {"attribution": scores}
    if options.control:
        rankings["random"] = random_scores(scores, options.seed)
    how, curves = options.attribution, {}
    weights = resample_weights(pairs.groups, RESAMPLES, options.seed)
    weights = resamples_of(weights, pairs.n_distinct)

    def cut(ranking: EdgeScores) -> list[Circuit]:
        return circuits_of(ranking, options.circuit.greedy, options.circuit.signed)

    def run(rows: Sequence[int], circuits: list[Circuit]) -> list[CircuitEvaluation]:
        some = Pairs([pairs[row] for row in rows])
        return evaluate_circuits(
            model, some, circuits, how.metric, options.ablation, how.batch_size
        )

    for name, ranking in rankings.items():
        circuits = cut(ranking)
        evaluations = run(range(len(pairs)), circuits)
        curves[name] = curve([each.n_edges for each in circuits], evaluations, weights)
        if name == "attribution" and (half := halves(pairs.groups, options.seed)) is not None:
            curves["held_out"] = curve(*crossed(ranking, half, cut, run), weights)
    content: dict[str, Any] = {"ablation": options.ablation, "fractions": FRACTIONS}
    content.update({name: vars(found) for name, found in curves.items()})
    write(options, scores, model.config.get_text_config().hidden_size, precision)
    path = Path(options.out) / "faithfulness.json"
    write_json(path, {**summary(options, scores), **content})
    print(table(curves))
    print(f"wrote {path}")
