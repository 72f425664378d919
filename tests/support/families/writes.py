"""What every source of a model writes in a run, by its modules' own code and no formula of norms.

The part of a head is what its columns of the output projection add. Behind a norm, each element of
the whole was multiplied by some number, and so was the part.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from analysis.models.anatomy import Anatomy, Heads, Node, Norm
from analysis.models.hooks import Hooks


@torch.no_grad()
def written(parts: Anatomy, ids: torch.Tensor) -> torch.Tensor:
    """[S, B, T, d], in the units of `parts` (the gauge taken off)."""
    seen: dict[Any, torch.Tensor] = {}
    with Hooks() as hooks:
        hooks.input(parts.layers[0], partial(_keep, seen, "input"))
        for _, heads in parts.heads:
            hooks.input(heads.o_proj, partial(_keep, seen, ("z", heads)))
        for _, _, node in parts.nodes:
            for module, _ in node.writes:
                hooks.output(module, partial(_keep, seen, ("out", module)))
        parts.causal_lm(input_ids=ids, use_cache=False)
    graph, start = parts.graph, seen["input"]
    out = start.new_zeros(graph.n_sources, *start.shape)
    out[0] = start
    for block, heads in parts.heads:
        for head, part in enumerate(_heads(heads, seen["z", heads])):
            out[graph.head_source(block.layer, heads.first + head)] = part.reshape(start.shape)
    for block, index, node in parts.nodes:
        out[graph.node_source(block.layer, index)] = _node(node, seen, start)
    return out


def _keep(seen: dict[Any, torch.Tensor], key: Any, x: torch.Tensor) -> None:
    seen.setdefault(key, x.detach().clone())


def _heads(heads: Heads, z: torch.Tensor) -> list[torch.Tensor]:
    """What each head adds: [..., H e] -> [..., d] each."""
    project = heads.o_proj.forward
    nothing = project(torch.zeros_like(z))
    alone = []
    for head in range(heads.n_heads):
        only = torch.zeros_like(z).unflatten(-1, (heads.n_heads, -1))
        only[..., head, :] = z.unflatten(-1, (heads.n_heads, -1))[..., head, :]
        alone.append(project(only.flatten(-2)) - nothing)
    if heads.linear_after is not None:
        after = heads.linear_after.forward
        alone = [after(part) - after(torch.zeros_like(part)) for part in alone]
    elif heads.after is not None:
        factor = _factor(heads.after, project(z))
        alone = [factor * _centred(heads.after, part) for part in alone]
    return [part * heads.scale for part in alone]


def _factor(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """What a norm multiplies each element of the (centred) x with."""
    y, bias = norm.module.forward(x), getattr(norm.module, "bias", None)
    return (y if bias is None else y - bias) / _centred(norm, x)


def _centred(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True) if norm.centred else x


def _node(node: Node, seen: dict[Any, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    return sum(
        (seen["out", module].reshape(like.shape) * scale for module, scale in node.writes),
        torch.zeros_like(like),
    )
