"""GIM: EAP with gradients that see through self-repair (Edin et al. 2025, arXiv 2505.17630).

One backward pass on the clean prompt, in which

    the softmax of every attention goes back as if its temperature were 2: where attention is
    saturated, plain gradients see nothing of scores that others would make up for;
    the scale of every norm is held fixed;
    a product gives each of two factors half of its gradient: so queries and keys get a quarter,
    values a half, and so do gate and value of a gated MLP.

As in the authors' package the gradient through the softmax is not divided by the temperature. That
package finds a gated MLP and an attention by their names; here every product of two values that
depend on the input is one (analysis/attribution/gim_rules.py), so that fused, grouped and mixed
ones are met as well, gates of attention and the weights of experts too.

KL has no gradient at the clean prompt, so GIM takes logit_diff or nll. Refused are models of which
the rules say nothing: mixers and linear attention, whose recurrence is written as other products in
each implementation; norms of unknown form; attention that runs in a kernel of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from analysis.attribution.gim_rules import applied
from analysis.detection.norms import closed_form
from analysis.models.anatomy import Anatomy, Norm, Reading, Tap, Unsupported
from analysis.models.forward import run
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Pairs, collate

# nodes of autograd in which the scale of a norm is computed
_SCALES = re.compile(
    "(Rsqrt|Std|Var|VarMean|Norm|LinalgVectorNorm|NativeLayerNorm|NativeGroupNorm|NativeBatchNorm|"
    "FusedRmsNorm)Backward[0-9]*"
)
TOKENS = 16  # on which the form of a norm is told


@dataclass(frozen=True)
class Gim:
    """What GIM needs of a model: parts whose norms are frozen, and every norm that there is."""

    parts: Anatomy
    norms: dict[nn.Module, Norm]

    @classmethod
    def of(cls, parts: Anatomy, pairs: Pairs) -> Gim:
        """Found on the first pair, on which the model is run.

        Raises:
            Unsupported: GIM is not defined of this model; one line says where and why.
        """
        for block in parts.blocks:
            _check_block(parts, block.layer)
        return cls(frozen(parts), _look(parts, pairs))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, one run of the model and its gradients follow the rules.

        Raises:
            Unsupported: an attention has no softmax that torch's functions show.
        """
        layers = {part.attention: block.layer for block, part in self.parts.heads}
        with applied(set(layers), self.norms) as rules:
            yield
        for module in layers.keys() - rules.seen:
            raise Unsupported(
                f"GIM: layer {layers[module]}: {type(module).__name__} computes its softmax in a "
                "kernel of its own, whose gradient can't be changed; load the model with "
                "attn_implementation=sdpa or eager"
            )


def frozen(parts: Anatomy) -> Anatomy:
    """The same parts, through whose norms gradients go back with their scale held fixed."""

    def of(part: Any) -> Any:
        return replace(part, norm=_frozen(part.norm)) if isinstance(part.norm, Norm) else part

    blocks = []
    for block in parts.blocks:
        nodes = tuple(replace(node, taps=tuple(map(of, node.taps))) for node in block.nodes)
        blocks.append(replace(block, readings=tuple(map(of, block.readings)), nodes=nodes))
    return replace(parts, blocks=tuple(blocks))


def _frozen(norm: Norm) -> Norm:
    return replace(norm, frozen=True)


def _check_block(parts: Anatomy, layer: int) -> None:
    block, why = parts.blocks[layer], None
    readers: list[Reading | Tap] = [*block.readings, *(t for n in block.nodes for t in n.taps)]
    if any(part.kind != "softmax" for part in block.heads):
        why = "its attention is linear"
    elif any(node.letter == "x" for node in block.nodes):
        why = "it has a mixer of tokens that is no attention"
    elif any(reader.norm is not None and not isinstance(reader.norm, Norm) for reader in readers):
        why = "what stands in a norm's place is neither an RMSNorm nor a LayerNorm"
    if why is not None:
        raise Unsupported(f"GIM is not defined of layer {layer}: {why}; use EAP-IG-inputs")


def _look(parts: Anatomy, pairs: Pairs) -> dict[nn.Module, Norm]:
    """Every norm of the model, found in a run of the first pair's clean prompt.

    Raises:
        Unsupported: what is computed has functions of two values whose products nothing shows.
    """
    norms: dict[nn.Module, Norm] = {}
    known: set[Any] = set()
    batch = collate([pairs[0]]).to(parts.device)

    def look(module: nn.Module, args: Any, y: Any) -> None:
        x = args[0] if args else None
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.shape == y.shape:
            tokens = x.detach().flatten(0, -2)[:TOKENS] if x.ndim > 1 and x.shape[-1] > 1 else None
            form = None if tokens is None else closed_form(module, tokens)
            if form is not None:
                norms[module] = _frozen(form.norm(module))
                known.update(_between(y.grad_fn, x.grad_fn))

    with Hooks() as hooks, torch.enable_grad():
        hooks.input(parts.layers[0], lambda x: x.detach().requires_grad_() + 0)
        for module in parts.causal_lm.modules():
            if not list(module.children()):
                hooks.passed(module, look)
        _check_functions(run(parts, batch.clean, batch), known)
    return norms


def _check_functions(logits: torch.Tensor, known: set[Any]) -> None:
    """That nothing is computed of which the rules could not be kept. known: nodes within norms.

    No function of two values is written in another language: its products could not be seen. No
    norm is computed outside of the modules that are known as norms: its scale would not be held.
    """
    for node in _between(logits.grad_fn, None):
        before = [earlier for earlier, _ in node.next_functions if earlier is not None]
        name = type(node).__name__
        if len(before) > 1 and isinstance(node, torch.autograd.function.BackwardCFunction):
            raise Unsupported(
                f"GIM: {name.removesuffix('Backward')} is an autograd function of {len(before)} "
                "values, whose products can't be seen; load the model without it"
            )
        # a sum of absolute values is no scale of a norm, but of the weights of experts
        if node not in known and _SCALES.fullmatch(name) and getattr(node, "_saved_ord", 2) != 1:
            raise Unsupported(
                f"GIM: a norm ({name.split('Backward')[0]}) is computed where no module is known "
                "as an RMSNorm or a LayerNorm, so that its scale can't be held; use EAP-IG-inputs"
            )


def _between(last: Any, first: Any) -> Iterator[Any]:
    """Autograd's nodes from `last` back to `first`, which is not among them; None: to the end."""
    todo, seen = [last], {None, first}
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += [earlier for earlier, _ in node.next_functions]
