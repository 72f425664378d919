"""The backward rules of GIM (analysis/attribution/gim.py), for the time of a run.

    softmax     of an attention: its gradient is that of T softmax(x / T), T = 2
    products    of two values that both depend on the input: each gets half of its gradient
    norms       of the closed form that is known: r = 1 / rms is held fixed

Values stay as they are. Products are found as torch's functions are called: a gate, attention
weights and values, queries and keys, an expert and its weight. No product are two elementwise
functions of one and the same value, as in x sigmoid(x): that is an activation. Attention in one
function (`scaled_dot_product_attention`) is a softmax between two products.

Shape legend: B pairs, H heads, T positions, e head width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from analysis.models.anatomy import Norm
from analysis.models.hooks import Hooks
from analysis.models.linear import wide

TEMPERATURE = 2.0

_PRODUCTS = {"mul", "multiply", "matmul", "__rmatmul__", "bmm", "mm", "mv", "dot", "outer"}
_PRODUCTS |= {"inner", "tensordot", "einsum", "linear", "bilinear", "ger", "kron", "linalg_matmul"}
_PRODUCTS |= {"linalg_vecdot", "linalg_multi_dot", "cross", "linalg_cross"}
_WITH_A_SUM = {"baddbmm", "addbmm", "addmm", "addmv", "addr", "addcmul"}  # begins with the summand
_WITH_A_SUM |= {f"{name}_" for name in _WITH_A_SUM}
_IN_PLACE = {"mul_", "multiply_"}
_ELEMENTWISE = re.compile(
    "(Mul|Add|Sub|Rsub|Neg|Div|Pow|Exp|Log|Sqrt|Sigmoid|Tanh|Erf|Relu|Gelu|Silu|Mish|Softplus|"
    "Elu|LeakyRelu|Hardtanh|Hardsigmoid|Clamp|ClampMin|ClampMax|ToCopy|Clone|LogSigmoid)Backward[0-9]*"
)


class Rules(TorchFunctionMode):
    """Inside, gradients go back as GIM has them.

    attentions: the modules whose softmax is an attention's. seen: those of which one has run.
    """

    def __init__(self, attentions: set[nn.Module]) -> None:
        super().__init__()
        self._attentions = attentions
        self._inside: list[nn.Module] = []
        self.seen: set[nn.Module] = set()

    def watch(self, hooks: Hooks, norms: dict[nn.Module, Norm]) -> None:
        """Hooks that tell where the run is, and hold the scale of norms fixed."""
        for module in self._attentions:
            hooks.input(module, lambda _, module=module: self._inside.append(module))  # type: ignore[misc]
            hooks.returned(module, lambda _: self._inside.clear())
        for module, norm in norms.items():
            hooks.passed(module, lambda _, args, y, norm=norm: _Norm.apply(args[0], y, norm))  # type: ignore[misc]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if self._inside and name == "softmax":
            self.seen.add(self._inside[-1])
            return _softmax(*args, **kwargs)
        if self._inside and name == "scaled_dot_product_attention":
            self.seen.add(self._inside[-1])
            return _attention(*args, **kwargs)
        if name == "glu":
            return _glu(*args, **kwargs)
        if name == "lerp":
            return _lerp(*args, **kwargs)
        if name in _IN_PLACE:
            return _product_in_place(func, *args)
        if name in _PRODUCTS or name in _WITH_A_SUM:
            args, kwargs = _halves(args, kwargs, int(name in _WITH_A_SUM))
        return func(*args, **kwargs)


def _product_in_place(func: Any, x: torch.Tensor, other: Any) -> torch.Tensor:
    if not (_depends(x) and _depends(other)):
        return func(x, other)
    factors, _ = _halves((x.clone(), other), {}, 0)
    return x.copy_(torch.mul(*factors))


def _halves(args: Any, kwargs: dict[str, Any], first: int) -> tuple[Any, dict[str, Any]]:
    """The arguments, with half of the gradient for each factor, where there are two of them."""
    given = [args[:first], list(args[first:]), kwargs]
    factors = list(_tensors(given[1:]))
    if len(factors) < 2 or _is_activation(factors):
        return args, kwargs
    share = 1 / len(factors)

    def of(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return type(part)(map(of, part))
        return _Share.apply(part, share) if _depends(part) else part

    return (*args[:first], *map(of, args[first:])), {key: of(x) for key, x in kwargs.items()}


def _depends(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and part.requires_grad


def _tensors(part: Any) -> Iterator[torch.Tensor]:
    if isinstance(part, list | tuple):
        for one in part:
            yield from _tensors(one)
    elif isinstance(part, dict):
        yield from _tensors(list(part.values()))
    elif _depends(part):
        yield part


def _is_activation(factors: list[torch.Tensor]) -> bool:
    """Whether all are elementwise functions of one value."""
    known: dict[tuple[int, int], Any] = {}
    origins = [_origin(get_gradient_edge(x)[:2], known) for x in factors]
    return all(node is origins[0][0] and at == origins[0][1] for node, at in origins)


def _origin(edge: tuple[Any, int], known: dict[tuple[int, int], Any]) -> tuple[Any, int]:
    """The value of which this is an elementwise function, as (its node in autograd, which output).

    known: what was found already; it keeps the nodes, whose identity would change.
    """
    node, at = edge
    key = id(node), at
    if key in known:
        found: tuple[Any, int] = known[key][1]
        return found
    known[key] = edge, edge
    if _ELEMENTWISE.fullmatch(type(node).__name__):
        before = [_origin(e, known) for e in node.next_functions if e[0] is not None]
        if before and all(n is before[0][0] and i == before[0][1] for n, i in before):
            known[key] = edge, before[0]
    result: tuple[Any, int] = known[key][1]
    return result


class _Share(torch.autograd.Function):
    """The same value, of which a share of the gradient arrives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, share: float) -> torch.Tensor:
        ctx.share = share
        return x.detach()  # no view of x, which may be changed in place

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.share, None


