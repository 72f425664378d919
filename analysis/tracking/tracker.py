"""One checkpoint -> one record. Knows models, pairs and files, but no trainer.

A callback calls `HeadTracker.track` with the live model; `headlab track` calls it with a
model loaded from a checkpoint and gets the same record.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from analysis.attribution.eap import attribute
from analysis.attribution.edge_scores import EdgeScores
from analysis.attribution.precision import Precision, check_dtype
from analysis.detection.detect import anatomy
from analysis.files import atomic_write, write_json
from analysis.heads.resampling import Wide, resample_heads, resample_weights, resample_wide
from analysis.heads.sample import sample_note
from analysis.intervals import resamples_of
from analysis.models.anatomy import base_model
from analysis.models.graph import Graph
from analysis.models.linear import wide
from analysis.models.onload import packed, weights_of
from analysis.models.provenance import describe
from analysis.prompts.pairs import Pairs
from analysis.records.record import Record, mean_gap
from analysis.records.record_files import (
    is_recorded,
    write_invalid,
    write_record,
)
from analysis.tracking import distributed
from analysis.tracking.beside import Beside, Measured, kl_from_base
from analysis.tracking.finding import CircuitFinder, FoundCircuit
from analysis.tracking.further import FILE as FURTHER
from analysis.tracking.further import freeze_further, further_pairs
from analysis.tracking.same_heads import same_as_base
from analysis.tracking.settings import AUTO, FREE, TrackingSettings
from analysis.tracking.sharing import SharedPairs, out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
T = TypeVar("T")


def freeze_pairs(run: str | Path, pairs: Pairs) -> Pairs:
    """Save a run's pairs with their hash, or check that they are those already saved.

    Raises:
        ValueError: the run was started with other pairs.
    """
    run = Path(run)
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
    with atomic_write(path) as draft:  # other ranks may look
        pairs.save(draft)
    about = {} if pairs.about is None else {"about": pairs.about}
    if pairs.further is not None and not (run / FURTHER).exists():
        about["further"] = pairs.further.hash
    write_json(run / "pairs.json", {"hash": pairs.hash, "pairs": len(pairs), **about})
    return pairs


def graph_of_heads(model: nn.Module, kv: str = "grouped") -> Graph:
    """The graph of a model whose heads are to be tracked.

    Raises:
        ValueError: it has no heads, or as `analysis.detection.detect.anatomy`.
    """
    graph = anatomy(model, kv).graph
    if not graph.heads:
        raise ValueError(
            f"{type(base_model(model)).__name__} has no attention heads to track; its edges can "
            "be attributed (headlab attribute)"
        )
    return graph


class HeadTracker:
    """Tracks the heads of one run: `track` makes the record of a checkpoint.

    In a distributed run every rank has a tracker, with the same pairs, and only rank 0 writes.
    """

    def __init__(
        self,
        run: str | Path,
        pairs: Pairs,
        settings: TrackingSettings,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """tokenizer: tells which tokens the roles of heads are about (prompts/regions.py)."""
        self.run = Path(run)
        self.pairs = pairs
        self.settings = settings
        self._shared = SharedPairs(pairs, settings.batch_size)
        self._finder = CircuitFinder(pairs, settings, self._shared)
        self._beside = Beside(self.run, settings, self._shared, tokenizer)
        self._tokenizer = tokenizer
        self._started = False
        self._checked: Precision | None = None
        self._to_check = settings.check_dtype

    def start(self) -> None:
        """Freeze the pairs in the run's directory; `track` does it where it was not done before.

        To be called before anything that is lost if the pairs are wrong.

        Raises:
            ValueError: the run was started with other pairs; on rank 0.
        """
        if not self._started and distributed.rank() == 0:
            freeze_pairs(self.run, self.pairs)
            freeze_further(self.run, self.pairs.further, self._tokenizer)
            if note := sample_note(len(self.pairs), self.pairs.n_distinct):
                log.warning(note)
        self._started = True

    def is_tracked(self, step: int) -> bool:
        return is_recorded(self.run, step)

    def track(self, model: nn.Module, step: int, show_progress: bool = True) -> Record | None:
        """Find the circuit of a model and write its record; the model is left as it was.

        To be called by all ranks of a distributed run, with the same whole weights: they share the
        pairs, and the record is that of one process to float tolerance. Returned on rank 0.

        None, with a warning and a record marked invalid, if the model's weights or its scores are
        not finite. Where memory runs out, the batch is halved, which does not change the result.
        What the roles of heads or the routing raise is raised after the record is written.

        Raises:
            ValueError: the run was started with other pairs, or anything that `attribute` refuses.
        """
        began = time.perf_counter()
        graph_of_heads(model, self.settings.kv)  # before anything is written
        distributed.together(self.start)
        if broken := not_finite(model):
            self._write_invalid(model, step, f"{broken} is not finite")
            return None
        scores = self._attribute(model, show_progress and distributed.rank() == 0)
        if not scores.per_edge.isfinite().all():
            self._write_invalid(model, step, "the scores of some edges are not finite")
            return None
        distributed.together(partial(self._check_dtype, model, scores))
        found = self._finder.find(model, scores)
        # before the record, which says that the step is done
        beside = self._beside.measure(model, step)
        wide = self._over_further(model, scores, found) if step == 0 else None
        write = partial(self._write, model, step, scores, found, beside, wide, began)
        record = distributed.together(write)
        if beside.failed:
            raise beside.failed[0]
        return record

    def _over_further(
        self, model: nn.Module, scores: EdgeScores, found: FoundCircuit
    ) -> Wide | None:
        """On rank 0, the heads of the base over further pairs too.

        None where there are no pairs, and for a base without a circuit, whose heads are all out.
        """
        further = further_pairs(self.run, self.pairs.further, self._tokenizer)
        if further is None or self._lacks_behaviour(found):
            return None
        s, graph = self.settings, scores.graph
        more, *_ = self._scores_of(SharedPairs(further, s.batch_size), model, graph, False)
        if distributed.rank() != 0 or not more.isfinite().all():
            return None
        return resample_wide(
            *(graph, scores.per_edge.float(), more.float(), found.selection, s.resamples, s.seed),
            groups=(self.pairs.groups, further.groups),
            sizes=found.sizes,
        )

    def _lacks_behaviour(self, found: FoundCircuit) -> bool:
        """As `Record.lacks_behaviour` of the record that is to be."""
        s, pairs, evaluation = self.settings, self.pairs, found.evaluation
        if found.gap_metric is None:
            return False
        gap = evaluation.empty.float().double() - evaluation.full.float().double()
        weights = resample_weights(pairs.groups, s.resamples, s.seed)
        gap = gap if found.gap is None else found.gap.double()
        weights = resamples_of(weights, pairs.n_distinct)
        return mean_gap(gap, weights, pairs.groups).low <= 0

    def _scores_of(
        self, shared: SharedPairs, model: nn.Module, graph: Graph, show_progress: bool
    ) -> list[torch.Tensor]:
        """Scores of the edges [pairs, E]; clean and corrupted metric, points used [pairs, 1]."""
        measure = partial(_edge_scores, model, self.settings, show_progress)
        return shared.measure(measure, [graph.n_edges, 1, 1, 1])

    def _attribute(self, model: nn.Module, show_progress: bool) -> EdgeScores:
        """The scores of all pairs, each of which one rank has computed."""
        graph = graph_of_heads(model, self.settings.kv)
        scores = self._scores_of(self._shared, model, graph, show_progress)
        per_edge, clean, corrupted, points = scores
        per_pair = per_edge.new_zeros(len(self.pairs), *graph.edge_mask.shape)
        per_pair[:, graph.edge_mask] = per_edge
        return EdgeScores(
            graph, per_pair, clean.squeeze(1), corrupted.squeeze(1), points.squeeze(1).long()
        )

    def _check_dtype(self, model: nn.Module, scores: EdgeScores) -> None:
        """On rank 0, at the first step that is tracked, if it is asked for."""
        if not self._to_check or distributed.rank() != 0:
            return
        self._to_check = False
        try:
            self._checked = check_dtype(model, self.pairs, scores, **self.settings.of_attribution())
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            log.warning("check_dtype: there is no memory for the weights in float32")

    def _write(
        self,
        model: nn.Module,
        step: int,
        scores: EdgeScores,
        found: FoundCircuit,
        beside: Measured,
        wide: Wide | None,
        began: float,
    ) -> Record | None:
        """On rank 0, resample, and write the record of a step whose measuring began at `began`."""
        if distributed.rank() != 0:
            return None
        s, origin = self.settings, describe(model, self.run)
        if self._checked is not None:
            origin["precision"], self._checked = asdict(self._checked), None
        graph, per_pair = scores.graph, scores.per_edge.float()
        evaluation = found.evaluation
        if not found.edges.any():
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
            selection=asdict(found.selection),
            completeness_gap=scores.completeness_gap,
            metric_clean=float(scores.metric_clean.mean()),
            metric_corrupted=float(scores.metric_corrupted.mean()),
            n_pairs=len(self.pairs),
            n_distinct=self.pairs.n_distinct,
            groups=self.pairs.groups if self.pairs.n_distinct < len(self.pairs) else None,
            circuit=found.edges,
            mean=per_pair.mean(0),
            evaluation=torch.stack([evaluation.circuit, evaluation.full, evaluation.empty]).float(),
            resampled=resample_heads(
                *(graph, per_pair, found.selection, s.resamples, s.seed),
                groups=self.pairs.groups,
                sizes=found.sizes,
            ),
            held_out=found.held_out,
            sizes=found.sizes,
            points=self._points(step, scores),
            gap_metric=found.gap_metric,
            gap=found.gap,
            experts=beside.experts,
            kl=kl_from_base(self.run, step, self.pairs, beside.log_probs),
            wide=wide,
            same=same_as_base(self.run, step, graph, beside.kept, self.pairs.groups, s),
            seconds=time.perf_counter() - began,
        )
        if record.lacks_behaviour:
            gap = record.metric_gap()
            log.warning(
                "step %d has no circuit: the model does not show the behaviour on these pairs, as "
                "the %s of corrupted and clean prompts differs by %.3g [%.3g, %.3g], not above 0",
                *(step, record.gap_metric, gap.value, gap.low, gap.high),
            )
            record = record.without_circuit()
        of_base = (beside.log_probs, beside.kept) if step == 0 else (None, None)
        write_record(self.run, record, per_pair, *of_base)
        return record

    def _points(self, step: int, scores: EdgeScores) -> float | None:
        """Of ig_steps=auto: how many a pair took, in the mean; told, and whether they do."""
        s, points = self.settings, scores.points
        if s.ig_steps != AUTO or s.method != "EAP-IG-inputs" or points is None:
            return None
        mean = float(points.double().mean())
        log.info(
            "step %d: %.1f points of the path a pair (at most %d), completeness gap %.2f %%",
            *(step, mean, points.max(), 100 * scores.completeness_gap),
        )
        if scores.completeness_gap > s.gap:
            log.warning(
                "the scores of step %d miss %.1f %% of the metric's change, more than "
                "tracking.gap=%s%s",
                *(step, 100 * scores.completeness_gap, s.gap),
                "" if s.routing != FREE else "; where experts are chosen, see tracking.routing",
            )
        return mean

    def _write_invalid(self, model: nn.Module, step: int, reason: str) -> None:
        """On rank 0, say and write that a step can't be measured."""
        if distributed.rank() == 0:
            log.warning("step %d has no circuit: %s; its record is marked invalid", step, reason)
            write_invalid(self.run, step, reason, describe(model, self.run))


def _edge_scores(
    model: nn.Module, s: TrackingSettings, show_progress: bool, pairs: Pairs, batch_size: int
) -> list[torch.Tensor]:
    """Scores of the edges [pairs, E], clean and corrupted metric and points used [pairs]."""
    how = s.of_attribution() | {"batch_size": batch_size}
    scores = attribute(model, pairs, show_progress=show_progress, **how)
    assert scores.points is not None
    return [scores.per_edge, scores.metric_clean, scores.metric_corrupted, scores.points]


def not_finite(model: nn.Module) -> str | None:
    """Name of a parameter with a NaN or an infinity, or None."""
    for name, weight in weights_of(model):
        with weight.read() as tensor:
            for part in packed(tensor):
                if part.is_floating_point() and not bool(wide(part).isfinite().all()):
                    return name
    return None
