"""A new point of the residual stream as a sum: so much of the old one, so much of each part's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from analysis.detection.norms import tolerance
from analysis.detection.plan import Held
from analysis.models.linear import wide

Factor = float | torch.Tensor  # a number, or one for each channel [d]
_NOTHING = 1e-7  # a misfit of the size of float32 rounding, as a share of what is added up


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

    def nearest(self, factor: Factor) -> Factor:
        """The number, or what the layer holds, that a factor is nearest to."""
        held = [part + shift for part in self.held.values() for shift in (0.0, 1.0)]
        if not isinstance(factor, torch.Tensor):
            known = [*self.known, *(float(part) for part in held if part.numel() == 1)]
            return min(known, key=lambda number: abs(number - factor))
        every = [factor.new_full((), number) for number in self.known] + [
            part.to(factor) for part in held
        ]
        value = min(every, key=lambda part: float((factor - part).square().mean()))
        if value.numel() == 1:
            return float(value)
        return value

    def name(self, factor: Factor) -> float | Held | None:
        """A factor as the layer holds it, or the configuration's number; None if it is neither.

        None too where it is such a number now, and something that the layer holds is as well.
        """
        known = isinstance(factor, float) and factor in (0.0, *self.known)
        value = torch.as_tensor(factor, dtype=torch.float64)
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

    likely: the terms that are tried first.
    """
    first, everything = [0, *(index + 1 for index in likely)], list(range(len(terms) + 1))
    for constant in (False, True):
        equation = _Equation(target, stream, terms, numbers, constant)
        ones: list[Factor] = [1.0 if index in first else 0.0 for index in everything]
        # where values have many digits, nothing but 1 can be so near
        found = ones if equation.limit < 1e-4 and equation.holds(ones) else None
        found = found or equation.one_number_each(first) or equation.one_number_each(everything)
        found = found or equation.one_each_channel()
        if found is not None:
            return Sum(found[0], found[1:])
    return None


def multiple(target: torch.Tensor, of: torch.Tensor, numbers: Numbers) -> float | None:
    """c where target = c * of; None where it isn't, or c is about 0."""
    if target.shape != of.shape:
        return None
    found = _Equation(target, of, [], numbers, constant=False).one_number_each([0])
    if found is None or isinstance(found[0], torch.Tensor) or abs(found[0]) < 1e-3:
        return None
    return found[0]


class _Equation:
    """target = the sum of factor_i * part_i, each value with its own rounding.

    The first part is the stream. With `constant`, it holds up to one constant a channel.
    """

    def __init__(
        self,
        target: torch.Tensor,
        stream: torch.Tensor,
        terms: Sequence[torch.Tensor],
        numbers: Numbers,
        constant: bool,
    ) -> None:
        d = target.shape[-1]
        self.limit, self.numbers = tolerance(target.dtype), numbers
        whole = _exact(target).reshape(-1, d)
        parts = torch.stack([_exact(part).reshape(-1, d) for part in (stream, *terms)])
        # what a value may be off by is a share of what was added up to it
        self.size = torch.maximum(parts.abs().sum(0), whole.abs()).clamp_min(1e-30)
        if constant:
            whole, parts = whole - whole.mean(0), parts - parts.mean(1, keepdim=True)
        self.target, self.parts = whole / self.size, parts / self.size

    def _off(self, factors: Sequence[Factor]) -> torch.Tensor:
        off = self.target.clone()
        for factor, part in zip(factors, self.parts, strict=True):
            if isinstance(factor, torch.Tensor) or factor != 0.0:
                off -= factor * part
        return off

    def _misfit(self, factors: Sequence[Factor]) -> float:
        return float(self._off(factors).square().mean().sqrt())

    def holds(self, factors: Sequence[Factor]) -> bool:
        """Whether it holds, value by value."""
        return bool((self._off(factors).abs() <= self.limit).all())

    def one_number_each(self, among: Sequence[int]) -> list[Factor] | None:
        """One number for each of some parts, by least squares; 0 for those that add nothing."""
        found = self._numbers(among)
        if not self.holds(found):
            return None
        least = self._misfit(found)
        for index in sorted(among, key=lambda index: self._weight(found[index], index))[:-1]:
            fewer = self._numbers([i for i in among if i != index and found[i] != 0.0])
            if self._misfit(fewer) <= 1.02 * least + _NOTHING:
                found = fewer
        return self._known(found, self._misfit(found))

    def _numbers(self, among: Sequence[int]) -> list[Factor]:
        A, y = self.parts[list(among)].flatten(1), self.target.flatten()
        factors: list[Factor] = [0.0] * len(self.parts)
        for index, value in zip(among, _least_squares(A @ A.T, A @ y).tolist(), strict=True):
            factors[index] = value
        return factors

    def _weight(self, factor: Factor, index: int) -> float:
        return _size(factor) * float(self.parts[index].square().mean().sqrt())

    def one_each_channel(self) -> list[Factor] | None:
        """One number a channel for every part; 0 for those that add nothing."""
        n, rows, _ = self.parts.shape
        if rows <= 2 * n:
            return None
        A = self.parts.permute(2, 0, 1)
        b = _least_squares(A @ A.mT, (A @ self.target.T[..., None])[..., 0])
        found: list[Factor] = [f if _size(f) > 1e-7 else 0.0 for f in b.unbind(-1)]
        if not self.holds(found):
            return None
        # so many numbers fit rounding too
        return self._known(found, self._misfit(found) / (1 - n / rows) ** 0.5)

    def _known(self, found: list[Factor], misfit: float) -> list[Factor]:
        """Factors with numbers that are known in their place, where these fit as well."""
        allowed = 1.05 * misfit + _NOTHING
        nearest = [f if _size(f) == 0.0 else self.numbers.nearest(f) for f in found]
        if self._misfit(nearest) <= allowed:
            return nearest
        for index, number in enumerate(nearest):
            tried = [*found[:index], number, *found[index + 1 :]]
            if self._misfit(tried) <= allowed:
                found = tried
        return found


def _exact(x: torch.Tensor) -> torch.Tensor:
    """In float64, where there is such a thing."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _least_squares(gram: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The smallest solution of the normal equations: [..., n, n], [..., n] -> [..., n]."""
    scale = gram.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-30)
    scaled = gram / (scale[..., None] * scale[..., None, :])
    inverse = torch.linalg.pinv(scaled, hermitian=True, rtol=1e-10)
    return (inverse @ (right / scale)[..., None])[..., 0] / scale


def _size(factor: Factor) -> float:
    return float(factor.abs().max()) if isinstance(factor, torch.Tensor) else abs(factor)
