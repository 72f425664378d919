"""What tracking a run will need in memory and time, before any of it is done.

A few of the pairs are measured as a checkpoint's are, part by part, and each part is scaled to all
(analysis/attribution/forecast.py says how). The bootstrap, which does not depend on the model's
speed but on its edges, is run once as it will be, on scores of chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis.attribution.forecast import (
    Forecast,
    check_forecast,
    forecast,
    measured,
    some_of,
    tokens_in,
)
from analysis.heads.attention import pattern_scores
from analysis.heads.copying import copying
from analysis.heads.resampling import resample_heads
from analysis.models.graph import Graph
from analysis.prompts.pairs import Pairs
from analysis.prompts.regions import find_regions
from analysis.tracking.distance import log_probabilities, logits_at_the_end, positions_read
from analysis.tracking.finding import CircuitFinder, FoundCircuit
from analysis.tracking.further import FILE
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.sharing import SharedPairs

NEEDED_RUNS = 23  # of the clean prompts, in each of two models (analysis/interventions/needed.py)


@dataclass(frozen=True)
class TrackingForecast:
    """Seconds of each part of one checkpoint, and what the base and the end take beside that.

    attribution: with the memory. further: the base's further pairs. needed: at the end, if heads
    are called. peak: of the process, whatever part needs it.
    """

    attribution: Forecast
    circuit: float
    roles: float
    bootstrap: float
    further: float
    needed: float
    peak: int

    @property
    def checkpoint(self) -> float:
        """Seconds of one, without its loading."""
        return self.attribution.seconds + self.circuit + self.roles + self.bootstrap

    def run(self, checkpoints: int, loading: float = 0.0) -> float:
        """Seconds of so many checkpoints, the base counted, each of which is loaded."""
        return checkpoints * (self.checkpoint + loading) + self.further + self.needed


def tracking_forecast(
    model: nn.Module, pairs: Pairs, settings: TrackingSettings, run: Path, needed: int | None = None
) -> TrackingForecast:
    """The forecast of a run's checkpoints, of the model of one of them.

    run: whose further pairs are counted, if it has any. needed: as tracking.needed.

    Raises:
        ValueError: as `HeadTracker.track`.
    """
    s, size = settings, settings.batch_size
    found, scores = forecast(model, pairs, **s.of_attribution())
    tried = some_of(pairs, found.tried)
    device = next(model.parameters()).device
    times = tokens_in(pairs, size) / tokens_in(tried, size)
    finder = CircuitFinder(tried, s, SharedPairs(tried, size))
    circuit, seconds, before, peak = measured(lambda: finder.find(model, scores), device)
    _, of_roles, _, _ = measured(lambda: _roles(model, tried, size), device)
    copies = _seconds(lambda: copying(model), device)
    logits = logits_at_the_end(model, tried[0])
    most = positions_read(tried, logits)
    forward = _seconds(lambda: log_probabilities(model, most, logits, tried, size), device)
    bootstrap, of_bootstrap = _bootstrap(scores.graph, len(pairs), circuit, s, device)
    checked = 0
    if s.check_dtype:
        _, checked = check_forecast(model, found, tried, scores, s.of_attribution())
    further = Pairs.load(run / FILE) if (run / FILE).exists() else pairs.further
    per_token = found.seconds / tokens_in(pairs, size)
    return TrackingForecast(
        attribution=found,
        circuit=seconds * times,
        roles=(of_roles + forward) * times + copies,
        bootstrap=bootstrap,
        further=0.0 if further is None else per_token * tokens_in(further, size) + bootstrap,
        needed=0.0 if needed == 0 else 2 * NEEDED_RUNS * forward * times,
        peak=max(found.peak, peak, checked, found.now + of_bootstrap),
    )


def _seconds(act: Any, device: torch.device) -> float:
    return measured(act, device)[1]


def _roles(model: nn.Module, pairs: Pairs, batch_size: int) -> None:
    regions = find_regions(pairs, None)
    pattern_scores(model, pairs, regions.each, batch_size)


def _bootstrap(
    graph: Graph, n_pairs: int, circuit: FoundCircuit, s: TrackingSettings, device: torch.device
) -> tuple[float, int]:
    """Seconds of the bootstrap, and bytes that it takes."""
    generator = torch.Generator().manual_seed(s.seed)
    scores = torch.randn(n_pairs, graph.n_edges, generator=generator)

    def act() -> None:
        resample_heads(graph, scores, circuit.selection, s.resamples, s.seed)

    _, seconds, before, peak = measured(act, torch.device("cpu"))
    return seconds, peak - before
