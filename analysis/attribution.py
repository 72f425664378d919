"""Edge attribution patching on Hugging Face modules: (model, pairs) -> one score per edge and pair.

    score(u -> v) = sum over positions of  D_u . (1/m) sum_k  dM/d(input of v) at x_k
    D_u = output of u on the corrupted prompt - output of u on the clean prompt
    x_k = e_corrupted + (k/m) (e_clean - e_corrupted),  k = 0 .. m-1

x_k is the embedding output of the whole sequence (EAP-IG-inputs, Hanna et al. 2024,
arXiv 2403.17806; the left Riemann sum of their package). EAP (Syed et al. 2023, arXiv 2310.10348)
takes the gradient on the clean prompt alone. M is a metric for which larger is worse (see METRICS),
so the score is the first-order change of M when the edge u -> v carries its corrupted value, and a
positive score means that the edge helps.

A head u = (l, h) writes z_h W_O[h], z the input of `o_proj`. The input of v lies before its norm.
With g the gradient at q_proj's output for one head, W_Q[h] the rows of that head and J the Jacobian
of the norm at the layer's residual, dM/d(input) = J^T W_Q[h]^T g; likewise for k_proj and v_proj,
whose heads are shared by a group of query heads, so that grouped-query attention is exact without
repeating anything. Model code, attention implementation and weights are used as they are.

Shape legend: B pairs, T positions, S sources, D destinations, d residual width, H query heads,
K key/value heads, e head width, V vocabulary. Buffers: `sources` float [B, S, T, d] (the D_u),
`gradients` float [B, D, T, d] (summed over the steps), both contracted once per batch, layer by
layer, because a layer reads only the sources below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from analysis.anatomy import Anatomy, anatomy, linear_map
from analysis.graph import Graph
from analysis.pairs import Batch, Pairs
from analysis.preserve import preserved

METHODS = ("EAP", "EAP-IG-inputs")


def kl(logits_BV: torch.Tensor, clean_BV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """KL divergence KL(clean || patched) of the next-token distributions, in nats: [B].

    Its gradient vanishes at the clean prompt, so the plain `EAP` method gives exactly 0 with it.
    """
    clean = clean_BV.log_softmax(-1)
    return (clean.exp() * (clean - logits_BV.log_softmax(-1))).sum(-1)


def logit_diff(logits_BV: torch.Tensor, clean_BV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Foil logit minus target logit: [B]. The logit difference, negated so that larger is worse.

    A pair whose target has logit 3 and whose foil has logit 1 gives -2; corrupting an edge that
    helps raises it, so that edge's score is positive.
    """
    if batch.target_ids is None or batch.foil_ids is None:
        raise ValueError("logit_diff needs a target and a foil in every pair; add them, or use kl")
    target = logits_BV.gather(1, batch.target_ids[:, None])
    foil = logits_BV.gather(1, batch.foil_ids[:, None])
    return (foil - target).squeeze(1)


Metric = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]
METRICS: dict[str, Metric] = {"kl": kl, "logit_diff": logit_diff}


