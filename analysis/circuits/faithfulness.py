"""How much of a model's behaviour a circuit keeps when every other edge is ablated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from analysis.attribution.metrics import faithfulness, metric_named
from analysis.attribution.patching import RUN_BYTES, patched_logits
from analysis.circuits.circuit import Circuit
from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Anatomy, given
from analysis.models.audit import check_model
from analysis.models.copies import ungrouped
from analysis.models.forward import Sources, run, source_run
from analysis.models.linear import wide
from analysis.models.preserve import preserved
from analysis.models.unlike import same_edges
from analysis.prompts.pairs import Batch, Pairs

ABLATIONS = ("patch", "zero", "mean")


@dataclass(frozen=True)
class CircuitEvaluation:
    """The metric of a circuit, of the full model and of the empty circuit, for each pair: [pairs].

    The metric is the loss form of analysis/attribution/metrics.py: larger is worse.
    """

    circuit: torch.Tensor
    full: torch.Tensor
    empty: torch.Tensor

    @property
    def faithfulness(self) -> float:
        """Of the means over pairs; NaN if full model and empty circuit measure the same."""
        circuit, full, empty = (m.mean().double() for m in (self.circuit, self.full, self.empty))
        return float(faithfulness(circuit, full, empty)) if full != empty else float("nan")

    def resampled(self, weights: torch.Tensor) -> torch.Tensor:
        """Of means with the weights [rows, pairs] of the pairs: float64 [rows]."""
        rows = (weights @ m.double() for m in (self.circuit, self.full, self.empty))
        return faithfulness(*rows)


def evaluate_circuit(
    model: nn.Module,
    pairs: Pairs,
    circuit: Circuit,
    metric: str = "kl",
    ablation: str = "patch",
    batch_size: int = 8,
    parts: Anatomy | None = None,
) -> CircuitEvaluation:
    """Run the model with the circuit's edges clean and all others ablated.

    parts: the model's anatomy, written by hand; detected for None.

    Raises:
        ValueError: unknown metric or ablation, a circuit of another graph, or anything that
            `attribute` refuses.
    """
    return evaluate_circuits(model, pairs, [circuit], metric, ablation, batch_size, parts)[0]


def evaluate_circuits(
    model: nn.Module,
    pairs: Pairs,
    circuits: Sequence[Circuit],
    metric: str = "kl",
    ablation: str = "patch",
    batch_size: int = 8,
    parts: Anatomy | None = None,
) -> list[CircuitEvaluation]:
    """`evaluate_circuit` for several circuits of one graph, which share the clean runs."""
    if ablation not in ABLATIONS:
        raise ValueError(f"unknown ablation {ablation!r}; known: {', '.join(ABLATIONS)}")
    measure = metric_named(metric)
    kv = circuits[0].graph.kv
    parts = proved(model, given(parts, kv) or anatomy(model, kv))
    for circuit in circuits:
        if not same_edges(circuit.graph, parts.graph):
            raise ValueError(f"the circuit is of {circuit.graph}, the model has {parts.graph}")
    pairs.check_vocabulary(parts.vocabulary)
    pairs.check_length(parts.max_tokens)
    keeps = [circuit.matrix for circuit in circuits]
    keeps.append(torch.zeros_like(keeps[0]))  # the empty circuit
    device = parts.device
    rows = []
    with preserved(model), torch.no_grad(), ungrouped(parts):
        check_model(parts, pairs)
        means = _mean_sources(parts, pairs, batch_size, device) if ablation == "mean" else None
        for batch in pairs.batches(_rows(parts, pairs, batch_size)):
            batch = batch.to(device)
            clean_logits = run(parts, batch.clean, batch)
            ablated = means or _ablated(parts, batch, ablation)
            cuts = [(parts.graph.edge_mask & ~keep).to(device) for keep in keeps]
            values = [measure(clean_logits, clean_logits, batch)]
            for cut in cuts:  # one after another: logits of many positions are large
                logits = patched_logits(parts, batch, cut[None], ablated)
                values.append(measure(logits, clean_logits, batch))
            rows.append(torch.stack(values).cpu())
    full, *of_circuits, empty = torch.cat(rows, 1)
    return [CircuitEvaluation(values, full, empty) for values in of_circuits]


def evaluate_distinct(
    model: nn.Module,
    pairs: Pairs,
    circuits: Sequence[Circuit],
    metric: str = "kl",
    ablation: str = "patch",
    batch_size: int = 8,
) -> list[CircuitEvaluation]:
    """`evaluate_circuits`, where circuits of the same edges are run once."""
    runs = {circuit.edges.numpy().tobytes(): circuit for circuit in circuits}
    found = evaluate_circuits(model, pairs, [*runs.values()], metric, ablation, batch_size)
    values = dict(zip(runs, found, strict=True))
    return [values[circuit.edges.numpy().tobytes()] for circuit in circuits]


def answer_gap(
    model: nn.Module, pairs: Pairs, kv: str = "grouped", batch_size: int = 8
) -> torch.Tensor:
    """How far the clean prompt speaks for its answer more than the corrupted one does: [pairs].

    That is the logit difference of target and foil on the clean prompt, less that on the corrupted
    one; NaN where both begin with the same token.

    Raises:
        ValueError: a pair has no target or no foil, or anything that `evaluate_circuit` raises of
            the model and the pairs.
    """
    measure, parts = metric_named("logit_diff"), proved(model, anatomy(model, kv))
    pairs.check_vocabulary(parts.vocabulary)
    pairs.check_length(parts.max_tokens)
    found = []
    with preserved(model), torch.no_grad():
        for batch in pairs.batches(batch_size):
            batch = batch.to(parts.device)
            clean, corrupted = (run(parts, ids, batch) for ids in (batch.clean, batch.corrupted))
            gap = measure(corrupted, clean, batch) - measure(clean, clean, batch)
            assert batch.target_ids is not None and batch.foil_ids is not None
            same = batch.target_ids.eq(batch.foil_ids)
            found.append(gap.masked_fill(same, torch.nan).cpu())
    return torch.cat(found)


def _rows(parts: Anatomy, pairs: Pairs, batch_size: int) -> int:
    """Pairs in one run: at most `batch_size`, and no more than RUN_BYTES of differences."""
    length = max(len(pair.clean_ids) for pair in pairs)
    one = parts.graph.n_sources * length * parts.width * parts.dtype.itemsize
    return max(1, min(batch_size, RUN_BYTES // one))


def _ablated(parts: Anatomy, batch: Batch, ablation: str) -> Sources:
    if ablation == "patch":
        seen, _ = source_run(parts, batch.corrupted, batch)
        return Sources(wide(seen.embedding), list(map(wide, seen.zr)), list(map(wide, seen.nodes)))
    zero = torch.zeros((), device=batch.clean.device)
    return Sources(zero, [zero] * len(parts.heads), [zero] * len(parts.nodes))


def _mean_sources(parts: Anatomy, pairs: Pairs, batch_size: int, device: torch.device) -> Sources:
    """Mean over the tokens of all clean prompts of what each source writes; padding is left out."""
    totals: list[torch.Tensor] = []
    n_tokens, n_outputs = 0, len(parts.heads)
    for batch in pairs.batches(batch_size):
        batch = batch.to(device)
        seen, _ = source_run(parts, batch.clean, batch)
        keep = batch.mask[..., None]
        sums = [(wide(t) * keep).sum((0, 1)) for t in (seen.embedding, *seen.zr, *seen.nodes)]
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
        n_tokens += int(batch.mask.sum())
    embedding, *rest = [total / n_tokens for total in totals]
    return Sources(embedding, rest[:n_outputs], rest[n_outputs:])
