"""A new point of the residual stream as a sum: so much of the old one, so much of each part's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from analysis.detection.norms import tolerance
from analysis.detection.plan import Held
from analysis.models.anatomy import wide

Factor = float | torch.Tensor  # a number, or one for each channel [d]


@dataclass(frozen=True, eq=False)
class Sum:
    """target = kept * stream + sum of share_i * term_i, up to a constant that is nobody's."""

    kept: Factor
    shares: list[Factor]

    @property
    def used(self) -> list[int]:
        """The terms that are in it."""
        return [index for index, share in enumerate(self.shares) if _size(share) > 0.0]


class Numbers:
    """Numbers that a coefficient may be, exactly, where it is near one of them.

    known: numbers of the configuration. held: what the layer itself holds, single numbers or one
    for each channel, by name.
    """

    def __init__(self, known: Iterable[float], held: dict[str, torch.Tensor], d: int) -> None:
        self.known = [1.0, -1.0, *known]
        flat = {name: wide(part.detach()).reshape(-1) for name, part in held.items()}
        self.held = {name: part for name, part in flat.items() if part.numel() in (1, d)}

    def snap(self, factor: Factor, limit: float) -> Factor:
        """The number that a coefficient is, if it is within a share `limit` of one."""
        held = self.held.values()
        if not isinstance(factor, torch.Tensor):
            known = [*self.known, *(float(part) for part in held if part.numel() == 1)]
            near = min(known, key=lambda number: abs(number - factor))
            return near if abs(near - factor) <= limit * abs(near) else factor
        for part in (*(torch.tensor(number) for number in self.known), *held):
            for shift in (0.0, 1.0):
                value = (part.to(factor.device) + shift).expand_as(factor)
                if bool(((factor - value).abs() <= 10 * limit * value.abs().clamp_min(0.01)).all()):
                    one = value[0] if bool((value == value[0]).all()) else None
                    return float(one) if one is not None else value.to(factor.dtype)
        return factor

    def name(self, factor: Factor) -> float | Held | None:
        """A factor as the layer holds it, or the configuration's number; None if it is neither.

        None too where it is such a number now, and something that the layer holds is as well.
        """
        known = isinstance(factor, float) and factor in (0.0, *self.known)
        value = torch.as_tensor(factor)
        found = [
            Held(name, shift)
            for name, part in self.held.items()
            for shift in (0.0, 1.0)
            if (part.numel() == 1 or value.ndim) and bool((part + shift == value.to(part)).all())
        ]
        if known and (factor == 0.0 or not found):
            return float(factor)
        return found[0] if len(found) == 1 and not known else None


def solve(
    target: torch.Tensor,
    stream: torch.Tensor,
    terms: Sequence[torch.Tensor],
    likely: Sequence[int],
    numbers: Numbers,
) -> Sum | None:
    """target as a sum of the stream and terms, all [B, T, d]; None if it is none.

    likely: the terms that are tried first, with 1 for every coefficient.
    """
    equation = _Equation(target, stream, terms, numbers)
    ones = Sum(1.0, [1.0 if index in likely else 0.0 for index in range(len(terms))])
    if equation.holds(ones):
        return ones
    return equation.one_number_each() or equation.one_each_channel()


def multiple(target: torch.Tensor, of: torch.Tensor, numbers: Numbers) -> float | None:
    """c where target = c * of; None where it isn't, or c is about 0."""
    a, b = wide(target).reshape(-1, target.shape[-1]), wide(of).reshape(-1, of.shape[-1])
    if a.shape != b.shape:
        return None
    c, limit = float((a * b).sum() / b.square().sum().clamp_min(1e-30)), tolerance(target.dtype)
    c = float(numbers.snap(c, limit))
    return (
        c if abs(c) > 1e-3 and bool(((a - c * b).abs() <= limit * a.abs() + 1e-12).all()) else None
    )


class _Equation:
    """target = kept * stream + sum of share_i * term_i, each value with its own rounding."""

    def __init__(
        self,
        target: torch.Tensor,
        stream: torch.Tensor,
        terms: Sequence[torch.Tensor],
        numbers: Numbers,
    ) -> None:
        d = target.shape[-1]
        self.limit = tolerance(target.dtype)
        self.target = wide(target).reshape(-1, d)
        self.parts = torch.stack([wide(part).reshape(-1, d) for part in (stream, *terms)])
        # what a value may be off by is a share of what was added up to it
        self.size = self.parts.abs().sum(0).clamp_min(1e-30)
        self.numbers = numbers

    def holds(self, found: Sum, constant: bool = False) -> bool:
        """Whether it holds, value by value; with `constant`, up to one constant a channel."""
        off = self.target.clone()
        for factor, part in zip((found.kept, *found.shares), self.parts, strict=True):
            if isinstance(factor, torch.Tensor) or factor != 0.0:
                off -= factor * part
        if constant:
            off = off - off.mean(0)
        allowed = torch.maximum(self.size, self.target.abs())
        return bool((off.abs() <= self.limit * allowed).all())

    def one_number_each(self) -> Sum | None:
        """One number for the stream and for each term, by least squares."""
        for constant in (False, True):
            parts, target, size = self.parts, self.target, self.size
            if constant:
                parts, target = parts - parts.mean(1, keepdim=True), target - target.mean(0)
            A, y = (parts / size).flatten(1), (target / size).flatten()
            keep = list(range(len(A)))
            while True:
                b = _least_squares(A[keep] @ A[keep].T, A[keep] @ y)
                weights = b.abs() * A[keep].square().mean(1).sqrt()
                least = int(weights.argmin())
                if float(weights[least]) > max(1e-2 * self.limit, 1e-6) or len(keep) == 1:
                    break
                del keep[least]
            factors: list[Factor] = [0.0] * len(A)
            for place, value in zip(keep, b.tolist(), strict=True):
                factors[place] = self.numbers.snap(value, self.limit)
            found = Sum(factors[0], factors[1:])
            if self.holds(found, constant):
                return found
        return None

    def one_each_channel(self) -> Sum | None:
        """One number a channel for the stream and each term."""
        n, rows, _ = self.parts.shape
        if rows <= 2 * n:
            return None
        for constant in (False, True):
            parts, target = self.parts, self.target
            if constant:
                parts, target = parts - parts.mean(1, keepdim=True), target - target.mean(0)
            A = parts.permute(2, 0, 1)
            b = _least_squares(A @ A.mT, (A @ target.T[..., None])[..., 0])
            factors = [self.numbers.snap(factor, self.limit) for factor in b.unbind(-1)]
            found = Sum(factors[0], [f if _size(f) > 1e-7 else 0.0 for f in factors[1:]])
            if self.holds(found, constant):
                return found
        return None


def _least_squares(gram: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The smallest solution of the normal equations: [..., n, n], [..., n] -> [..., n]."""
    scale = gram.diagonal(dim1=-2, dim2=-1).double().sqrt().clamp_min(1e-30)
    scaled = gram.double() / (scale[..., None] * scale[..., None, :])
    inverse = torch.linalg.pinv(scaled, hermitian=True, rtol=1e-10)
    solution = (inverse @ (right.double() / scale)[..., None])[..., 0] / scale
    return solution.to(right.dtype)


def _size(factor: Factor) -> float:
    return float(factor.abs().max()) if isinstance(factor, torch.Tensor) else abs(factor)
