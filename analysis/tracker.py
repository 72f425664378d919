"""One checkpoint -> one record. Knows models, pairs and files, but no trainer.

A callback calls `HeadTracker.track` with the live model; a post-hoc command or a sidecar can call
it with a model loaded from a checkpoint and gets the same record.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from analysis.anatomy import base_model
from analysis.attribution import attribute, check_settings
from analysis.circuits import edge_budget, head_importance, select_edges
from analysis.heads import HeadStates, bootstrap_heads, head_states
from analysis.pairs import Pairs
from analysis.records import Record, read_record, write_json, write_record


@dataclass(frozen=True)
class TrackingSettings:
    """How circuits are found. One of `top_n` (edges) and `fraction` (of all edges) is given.

    Raises:
        ValueError: a value is unknown or out of range, or plain EAP is asked for with the KL
            metric, whose gradient is 0 at the clean prompt so that the ranking would be noise.
    """

    method: str = "EAP-IG-inputs"
    metric: str = "kl"
    ig_steps: int = 6
    quadrature: str = "midpoint"
    kv: str = "grouped"
    batch_size: int = 8
    top_n: int | None = None
    fraction: float | None = 0.05
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            check_settings(
                self.method, self.metric, self.ig_steps, self.quadrature, self.kv, self.batch_size
            )
        except ValueError as error:
            raise ValueError(f"tracking: {error}") from error
        if self.method == "EAP" and self.metric == "kl":
            raise ValueError("EAP with kl scores every edge 0; use EAP-IG-inputs, or logit_diff")
        if (self.top_n is None) == (self.fraction is None):
            raise ValueError("give exactly one of tracking.top_n and tracking.fraction")
        if self.resamples < 2:
            raise ValueError(
                f"tracking.resamples is {self.resamples}; an interval needs at least 2"
            )


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
    """Tracks the heads of one run: `track` makes a record, `states` compares it with the base."""

    def __init__(self, run: Path, pairs: Pairs, settings: TrackingSettings) -> None:
        self.run = run
        self.pairs = freeze_pairs(run, pairs)
        self.settings = settings

    def is_tracked(self, step: int) -> bool:
        return read_record(self.run, step) is not None

    def track(self, model: nn.Module, step: int, show_progress: bool = True) -> Record:
        """Find the circuit of a model and write its record; the model is left as it was."""
        started = time.perf_counter()
        s = self.settings
        scores = attribute(
            model,
            self.pairs,
            s.method,
            s.metric,
            s.ig_steps,
            s.quadrature,
            s.kv,
            s.batch_size,
            show_progress,
        )
        graph, per_pair = scores.graph, scores.per_edge
        budget = edge_budget(graph, s.top_n, s.fraction)
        circuit = select_edges(graph, per_pair.mean(0), budget)
        record = Record(
            step=step,
            graph=graph,
            pairs_hash=self.pairs.hash,
            settings={k: v for k, v in asdict(s).items() if k != "batch_size"},
            model=_describe(model),
            completeness_gap=scores.completeness_gap,
            metric_clean=float(scores.metric_clean.mean()),
            metric_corrupted=float(scores.metric_corrupted.mean()),
            per_pair=per_pair.float(),
            circuit=circuit,
            importance=head_importance(graph, per_pair, circuit).float(),
            bootstrap=bootstrap_heads(graph, per_pair, budget, s.resamples, s.seed),
            seconds=time.perf_counter() - started,
        )
        write_record(self.run, record)
        return record

    def states(self, record: Record) -> HeadStates:
        """Head states of a record against the base, which must have been tracked.

        Raises:
            ValueError: there is no record of step 0.
        """
        base = read_record(self.run, 0)
        if base is None:
            raise ValueError(f"{self.run} has no record of step 0, the base; track the base first")
        return head_states(base.heads, record.heads, base.bootstrap, record.bootstrap)


def _describe(model: nn.Module) -> dict[str, Any]:
    inner = base_model(model)
    return {
        "type": inner.config.model_type,
        "path": str(getattr(inner.config, "_name_or_path", "")),
        "dtype": str(next(inner.parameters()).dtype).removeprefix("torch."),
        "adapter": inner is not model,
    }
