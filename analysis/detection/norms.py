"""Whether a module is an RMSNorm or a LayerNorm: its closed form, held against what it computes.

Or at least a map of each token by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from analysis.models.anatomy import Norm, Unsupported, in_force
from analysis.models.linear import wide
from analysis.models.maps import Map

_USUAL = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)  # where a norm has no attribute for eps


@dataclass(frozen=True)
class NormForm:
    """gain * centred(x) * r + bias, where gain is weight + offset, or 1 without a weight.

    eps: the name of the attribute with it, or the number where there is none.
    """

    weight: str | None
    offset: float
    centred: bool
    eps: str | float

    def norm(self, module: Any) -> Norm:
        """The norm as a module has it now."""
        module = in_force(module)
        eps = getattr(module, self.eps) if isinstance(self.eps, str) else self.eps
        return Norm(module, float(eps), self.offset, self.centred, self.weight)


def tolerance(dtype: torch.dtype) -> float:
    """By how much two ways to compute one number may differ, as a share of it."""
    return {torch.bfloat16: 2e-2, torch.float16: 4e-3}.get(dtype, 1e-5)


@torch.no_grad()
def closed_form(module: Any, x: torch.Tensor) -> NormForm | None:
    """The closed form of a module that is a norm, or None; x are inputs it has had: [..., d]."""
    module = in_force(module)
    if any(part.ndim > 1 for part in module.parameters()) or not hasattr(module, "forward"):
        return None
    small = x * (1e-2 / wide(x).square().mean().sqrt().clamp_min(1e-30)).to(x.dtype)
    x = torch.cat([x.flatten(0, -2), small.flatten(0, -2)])  # there eps weighs
    try:
        y = module.forward(x)  # not __call__: no hook is to see this
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError):
        return None
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or torch.equal(x, y):
        return None
    limit = tolerance(_narrowest(module, x))
    x, y = wide(x), wide(y)
    for forms in _candidates(module, x, y):
        fits = [(_misfit(form, module, x, y), index) for index, form in enumerate(forms)]
        error, index = min(fits, default=(float("inf"), 0))
        if error <= limit:
            return forms[index]
    return None


def is_map(module: Any, x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether a module, which gave y for x [..., d], makes of each token what it makes of it alone.

    Such a one may stand in a norm's place, as a `Map`.
    """
    if x.shape != y.shape:
        return False
    one, limit = Map(in_force(module)), tolerance(_narrowest(module, x))
    x, y = x.flatten(0, -2), wide(y).flatten(0, -2)
    try:
        with torch.no_grad():
            found = [one.apply(x), torch.cat([one.apply(token[None]) for token in x])]
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError):
        return False
    return all(bool((each - y).abs().max() <= limit * y.abs().max()) for each in found)


def require_norm(form: NormForm | None, module: Any, where: str) -> NormForm:
    """The closed form; Unsupported if a module that is used as a norm has none."""
    if form is None:
        raise Unsupported(
            f"{where}: {type(module).__name__} stands where a norm would, and is neither an "
            "RMSNorm nor a LayerNorm, so the gradient through it has no form that is known here"
        )
    return form


def _narrowest(module: nn.Module, x: torch.Tensor) -> torch.dtype:
    kinds = [x.dtype, *(part.dtype for part in module.parameters())]
    return min(kinds, key=lambda kind: torch.finfo(kind).bits)


def _candidates(module: Any, x: torch.Tensor, y: torch.Tensor) -> Iterator[list[NormForm]]:
    """Forms to try, those first that most norms have."""
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    weights = [n for n, part in named if n != "bias" and part.shape == x.shape[-1:]]
    gains = [(name, offset) for name in weights for offset in (0.0, 1.0)] or [(None, 0.0)]
    plain = [NormForm(*gain, centred, 0.0) for centred in (False, True) for gain in gains]
    floats = [
        n for n, value in vars(module).items() if isinstance(value, float) and 0 < value < 0.1
    ]
    named_eps = [name for name in floats if "eps" in name]
    yield [replace(form, eps=name) for form in plain for name in named_eps]
    yield [replace(form, eps=name) for form in plain for name in floats]
    yield [replace(form, eps=eps) for form in plain for eps in _USUAL]
    solved = [(form, _solved_eps(form, module, x, y)) for form in plain]
    yield [replace(form, eps=eps) for form, eps in solved if eps is not None]


def _solved_eps(form: NormForm, module: Any, x: torch.Tensor, y: torch.Tensor) -> float | None:
    norm = form.norm(module)
    centred = norm.centre(x) * norm.gain.to(x.device)
    shifted = y if norm.bias is None else y - norm.bias
    r = (centred * shifted).sum(-1) / centred.square().sum(-1).clamp_min(1e-30)
    eps = (1 / r.square().clamp_min(1e-30) - norm.centre(x).square().mean(-1)).median()
    return float(eps) if 0 < float(eps) < 1 else None


def _misfit(form: NormForm, module: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    norm = form.norm(module)
    fit = norm.apply(x)
    allowed = fit.abs()
    if norm.bias is not None:
        fit, allowed = fit + norm.bias, allowed + norm.bias.abs()
    allowed = allowed + 0.1 * allowed.abs().amax()
    return float(((y - fit).abs() / allowed.clamp_min(1e-30)).max())