@dataclass(frozen=True)
class EdgeScores:
    """What `attribute` returns.

    per_pair: score of every edge for every pair, [pairs, S, D], 0 where there is no edge
    metric_clean, metric_corrupted: the metric on the two prompts, [pairs]
    """

    graph: Graph
    per_pair: torch.Tensor
    metric_clean: torch.Tensor
    metric_corrupted: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Mean over pairs: [S, D]."""
        return self.per_pair.mean(0)

    @property
    def per_edge(self) -> torch.Tensor:
        """Scores of the existing edges only, in the order of `graph.edges`: [pairs, E]."""
        return self.per_pair[:, self.graph.edge_mask]

    @property
    def source_names(self) -> list[str]:
        return self.graph.source_names

    @property
    def destination_names(self) -> list[str]:
        return self.graph.destination_names

    @property
    def completeness_gap(self) -> float:
        """|sum of the input's attributions - (M corrupted - M clean)| / |M corrupted - M clean|.

        All means over pairs. The sum over the edges out of `input` is the path integral of the
        gradient along the embedding, so the gap is the error of the quadrature; infinite where the
        metric does not change.
        """
        change = (self.metric_corrupted - self.metric_clean).mean()
        gap = (self.mean[0].sum() - change).abs() / change.abs()
        return float(gap) if change != 0 else float("inf")


def attribute(
    model: nn.Module,
    pairs: Pairs,
    method: str = "EAP-IG-inputs",
    metric: str = "kl",
    ig_steps: int = 5,
    batch_size: int = 8,
    show_progress: bool = False,
) -> EdgeScores:
    """Score every edge of a model's graph on every pair.

    The model keeps its weights, gradients, modes and random states; every hook is removed. Scores
    are accumulated in float32 (float64 for a float64 model) whatever the model's dtype.

    Args:
        model: a Hugging Face causal language model, or a PEFT model around one.
        method: one of METHODS. metric: one of METRICS. ig_steps: m, ignored by EAP.
        batch_size: pairs in one pass; the result does not depend on it.

    Raises:
        ValueError: unknown method or metric, ids outside the vocabulary, a target or foil missing,
            an unsupported architecture, or hooks that do not add up to the residual stream.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if ig_steps < 1 or batch_size < 1:
        raise ValueError(f"ig_steps ({ig_steps}) and batch_size ({batch_size}) must be at least 1")
    parts = anatomy(model)
    pairs.check_vocabulary(int(parts.embedding.num_embeddings))  # type: ignore[arg-type]
    alphas = [1.0] if method == "EAP" else [k / ig_steps for k in range(ig_steps)]
    device = next(model.parameters()).device
    results = []
    n_batches = -(-len(pairs) // batch_size)
    with preserved(model):
        batches = pairs.batches(batch_size)
        silent = None if show_progress else True  # None: silent unless this is a terminal
        for batch in tqdm(batches, "attribution", n_batches, leave=False, disable=silent):
            results.append(_attribute_batch(parts, batch.to(device), METRICS[metric], alphas))
    scores, clean, corrupted = (torch.cat(column) for column in zip(*results, strict=True))
    return EdgeScores(parts.graph, scores, clean, corrupted)


def _attribute_batch(
    parts: Anatomy, batch: Batch, metric: Metric, alphas: list[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores [B, S, D] and the clean and corrupted metric [B] of one batch, on the CPU."""
    clean, clean_logits = _source_pass(parts, batch.clean, batch)
    corrupted, corrupted_logits = _source_pass(parts, batch.corrupted, batch)
    sources = _source_differences(parts, clean, corrupted, batch.mask)
    gradients: torch.Tensor | None = None
    for alpha in alphas:
        embedding = corrupted.embedding + alpha * (clean.embedding - corrupted.embedding)
        step = _destination_gradients(parts, batch, embedding, clean_logits, metric)
        gradients = step if gradients is None else gradients.add_(step)
    assert gradients is not None
    scores = _contract(parts.graph, sources, gradients / len(alphas))
    m_clean = metric(clean_logits, clean_logits, batch)
    m_corrupted = metric(corrupted_logits, clean_logits, batch)
    return scores.cpu(), m_clean.cpu(), m_corrupted.cpu()


@contextmanager
def _hooked(handles: list[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where the tensor is float64 already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _logits(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Run the model; logits at each pair's position: [B, V]."""
    hidden = parts.decoder(
        input_ids=ids, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return _wide(parts.lm_head(hidden[rows, batch.positions]))


@dataclass
class _Outputs:
    """What the sources wrote in one run, and the residual stream they must add up to."""

    embedding: torch.Tensor  # [B, T, d]
    z: list[torch.Tensor]  # per layer, the input of o_proj: [B, T, H * e]
    mlp: list[torch.Tensor]  # per layer: [B, T, d]
    residual: torch.Tensor  # the input of the final norm: [B, T, d]


@torch.no_grad()
def _source_pass(parts: Anatomy, ids: torch.Tensor, batch: Batch) -> tuple[_Outputs, torch.Tensor]:
    seen: dict[str, list[torch.Tensor]] = {"embedding": [], "z": [], "mlp": [], "residual": []}
    handles = [
        parts.embedding.register_forward_hook(lambda m, i, o: seen["embedding"].append(o.detach())),
        parts.final_norm.register_forward_pre_hook(lambda m, i: seen["residual"].append(i[0])),
    ]
    for block in parts.blocks:
        handles += [
            block.o_proj.register_forward_pre_hook(lambda m, i: seen["z"].append(i[0])),
            block.mlp.register_forward_hook(lambda m, i, o: seen["mlp"].append(o)),
        ]
    with _hooked(handles):
        logits = _logits(parts, ids, batch)
    return _Outputs(seen["embedding"][0], seen["z"], seen["mlp"], seen["residual"][0]), logits


def _source_differences(
    parts: Anatomy, clean: _Outputs, corrupted: _Outputs, mask: torch.Tensor
) -> torch.Tensor:
    """D_u of every source, 0 at padded positions: [B, S, T, d]."""
    graph = parts.graph
    difference = _wide(corrupted.embedding) - _wide(clean.embedding)
    B, T, d = difference.shape
    sources = difference.new_zeros(B, graph.n_sources, T, d)
    sources[:, 0] = difference
    for layer, block in enumerate(parts.blocks):
        dz = (_wide(corrupted.z[layer]) - _wide(clean.z[layer])).view(B, T, graph.n_heads, -1)
        W_O = _wide(linear_map(block.o_proj)).view(d, graph.n_heads, parts.head_dim)
        first = graph.head_source(layer, 0)
        sources[:, first : first + graph.n_heads] = torch.einsum("bthe,dhe->bhtd", dz, W_O)
        sources[:, first + graph.n_heads] = _wide(corrupted.mlp[layer]) - _wide(clean.mlp[layer])
    _check_sum(sources, _wide(corrupted.residual) - _wide(clean.residual), clean.embedding.dtype)
    return sources * mask[:, None, :, None]


def _check_sum(sources: torch.Tensor, residual: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse a model whose sources do not add up to its residual stream."""
    error = (sources.sum(1) - residual).abs().max()
    scale = residual.abs().max()
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 0.1
    if not error <= tolerance * scale:
        raise ValueError(
            "the outputs of heads, MLPs and embedding do not add up to the residual stream (off by "
            f"{float(error):.2g} of {float(scale):.2g}): NaN weights, or a model that is not built "
            "from plain pre-norm blocks; attribution would give wrong numbers"
        )


def _destination_gradients(
    parts: Anatomy,
    batch: Batch,
    embedding: torch.Tensor,
    clean_logits: torch.Tensor,
    metric: Metric,
) -> torch.Tensor:
    """Gradient of the metric at the input of every destination, before its norm: [B, D, T, d]."""
    graph = parts.graph
    outputs: list[torch.Tensor] = []  # per layer q, k, v, mlp norm; then the final norm
    residuals: list[torch.Tensor] = []  # per layer: input of attention norm, of MLP norm; final
    start = embedding.detach().requires_grad_()

    def keep_output(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        outputs.append(output)

    def keep_input(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        residuals.append(_wide(args[0].detach()))

    handles = [parts.embedding.register_forward_hook(lambda m, i, o: start)]
    for block in parts.blocks:
        for norm in (block.attention_norm, block.mlp_norm):
            handles.append(norm.register_forward_pre_hook(keep_input))
        for module in (block.q_proj, block.k_proj, block.v_proj, block.mlp_norm):
            handles.append(module.register_forward_hook(keep_output))
    handles.append(parts.final_norm.register_forward_pre_hook(keep_input))
    handles.append(parts.final_norm.register_forward_hook(keep_output))
    with _hooked(handles), torch.enable_grad():
        loss = metric(_logits(parts, batch.clean, batch), clean_logits, batch).sum()
        grads = [_wide(g) for g in torch.autograd.grad(loss, outputs)]

    B, T, d = start.shape
    gradients = grads[0].new_empty(B, graph.n_destinations, T, d)
    for layer, block in enumerate(parts.blocks):
        g_q, g_k, g_v, g_mlp = grads[4 * layer : 4 * layer + 4]
        at_norm = torch.cat(
            [
                _to_norm(g, linear_map(projection), parts.head_dim)
                for g, projection in ((g_q, block.q_proj), (g_k, block.k_proj), (g_v, block.v_proj))
            ],
            dim=1,
        )
        first = layer * graph.layer_width
        last = first + graph.layer_width - 1
        gradients[:, first:last] = _norm_vjp(block.attention_norm, residuals[2 * layer], at_norm)
        at_mlp = _norm_vjp(block.mlp_norm, residuals[2 * layer + 1], g_mlp[:, None])
        gradients[:, last : last + 1] = at_mlp
    gradients[:, -1:] = _norm_vjp(parts.final_norm, residuals[-1], grads[-1][:, None])
    return gradients


def _to_norm(g: torch.Tensor, weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """W[h]^T g[h] of every head of a projection: g [B, T, h * e], W [h * e, d] -> [B, h, T, d]."""
    B, T, _ = g.shape
    per_head = _wide(weight).view(-1, head_dim, weight.shape[1])
    return torch.einsum("bthe,hed->bhtd", g.view(B, T, -1, head_dim), per_head)


def _norm_vjp(norm: nn.Module, residual_BTd: torch.Tensor, g_BNTd: torch.Tensor) -> torch.Tensor:
    """J^T g for N gradients at once, J the Jacobian of the norm at the residual: [B, N, T, d]."""
    with torch.enable_grad():
        x = residual_BTd[:, None].expand_as(g_BNTd).clone().requires_grad_()
        (vjp,) = torch.autograd.grad(norm(x), x, g_BNTd)
    return vjp


def _contract(graph: Graph, sources: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Sum over positions and d of D_u . g_v for every edge u -> v: [B, S, D]."""
    u, v = sources.flatten(2), gradients.flatten(2)
    scores = sources.new_zeros(u.shape[0], graph.n_sources, graph.n_destinations)

    def fill(n_sources: int, first: int, last: int) -> None:
        scores[:, :n_sources, first:last] = u[:, :n_sources] @ v[:, first:last].mT

    for layer in range(graph.n_layers):
        start = layer * graph.layer_width
        mlp = start + graph.layer_width - 1
        fill(graph.attention_sources(layer), start, mlp)
        fill(graph.mlp_sources(layer), mlp, mlp + 1)
    fill(graph.n_sources, graph.n_destinations - 1, graph.n_destinations)
    return scores
