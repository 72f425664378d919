"""What a circuit is measured by: one number a pair, larger = worse.

    kl          KL(clean || patched) of the next-token distribution, in nats. Its gradient vanishes
                at the clean prompt, so plain `EAP` gives exactly 0 with it.
    logit_diff  foil logit - target logit: the logit difference, negated as the EAP-IG package's
                loss form is. A pair whose target has logit 3 and whose foil has logit 1 gives -2;
                corrupting an edge that helps raises it, so that edge's score is positive.
    nll         -log p of the clean continuation, in nats: at position p the label is the clean
                token at p + 1, and the pair's target at the last token.

Each is read at the pair's positions (the last token unless the pair says otherwise) and averaged
over them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from analysis.prompts.pairs import Batch

Metric = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]


def kl(logits_NV: torch.Tensor, clean_NV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """KL divergence KL(clean || patched), in nats: [B]."""
    clean = clean_NV.log_softmax(-1)
    return _per_pair((clean.exp() * (clean - logits_NV.log_softmax(-1))).sum(-1), batch)


def logit_diff(logits_NV: torch.Tensor, clean_NV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Foil logit minus target logit: [B].

    Raises:
        ValueError: a pair has no target or no foil.
    """
    if batch.target_ids is None or batch.foil_ids is None:
        raise ValueError("logit_diff needs a target and a foil in every pair; add them, or use kl")
    ids = torch.stack([batch.foil_ids, batch.target_ids])[:, batch.rows]
    foil, target = logits_NV.gather(1, ids.T).T
    return _per_pair(foil - target, batch)


def nll(logits_NV: torch.Tensor, clean_NV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of the clean continuation, in nats per token: [B].

    Raises:
        ValueError: a position has no next token and its pair no target.
    """
    if batch.labels is None:
        raise ValueError(
            "nll needs the next token at every position: give the pairs a target, or positions "
            "before their last token"
        )
    chosen = logits_NV.log_softmax(-1).gather(1, batch.labels[:, None]).squeeze(1)
    return _per_pair(-chosen, batch)


METRICS: dict[str, Metric] = {"kl": kl, "logit_diff": logit_diff, "nll": nll}


def metric_named(name: str) -> Metric:
    """The metric of that name; ValueError, with the list, if there is none."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


def faithfulness(circuit: torch.Tensor, full: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """(m(C) - m(empty)) / (m(full) - m(empty)) of means over pairs [...]; 0/0 if nothing changes.

    Hanna et al. 2024, arXiv 2403.17806; 1 is the full model, 0 the empty circuit.
    """
    return (circuit - empty) / (full - empty)


def _per_pair(values_N: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean over each pair's positions: [N] -> [B]."""
    n_pairs = len(batch.clean)
    counts = torch.bincount(batch.rows, minlength=n_pairs)
    return values_N.new_zeros(n_pairs).index_add(0, batch.rows, values_N) / counts
