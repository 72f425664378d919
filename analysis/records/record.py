"""What is known of the heads of one checkpoint, and what follows from it.

The files that hold it: analysis/records/record_files.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from analysis.attribution.adding_up import adds_up
from analysis.attribution.metrics import faithfulness
from analysis.heads.changes import Heads
from analysis.heads.experts import Experts
from analysis.heads.resampling import Resampled, Wide, resample_weights
from analysis.heads.same import Same
from analysis.intervals import Estimate, estimate, percentile, resamples_of
from analysis.models.graph import Graph

log = logging.getLogger(__name__)

COMPARABLE = ("pairs_hash", "groups", "settings", "graph")  # what two records must share
_TENSORS = ("circuit", "mean", "evaluation")
_NUMBERS = ("completeness_gap", "metric_clean", "metric_corrupted")  # null: not a number


@dataclass(frozen=True)
class Record:
    """The heads of one checkpoint.

    settings: everything that must be equal for two records to be comparable.
    origin: what was measured and by what: hashes of weights and adapter, versions.
    circuit: bool [E];  mean: mean scores float [E];  evaluation: the metric of the circuit, of the
    full model and of the empty circuit, float [3, pairs];  resampled: analysis/heads/resampling.py.
    (A heads in all, in the order of graph.heads.)
    n_distinct: clusters of pairs that share a prompt; None: all are distinct.  groups: the cluster
    of each pair, None where all are distinct, and in older records, whose draws were of pairs.
    experts: what the tokens were given to, None in a model without experts.  kl: from the base
    on the clean prompts, in nats, float [pairs] (analysis/tracking/distance.py); None where it was
    not measured.  points: of the path, that a pair took in the mean where ig_steps=auto chose them.
    held_out, sizes, gap_metric, gap: as in analysis/tracking/finding.py, None in
    older records.  wide: heads of the base over further pairs too (analysis/tracking/further.py),
    None where there are none.  same: the heads against the base's (analysis/heads/same.py), None
    where they were not compared.  digest: of circuit, resamples and experts, as read from a file;
    empty for a record just made.
    """

    step: int
    graph: Graph
    pairs_hash: str
    settings: dict[str, Any]
    origin: dict[str, Any]
    selection: dict[str, Any]
    completeness_gap: float
    metric_clean: float
    metric_corrupted: float
    n_pairs: int
    seconds: float
    circuit: torch.Tensor
    mean: torch.Tensor
    evaluation: torch.Tensor
    resampled: Resampled
    n_distinct: int | None = None
    points: float | None = None
    groups: list[int] | None = None
    experts: Experts | None = None
    kl: torch.Tensor | None = None
    held_out: torch.Tensor | None = None
    sizes: torch.Tensor | None = None
    gap_metric: str | None = None
    gap: torch.Tensor | None = None
    wide: Wide | None = None
    same: Same | None = None
    digest: str = ""

    @property
    def distinct(self) -> int:
        """Clusters of pairs that share a prompt (analysis/prompts/clusters.py)."""
        if self.groups is not None:
            return len(set(self.groups))
        return self.n_pairs if self.n_distinct is None else self.n_distinct

    @property
    def resamples(self) -> Resampled:
        """`resampled`, cut to row 0 if the pairs can't be resampled (analysis/intervals.py)."""
        tables = vars(self.resampled).values()
        return Resampled(*(resamples_of(table, self.distinct) for table in tables))

    @property
    def heads(self) -> Heads:
        """The heads of the circuit, with their resamples; importance is NaN as in `shares`."""
        r = self.resamples
        strength = r.strength if self.selection["tau"] is None else r.signed
        importance = r.importance if self.adds_up else torch.full_like(r.importance, math.nan)
        return Heads(strength, r.threshold, importance, self.distinct, self._wide(importance))

    def _wide(self, importance: torch.Tensor) -> Heads | None:
        """The heads over further pairs too; None without any."""
        if self.wide is None:
            return None
        signed = self.selection["tau"] is not None
        strength = self.wide.signed if signed else self.wide.strength
        return Heads(strength, self.wide.threshold, importance, self.distinct)

    @property
    def weights(self) -> torch.Tensor:
        """Of the pairs in each resample: [1+R, pairs]."""
        groups = range(self.n_pairs) if self.groups is None else self.groups
        return resample_weights(groups, self.settings["resamples"], self.settings["seed"])

    @property
    def in_circuit(self) -> torch.Tensor:
        """Heads in the circuit: bool [A]."""
        return self.heads.inside[0]

    @property
    def importance(self) -> torch.Tensor:
        """Share of each head in the circuit, by which heads are put in order: float [A]."""
        return self.resampled.importance[0]

    @property
    def adds_up(self) -> bool:
        """Whether sums of the scores are amounts (analysis/attribution/adding_up.py)."""
        return adds_up(self.completeness_gap)

    @property
    def shares(self) -> torch.Tensor:
        """`importance` as an amount that can be shown: float [A], NaN if scores don't add up."""
        found = self.importance
        return found if self.adds_up else torch.full_like(found, math.nan)

    @property
    def n_edges(self) -> int:
        return int(self.circuit.sum())

    def faithfulness(self, held_out: bool = True) -> Estimate:
        """What circuits of this size keep, with a bootstrap interval over pairs.

        held_out: each pair under a circuit that the other half of the pairs ranked, where that was
        measured (analysis/circuits/halves.py); else all under the circuit that all of them ranked.
        """
        weights = resamples_of(self.weights, self.distinct).double()
        circuit, full, empty = (weights @ self.evaluation.T.double()).T
        if held_out and self.held_out is not None:
            circuit = weights @ self.held_out.double()
        return estimate(faithfulness(circuit, full, empty))

    def size(self) -> Estimate | None:
        """Edges of the smallest faithful circuit before pruning, found anew in each resample.

        None where the size was given.
        """
        if self.sizes is None:
            return None
        return estimate(resamples_of(self.sizes.double(), self.distinct))

    def metric_gap(self) -> Estimate:
        """Between corrupted and clean prompts, with a bootstrap interval over pairs.

        In `gap_metric`, or where that is None in the metric of the settings.
        """
        _, full, empty = self.evaluation.double()
        gap = empty - full if self.gap is None else self.gap.double()
        groups = range(self.n_pairs) if self.groups is None else self.groups
        weights = resamples_of(self.weights, self.distinct)
        return mean_gap(gap, weights, groups)

    @property
    def lacks_behaviour(self) -> bool:
        """Whether the gap is not above 0 beyond its sampling error, so that no circuit is there."""
        return self.gap_metric is not None and self.metric_gap().low <= 0

    def without_circuit(self) -> Record:
        """The same of a model that lacks the behaviour: no edge and no head is in."""
        nothing = torch.zeros_like(self.circuit)
        return replace(self, circuit=nothing, resampled=self.resampled.without_circuit, wide=None)

    @property
    def kl_rows(self) -> torch.Tensor | None:
        """KL from the base, the mean over pairs in each resample: float64 [1+R]."""
        if self.kl is None:
            return None
        return resamples_of(self.weights, self.distinct).double() @ self.kl.double()

    def kl_from_base(self) -> Estimate | None:
        """KL from the base in nats, with a bootstrap interval over pairs; None if not measured."""
        rows = self.kl_rows
        return None if rows is None else estimate(rows)

    def depths(self) -> torch.Tensor:
        """Mean number of layers that the circuit's edges out of a head span; NaN outside: [A].

        An edge into the MLP of the head's own layer spans 0, one into the logits the layers left.
        """
        graph = self.graph
        source, destination = graph.edges[self.circuit].T
        span = (graph.destination_layers[destination] - graph.source_layers[source]).double()
        total = torch.zeros(2, graph.n_sources, dtype=torch.float64)
        total.index_add_(1, source, torch.stack([span, torch.ones_like(span)]))
        return (total[0] / total[1])[graph.head_sources]


