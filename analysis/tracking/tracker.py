"""One checkpoint -> one record. Knows models, pairs and files, but no trainer.

A callback calls `HeadTracker.track` with the live model; `headlab track` calls it with a
model loaded from a checkpoint and gets the same record.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from analysis.attribution.eap import attribute
from analysis.attribution.edge_scores import EdgeScores
from analysis.circuits.circuit import Circuit, edge_budget
from analysis.circuits.faithfulness import CircuitEvaluation, evaluate_circuit
from analysis.files import write_json
from analysis.heads.attention import PATTERN_SCORES, copying, pattern_scores
from analysis.heads.resampling import Selection, resample_heads, select
from analysis.heads.roles import summarise, write_roles
from analysis.models.anatomy import anatomy
from analysis.models.graph import Graph, short_head_name
from analysis.models.provenance import describe
from analysis.prompts.pairs import Pairs
from analysis.prompts.regions import find_regions
from analysis.records.record import Record, is_recorded, write_invalid, write_record
from analysis.tracking import distributed
from analysis.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

RESOLUTION = 1.05  # the smallest faithful circuit is found up to this factor in edges


def freeze_pairs(run: Path, pairs: Pairs) -> Pairs:
    """Save a run's pairs with their hash, or check that they are those already saved.

    Raises:
        ValueError: the run was started with other pairs.
    """
    path = run / "pairs.jsonl"
    if path.exists():
        saved = Pairs.load(path)
        if saved.hash != pairs.hash:
            raise ValueError(
                f"{path} holds other pairs (hash {saved.hash}) than this configuration gives "
                f"({pairs.hash}); circuits would not be comparable. Restore the pairs' settings, "
                "or start a run under another name"
            )
        return saved
    run.mkdir(parents=True, exist_ok=True)
    pairs.save(path)
    write_json(run / "pairs.json", {"hash": pairs.hash, "pairs": len(pairs)})
    return pairs


class HeadTracker:
    """Tracks the heads of one run: `track` makes the record of a checkpoint.

    In a distributed run every rank has a tracker, with the same pairs, and rank 0 alone writes.
    """

    def __init__(
        self, run: Path, pairs: Pairs, settings: TrackingSettings, tokenizer: Any = None
    ) -> None:
        """tokenizer: tells which tokens the roles of heads are about (prompts/regions.py)."""
        self.run = run
        self.pairs = freeze_pairs(run, pairs) if distributed.rank() == 0 else pairs
        self.settings = settings
        self._batch_size = settings.batch_size  # lowered where memory runs out
        self._tokenizer = tokenizer

    def is_tracked(self, step: int) -> bool:
        return is_recorded(self.run, step)

    def track(self, model: nn.Module, step: int, show_progress: bool = True) -> Record | None:
        """Find the circuit of a model and write its record; the model is left as it was.

        To be called by all ranks of a distributed run, with the same whole weights: they share the
        pairs, and the record is that of one process to float tolerance. Returned on rank 0.

        None, with a warning and a record marked invalid, if the model's weights or its scores are
        not finite. Where memory runs out, the batch is halved, which does not change the result.
        What the roles of heads raise is raised after the record is written.
        """
        started = time.perf_counter()
        s = self.settings
        if broken := not_finite(model):
            self._invalid(model, step, f"{broken} is not finite")
            return None
        scores = self._attribute(model, show_progress and distributed.rank() == 0)
        if not scores.per_edge.isfinite().all():
            self._invalid(model, step, "the scores of some edges are not finite")
            return None
        graph, mean = scores.graph, scores.per_edge.float().mean(0)

        def evaluate(circuit: torch.Tensor) -> CircuitEvaluation:
            return self._evaluate(model, Circuit(graph, circuit))

        if s.faithful is None:
            size = edge_budget(graph, s.top_n, s.fraction)
        else:
            size = smallest_faithful(graph, mean, s.faithful, s.tau, evaluate)
        selection = Selection(size, s.tau)
        circuit = select(graph, mean, selection)
        found = evaluate(circuit)

        def write() -> Record | None:
            if distributed.rank() != 0:
                return None
            return self._write(
                step, scores, selection, circuit, found, describe(model, self.run), started
            )

        failed: Exception | None = None
        try:  # before the record, which says that the step is done
            self._track_roles(model, step)
        except Exception as error:  # must not cost the record
            failed = error
        record = distributed.together(write)
        if failed is not None:
            raise failed
        return record

    def _write(
        self,
        step: int,
        scores: EdgeScores,
        selection: Selection,
        circuit: torch.Tensor,
        found: CircuitEvaluation,
        origin: dict[str, Any],
        started: float,
    ) -> Record:
        """Resample, and write the record of a step whose measuring began at `started`."""
        s = self.settings
        graph, per_pair = scores.graph, scores.per_edge.float()
        if not circuit.any():
            log.warning(
                "the circuit of step %d is empty: no path of edges from the input to the logits%s",
                step,
                "" if s.tau is None else f" with scores of at least tracking.tau={s.tau}",
            )
        record = Record(
            step=step,
            graph=graph,
            pairs_hash=self.pairs.hash,
            settings=s.of_record(),
            origin=origin,
            selection=asdict(selection),
            completeness_gap=scores.completeness_gap,
            metric_clean=float(scores.metric_clean.mean()),
            metric_corrupted=float(scores.metric_corrupted.mean()),
            n_pairs=len(self.pairs),
            circuit=circuit,
            mean=per_pair.mean(0),
            evaluation=torch.stack([found.circuit, found.full, found.empty]).float(),
            resampled=resample_heads(graph, per_pair, selection, s.resamples, s.seed),
            seconds=time.perf_counter() - started,
        )
        write_record(self.run, record, per_pair)
        return record

    def _attribute(self, model: nn.Module, show_progress: bool) -> EdgeScores:
        """The scores of all pairs, each of which one rank has computed."""
        s = self.settings
        graph = anatomy(model, s.kv).graph

        def measure(pairs: Pairs, batch_size: int) -> list[torch.Tensor]:
            scores = attribute(
                model,
                pairs,
                s.method,
                s.metric,
                s.ig_steps,
                s.quadrature,
                s.kv,
                batch_size,
                show_progress,
            )
            return [scores.per_edge, scores.metric_clean, scores.metric_corrupted]

        per_edge, clean, corrupted = self._shared(measure, [graph.n_edges, 1, 1])
        per_pair = per_edge.new_zeros(len(self.pairs), *graph.edge_mask.shape)
        per_pair[:, graph.edge_mask] = per_edge
        return EdgeScores(graph, per_pair, clean.squeeze(1), corrupted.squeeze(1))

    def _evaluate(self, model: nn.Module, circuit: Circuit) -> CircuitEvaluation:
        """What the circuit keeps of the metric, pair by pair."""

        def measure(pairs: Pairs, batch_size: int) -> list[torch.Tensor]:
            found = evaluate_circuit(
                model, pairs, circuit, self.settings.metric, batch_size=batch_size
            )
            return [found.circuit, found.full, found.empty]

        found = self._shared(measure, [1, 1, 1])
        return CircuitEvaluation(*(values.squeeze(1) for values in found))

    def _track_roles(self, model: nn.Module, step: int) -> None:
        """Write what the heads attend to and copy on the clean prompts."""
        names = [short_head_name(name) for name in anatomy(model).graph.head_names]
        regions = distributed.together(lambda: find_regions(self.pairs, self._tokenizer))
        mine = [regions.each[row] for row in distributed.my_rows(len(self.pairs))]

        def measure(pairs: Pairs, batch_size: int) -> list[torch.Tensor]:
            return [pattern_scores(model, pairs, mine, batch_size)]

        [scores] = self._shared(measure, [len(PATTERN_SCORES) * len(names)])

        def write() -> None:
            if distributed.rank() == 0:
                per_pair = scores.unflatten(1, (len(PATTERN_SCORES), -1))
                sample = self.settings.resamples, self.settings.seed
                roles = summarise(per_pair, copying(model), names, regions.unit, *sample)
                write_roles(self.run, step, self.pairs.hash, roles)

        distributed.together(write)

    def _shared(
        self, measure: Callable[[Pairs, int], list[torch.Tensor]], widths: list[int]
    ) -> list[torch.Tensor]:
        """`measure(pairs, batch size)`, of which each rank does some pairs: [pairs, width] each."""
        rows = distributed.my_rows(len(self.pairs))

        def mine() -> torch.Tensor:
            if not rows:
                return torch.empty(0, sum(widths), dtype=torch.float64)
            share = Pairs([self.pairs[row] for row in rows])
            found = self._halving(lambda size: measure(share, size))
            return torch.cat([x.reshape(len(rows), -1).double() for x in found], 1)

        measured = distributed.together(mine)
        return list(distributed.all_rows(measured, len(self.pairs)).split(widths, 1))

    def _halving(self, measure: Callable[[int], T]) -> T:
        """`measure(batch size)`, with the batch halved as long as memory runs out."""
        while True:
            try:
                return measure(self._batch_size)
            except RuntimeError as error:
                if not out_of_memory(error) or self._batch_size == 1:
                    raise
            self._batch_size //= 2
            log.warning("out of memory; going on with batches of %d pairs", self._batch_size)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _invalid(self, model: nn.Module, step: int, reason: str) -> None:
        if distributed.rank() == 0:
            log.warning("step %d has no circuit: %s; its record is marked invalid", step, reason)
            write_invalid(self.run, step, reason, describe(model, self.run))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU, whose error has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def not_finite(model: nn.Module) -> str | None:
    """Name of a parameter with a NaN or an infinity, or None."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            return name
    return None


def smallest_faithful(
    graph: Graph,
    mean: torch.Tensor,
    target: float,
    tau: float | None,
    evaluate: Callable[[torch.Tensor], CircuitEvaluation],
) -> int:
    """How many top edges reach a faithfulness, up to a factor of RESOLUTION, by bisection on log n.

    Faithfulness need not rise with every edge, so smaller circuits that reach it by luck may exist.
    If even all edges (those of at least tau) do not reach it, all are taken, with a warning.
    """

    def reaches(size: int) -> bool:
        return evaluate(select(graph, mean, Selection(size, tau))).faithfulness >= target

    low, high = 1, graph.n_edges
    if not reaches(high):
        log.warning("no circuit reaches a faithfulness of %s; all edges are taken", target)
        return high
    while high > low * RESOLUTION and high > low + 1:
        middle = round(math.sqrt(low * high))
        middle = min(max(middle, low + 1), high - 1)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
