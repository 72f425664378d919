"""Edge attribution patching on Hugging Face modules: (model, pairs) -> one score per edge and pair.

    score(u -> v) = sum over positions of  D_u . sum_k w_k dM/d(input of v) at step k
    D_u = what u writes on the corrupted prompt - what it writes on the clean prompt

M is a metric for which larger is worse (analysis/attribution/metrics.py), so the score is the
first-order change of M when the edge u -> v carries its corrupted value, and a positive score means
that the edge helps. The methods, under the names of the EAP-IG package, differ in where the
gradient is taken:

    EAP                  on the clean prompt                    Syed et al. 2023, arXiv 2310.10348
    EAP-IG-inputs        at points between the corrupted embedding and the clean one, the rest of
                         the clean run following from them      Hanna et al. 2024, arXiv 2403.17806
    EAP-IG-activations   in clean runs in which one block of nodes (the embedding, the heads of one
                         layer, or one MLP) writes a mixture of its two outputs; all blocks in turn
    EAP-IG-mean          the mean of the scores of the two above
    clean-corrupted      the mean of the clean and the corrupted prompt
    CEAP                 as EAP-IG-inputs, each point's gradient with the sources' change over its
                         part of the path                       Wu et al. 2026, arXiv 2606.16920
    GIM                  on the clean prompt, with gradients through softmax, norms and products
                         changed so that they see through self-repair
                                                                Edin et al. 2025, arXiv 2505.17630
    exact                no gradient: M with the one edge patched, less M on the clean prompt

    for how the gradients are summed see analysis/attribution/gradients.py, for how they meet the
    D_u analysis/attribution/contraction.py, for `CEAP` analysis/attribution/ceap.py, for `GIM`
    analysis/attribution/gim.py, for `exact` analysis/attribution/patching.py

Grouped-query attention is exact: the gradient at a shared key or value head is that of the head
itself (grouped), or of each query head's own copy (ungrouped).

Shape legend: B pairs, T positions, S sources, D destinations, E edges, d residual width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import nn
from tqdm.auto import tqdm

from analysis.attribution.ceap import conductance
from analysis.attribution.choosing import AUTO, check_recompute, recomputes
from analysis.attribution.contraction import Contraction, source_differences
from analysis.attribution.edge_scores import EdgeScores
from analysis.attribution.gim import Gim
from analysis.attribution.gradient_run import gradient_run
from analysis.attribution.gradients import GradientSums
from analysis.attribution.memory import Plan, plan
from analysis.attribution.metrics import Metric, metric_named
from analysis.attribution.patching import exact_scores
from analysis.attribution.quadrature import check_path, fewest_points, path_points
from analysis.attribution.refinement import GAP
from analysis.attribution.refiner import Refiner
from analysis.detection.audits import proved
from analysis.detection.detect import anatomy
from analysis.models.allocator import keep_freed_memory
from analysis.models.anatomy import Anatomy, given
from analysis.models.audit import Audit
from analysis.models.copies import ungrouped
from analysis.models.forward import Sources, record_sources, run
from analysis.models.graph import KV
from analysis.models.hooks import Hooks
from analysis.models.preserve import preserved
from analysis.models.routing import ROUTINGS, Routing
from analysis.prompts.pairs import Batch, Pairs

log = logging.getLogger(__name__)

METHODS = (
    *("EAP", "EAP-IG-inputs", "EAP-IG-activations", "EAP-IG-mean", "clean-corrupted"),
    *("CEAP", "GIM", "exact"),
)
MEMORY_BUDGET = 2**32


def attribute(
    model: nn.Module,
    pairs: Pairs,
    method: str = "EAP-IG-inputs",
    metric: str = "kl",
    ig_steps: int | str = 5,
    quadrature: str = "left",
    kv: str = "grouped",
    batch_size: int = 8,
    show_progress: bool = False,
    memory_budget: int = MEMORY_BUDGET,
    parts: Anatomy | None = None,
    routing: str = "free",
    gap: float = GAP,
    recompute: bool | str = AUTO,
) -> EdgeScores:
    """Score every edge of a model's graph on every pair.

    The model keeps its weights, gradients, modes and random states; every hook is removed. Scores
    are accumulated in float32 (float64 for a float64 model) whatever the model's dtype. On a CPU
    the process keeps from now on what it frees (`analysis.models.allocator`).

    Args:
        model: a Hugging Face causal language model, or a PEFT model around one.
        method: one of METHODS.
        metric: one of `analysis.attribution.metrics.METRICS`.
        ig_steps, quadrature: number and kind of the points on the path
            (`analysis.attribution.quadrature`), for the EAP-IG methods and CEAP. `left` is the
            package's sum: for EAP-IG-activations, whose path runs from the clean activations to the
            corrupted ones, it starts at the clean end. `ig_steps="auto"`, of EAP-IG-inputs and
            with `midpoint`: more points where a pair's path needs them
            (`analysis.attribution.refinement`), until its sum misses at most `gap`.
        kv: `grouped`, one edge into a shared key or value head, or `ungrouped`, one for every
            query head that reads it (the EAP-IG package's graph).
        batch_size: pairs in one pass; the result does not depend on it.
        memory_budget: bytes for what the steps leave behind, beyond the model's own passes; long
            batches are contracted after fewer steps and in more blocks of tokens, as the log says.
            The result does not depend on it.
        parts: the model's anatomy, written by hand (docs/tracking.md); detected for None. It
            is held to the same checks.
        routing: of a mixture of experts. `free`: every run chooses its experts, and where the
            choice changes along the path the integral misses a jump. `frozen`: all runs, the
            corrupted prompt's too, choose as the clean one did (`analysis.models.routing`), so
            scores and metrics are those of the model with its experts held, and add up. Other
            models are the same under both.
        gap: of `ig_steps="auto"`: the share of the range of the metric along a pair's path.
        recompute: run each layer twice, so that what all layers keep for their gradient is never
            there at once (`analysis.attribution.recomputation`); `auto`: where it would not fit.
            The result does not depend on it.

    Raises:
        ValueError: unknown method, metric, quadrature, kv, routing or recompute; ids outside the
            vocabulary; a target, foil or label missing; an unsupported architecture; parts that
            are not proved; layers that can't be run twice, with recompute true; scores that are
            not finite.
    """
    check_settings(method, metric, ig_steps, quadrature, kv, batch_size, routing, gap, recompute)
    points = _points_or_gap(method, ig_steps, quadrature, gap)
    parts = proved(model, given(parts, kv) or anatomy(model, kv))
    pairs.check_vocabulary(parts.vocabulary)
    pairs.check_length(parts.max_tokens)
    device = parts.device
    if device.type == "cpu":
        keep_freed_memory()
    choices = Routing.of(parts) if routing == "frozen" else Routing([])
    results: list[_OfBatch] = []
    n_batches = -(-len(pairs) // batch_size)
    silent = None if show_progress else True  # None: silent unless this is a terminal
    with preserved(model), ungrouped(parts):
        twice = recomputes(recompute, parts, pairs, batch_size, memory_budget)
        gim = Gim.of(parts, pairs) if method == "GIM" else None
        parts = parts if gim is None else gim.parts
        todo = pairs.batches(batch_size)
        for batch in tqdm(todo, "attribution", n_batches, leave=False, disable=silent):
            first = not results
            settings = (metric_named(metric), memory_budget, first, choices, gim, twice)
            job = _Job(parts, batch.to(device), *settings)
            results.append(job.scores(method, points))
    if routing == "frozen" and not choices.layers:
        log.info("routing=frozen: no layer chooses among experts, so there is nothing to freeze")
    scores, clean, corrupted, used = (torch.cat(column) for column in zip(*results, strict=True))
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"the scores of pair {bad} are not finite; use a wider dtype")
    return EdgeScores(parts.graph, scores, clean, corrupted, used)


def _points_or_gap(
    method: str, ig_steps: int | str, quadrature: str, gap: float
) -> list[tuple[float, float]] | float:
    """The points of the path, with their weights; or the gap, where they are found on the way."""
    if isinstance(ig_steps, int):
        return path_points(quadrature, ig_steps)
    return float(gap) if method == "EAP-IG-inputs" else []  # which no other needs


def check_settings(
    method: str,
    metric: str,
    ig_steps: int | str,
    quadrature: str,
    kv: str,
    batch_size: int,
    routing: str = "free",
    gap: float = GAP,
    recompute: bool | str = AUTO,
) -> None:
    """Raise ValueError, with what is known, for a setting of `attribute` that is not."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if kv not in KV:
        raise ValueError(f"unknown kv {kv!r}; known: {', '.join(KV)}")
    if routing not in ROUTINGS:
        raise ValueError(f"unknown routing {routing!r}; known: {', '.join(ROUTINGS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a pass needs at least one pair")
    metric_named(metric)
    check_recompute(recompute)
    if method == "GIM" and metric == "kl":
        raise ValueError(
            "GIM takes its gradient on the clean prompt, where that of kl is 0; use logit_diff or "
            "nll, or EAP-IG-inputs"
        )
    check_path(quadrature, ig_steps, method, gap)


def check_ranked(method: str, metric: str) -> None:
    """Raise ValueError for scores that are 0 but for rounding, by which no circuit can be found."""
    if method == "EAP" and metric == "kl":
        raise ValueError("EAP with kl scores every edge 0; use EAP-IG-inputs, or logit_diff")


# scores [B, S, D], clean and corrupted metric [B], points used [B]
_OfBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Job:
    """The attribution of one batch. `first`: check the model on its clean run, and log the plan."""

    parts: Anatomy
    batch: Batch
    metric: Metric
    memory_budget: int
    first: bool
    routing: Routing
    gim: Gim | None = None
    recompute: bool = False

    def scores(self, method: str, points: list[tuple[float, float]] | float) -> _OfBatch:
        """Scores [B, S, D], the clean and corrupted metric and the points used [B], on the CPU.

        points: those of the path, or the gap that is to be left where they are not given.
        """
        if isinstance(points, float):
            return self._refined(points)
        batch, metric = self.batch, self.metric
        path = _embedding_path(method, points)
        sums = GradientSums(self.parts)
        with self.routing.recorded(), nullcontext() if self.gim is None else self.gim.applied():
            clean, clean_logits = self._ends(sums, batch.clean, path.pop(1.0, None), None)
        with self.routing.held():  # in a free one nothing is
            corrupted, logits = self._ends(sums, batch.corrupted, path.pop(0.0, None), clean_logits)
            if method == "exact":
                scores = exact_scores(self.parts, batch, metric, corrupted, clean_logits)
            elif method == "CEAP":
                scores = self._conductance(points, (corrupted, clean), clean_logits)
            else:
                steps = _embedding_steps(path, clean.embedding, corrupted.embedding)
                if method in ("EAP-IG-activations", "EAP-IG-mean"):
                    own = _halved(points) if method == "EAP-IG-mean" else points
                    steps = chain(steps, _activation_steps(self.parts, own, self.batch))
                differences = source_differences(corrupted, clean, batch.mask)
                scores = self._by_gradient(steps, sums, differences, clean_logits)
        m_clean, m_corrupted = (metric(x, clean_logits, batch) for x in (clean_logits, logits))
        taken = fewest_points(method, len(points))
        used = torch.full_like(m_clean, taken, dtype=torch.int64)
        return self._of_batch(scores, m_clean, m_corrupted, used)

    def _of_batch(
        self, scores: torch.Tensor, clean: torch.Tensor, corrupted: torch.Tensor, used: torch.Tensor
    ) -> _OfBatch:
        mask = self.parts.graph.edge_mask.to(scores.device)
        return (scores * mask).cpu(), clean.cpu(), corrupted.cpu(), used.cpu()

    def _refined(self, gap: float) -> _OfBatch:
        """`scores` of EAP-IG-inputs with points where each pair needs them."""
        batch, metric, sums = self.batch, self.metric, GradientSums(self.parts)
        with self.routing.recorded():
            clean, clean_logits = self._ends(sums, batch.clean, None, None)
        with self.routing.held():
            corrupted, logits = self._ends(sums, batch.corrupted, None, clean_logits)
        m_clean, m_corrupted = (metric(x, clean_logits, batch) for x in (clean_logits, logits))
        ends = corrupted.embedding, clean.embedding
        refiner = Refiner(
            *(self.parts, batch, metric, self.routing, self._plan(), gap),
            *(ends, source_differences(corrupted, clean, batch.mask), clean_logits),
            recompute=self.recompute,
        )
        scores, used = refiner.scores(m_corrupted, m_clean)
        return self._of_batch(scores, m_clean, m_corrupted, used)

    def _ends(
        self,
        sums: GradientSums,
        ids: torch.Tensor,
        weight: float | None,
        clean_logits: torch.Tensor | None,
    ) -> tuple[Sources, torch.Tensor]:
        """The clean or the corrupted run: what its sources write, and its logits [N, V].

        With a weight the path has a point here, and the same run's gradients are summed.
        """
        parts, step = self.parts, Hooks() if weight is None else sums.step(weight)
        with torch.set_grad_enabled(weight is not None), step as hooks:
            audit = None
            if self.first and clean_logits is None:
                audit = Audit(parts, hooks, int(self.batch.mask[0].sum()))
            seen = record_sources(hooks, parts)
            if weight is None:
                logits = run(parts, ids, self.batch)
            else:
                logits = self._backward(hooks, ids, None, clean_logits)
        if audit is not None:
            audit.verify(seen)
        return seen, logits

    def _backward(
        self,
        hooks: Hooks,
        ids: torch.Tensor,
        embedding: torch.Tensor | None,
        clean_logits: torch.Tensor | None,
    ) -> torch.Tensor:
        """Forward and backward, to what enters the first layer; the logits [N, V].

        That is the `embedding` [B, T, d], or the tokens' own for None.
        """
        found = gradient_run(
            *(self.parts, self.metric, self.batch, hooks, ids, embedding, clean_logits),
            recompute=self.recompute,
        )
        return found[0]

    def _plan(self) -> Plan:
        """Steps kept before they are contracted, and tokens in a block, that fit the budget."""
        n_pairs, length = self.batch.clean.shape
        made = plan(self.parts, n_pairs, length, self.memory_budget)
        if self.first:
            log.info(
                "attribution of %d pairs of up to %d tokens at a time: up to %d steps are kept "
                "(%.2f GiB each), contracted in blocks of %d tokens (%.2f GiB), to stay within "
                "%.2f GiB",
                *(n_pairs, length, made.steps, made.step / 2**30),
                *(made.tokens, made.block / 2**30, self.memory_budget / 2**30),
            )
        return made

    def _conductance(
        self,
        points: list[tuple[float, float]],
        ends: tuple[Sources, Sources],
        clean_logits: torch.Tensor,
    ) -> torch.Tensor:
        def backward(hooks: Hooks, embedding: torch.Tensor) -> None:
            self._backward(hooks, self.batch.clean, embedding, clean_logits)

        tokens = self._plan().tokens
        return conductance(self.parts, self.batch, points, ends, backward, tokens)

    def _by_gradient(
        self,
        steps: Iterator[_Step],
        sums: GradientSums,
        differences: Sources,
        clean_logits: torch.Tensor,
    ) -> torch.Tensor:
        """Run the remaining steps and contract the summed gradients: [B, S, D]."""
        made = self._plan()
        contraction = Contraction(self.parts, differences, made.tokens)
        shape = len(self.batch.clean), *self.parts.graph.edge_mask.shape
        scores = differences.embedding.new_zeros(shape)
        for step in steps:
            if sums.n_steps >= made.steps:
                contraction.add(sums, scores)
                sums.clear()
            with sums.step(step.weight, step.first_attention) as hooks:
                for module, output in step.writes:
                    hooks.output(module, partial(_instead, output))
                self._backward(hooks, self.batch.clean, step.embedding, clean_logits)
        contraction.add(sums, scores)
        return scores


@dataclass(frozen=True)
class _Step:
    """One run on the clean tokens: what enters the first layer, and what a module writes instead.

    first_attention: the lowest layer whose attention counts as a destination.
    """

    weight: float
    embedding: torch.Tensor
    writes: tuple[tuple[nn.Module, torch.Tensor], ...] = ()
    first_attention: int = 0


def _instead(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """What a module writes in the place of its own output y."""
    return output


def _embedding_path(method: str, points: list[tuple[float, float]]) -> dict[float, float]:
    """Weight of each alpha between the corrupted embedding (0) and the clean one (1)."""
    return {
        "EAP": {1.0: 1.0},
        "GIM": {1.0: 1.0},
        "clean-corrupted": {1.0: 0.5, 0.0: 0.5},
        "EAP-IG-inputs": dict(points),
        "EAP-IG-mean": dict(_halved(points)),
    }.get(method, {})


def _halved(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(at, weight / 2) for at, weight in points]


def _embedding_steps(
    path: dict[float, float], clean: torch.Tensor, corrupted: torch.Tensor
) -> Iterator[_Step]:
    for alpha, weight in path.items():
        yield _Step(weight, torch.lerp(corrupted, clean, alpha))


def _activation_steps(
    parts: Anatomy, points: list[tuple[float, float]], batch: Batch
) -> Iterator[_Step]:
    """The runs of EAP-IG-activations; their weights add up to 1.

    Those that mix the embedding add nothing to the attention of layer 0, as in the package, where
    that embedding is a constant.
    """
    branches = [
        [*([part.branch] for part in block.heads), *([m for m, _ in n.writes] for n in block.nodes)]
        for block in parts.blocks
    ]
    together = [modules for of_layer in branches for modules in of_layer]
    flat = [module for modules in together for module in modules]
    clean, corrupted = (
        _outputs(parts, [parts.layers[0], *flat], ids, batch)
        for ids in (batch.clean, batch.corrupted)
    )
    share = 1 / (1 + len(together))
    for beta, weight in points:
        mixed = torch.lerp(clean[0], corrupted[0], beta)
        yield _Step(weight * share, mixed, first_attention=1)
    first = 1
    for modules in together:
        places = range(first, first + len(modules))
        first = places.stop
        for beta, weight in points:
            outputs = (torch.lerp(clean[place], corrupted[place], beta) for place in places)
            yield _Step(weight * share, clean[0], tuple(zip(modules, outputs, strict=True)))


@torch.no_grad()
def _outputs(
    parts: Anatomy, modules: list[nn.Module], ids: torch.Tensor, batch: Batch
) -> list[torch.Tensor]:
    """What enters the first module, and what the others return, in one run: [B, T, d] each."""
    seen = dict.fromkeys(range(len(modules)), torch.empty(0))
    with Hooks() as hooks:
        hooks.input(modules[0], partial(seen.__setitem__, 0))
        for index, module in enumerate(modules[1:], start=1):
            hooks.output(module, partial(seen.__setitem__, index))
        run(parts, ids, batch)
    return list(seen.values())