def mean_gap(gap: torch.Tensor, weights: torch.Tensor, groups: Sequence[int]) -> Estimate:
    """Over the pairs that have one, with an interval where they are of two clusters or more.

    gap: float [pairs], NaN of a pair that has none. weights: [1+R, pairs]. groups: the cluster of
    each pair. Resamples without a pair that has one say nothing and are left out.
    """
    known = ~gap.isnan()
    distinct = len({group for group, is_known in zip(groups, known, strict=True) if is_known})
    rows = resamples_of(weights, distinct).double()
    means = rows @ gap.double().nan_to_num() / (rows @ known.double())
    low, high = percentile(means, skip_nan=True).tolist()
    return Estimate(float(means[0]), low, high)


def check_comparable(a: Record, b: Record) -> None:
    """Raise ValueError, naming the difference, unless two records measure the same thing."""
    for what in COMPARABLE:
        if getattr(a, what) != getattr(b, what):
            if what == "groups":
                raise ValueError(
                    f"the records of steps {a.step} and {b.step} were resampled otherwise: one by "
                    "clusters of pairs that share a prompt, one, by an older version, by pairs; "
                    "track the checkpoints of the older ones again"
                )
            raise ValueError(
                f"the records of steps {a.step} and {b.step} differ in {what} "
                f"({getattr(a, what)} and {getattr(b, what)}), so their heads can't be compared; "
                "track both checkpoints again on the same pairs with the same settings"
            )