class _Norm(torch.autograd.Function):
    """What a norm has made of x, with its scale held fixed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, norm: Norm) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.norm = norm
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.norm.pull_back(x, gradients[0]).to(x.dtype), None, None


def _softmax(
    x: torch.Tensor, dim: int, *rest: Any, dtype: torch.dtype | None = None, **_: Any
) -> torch.Tensor:
    dtype = next((part for part in rest if isinstance(part, torch.dtype)), dtype)
    found: torch.Tensor = _Softmax.apply(x, dim, dtype)
    return found


def _through_softmax(x: torch.Tensor, dim: int, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient at x of T softmax(x / T)."""
    p = (x / TEMPERATURE).softmax(dim)
    return p * (gradient - (p * gradient).sum(dim, keepdim=True))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, dtype: torch.dtype | None) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.dim = dim
        return x.softmax(dim, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _through_softmax(wide(x), ctx.dim, wide(gradients[0])).to(x.dtype), None, None


def _lerp(start: torch.Tensor, end: torch.Tensor, weight: Any) -> torch.Tensor:
    """The same value; a weight of the input's is a factor."""
    if not _depends(weight):
        return torch.lerp(start, end, weight)
    factors, _ = _halves((weight, end - start), {}, 0)
    return start + torch.mul(*factors)


def _glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    value, gate = x.chunk(2, dim)
    with_halves, _ = _halves((value, gate.sigmoid()), {}, 0)
    return torch.mul(*with_halves)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    settings = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    found: torch.Tensor = _Attention.apply(query, key, value, attn_mask, settings)
    return found


class _Attention(torch.autograd.Function):
    """Attention of q [B, H, T, e] to k and v [B, H or fewer, T, e]; no T x T matrix is kept."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, mask: Any, settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(q, k, v, mask)
        ctx.settings = settings
        return nn.functional.scaled_dot_product_attention(q, k, v, mask, **settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, mask = ctx.saved_tensors
        scores = q.shape[:-1] + k.shape[-2:-1]
        masks = [None] * len(q) if mask is None else mask.broadcast_to(scores)
        each = [
            _attention_backward(wide(q), wide(k), wide(v), wide(gradient), mask, ctx.settings)
            for q, k, v, gradient, mask in zip(q, k, v, gradients[0], masks, strict=True)
        ]
        *stacked, of_mask = (torch.stack(parts) for parts in zip(*each, strict=True))
        found = [g.to(x.dtype) for g, x in zip(stacked, (q, k, v), strict=True)]
        if ctx.needs_input_grad[3]:  # a mask that the model makes of its input
            return *found, of_mask.sum_to_size(mask.shape).to(mask.dtype), None
        return *found, None, None


def _attention_backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gradient: torch.Tensor,
    mask: torch.Tensor | None,
    settings: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one prompt: at q [H, T, e], at k and v, [H or fewer, T, e], and at the mask, [H, T, T]."""
    group = q.shape[0] // k.shape[0]
    keys, values = (x.repeat_interleave(group, 0) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if settings["scale"] is None else settings["scale"]
    scores = q @ keys.mT * scale
    if settings["is_causal"]:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    of_values = scores.softmax(-1).mT @ gradient / 2
    of_mask = _through_softmax(scores, -1, gradient @ values.mT / 2)
    of_scores = of_mask / 2 * scale

    def shared(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(0, (-1, group)).sum(1)

    return of_scores @ keys, shared(of_scores.mT @ q), shared(of_values), of_mask


@contextmanager
def applied(attentions: set[nn.Module], norms: dict[nn.Module, Norm]) -> Iterator[Rules]:
    """Inside, a run and its gradients follow the rules."""
    with Hooks() as hooks, Rules(attentions) as rules:
        rules.watch(hooks, norms)
        yield rules
