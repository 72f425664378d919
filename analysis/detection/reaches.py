"""The heads audit: what a destination reaches.

Gradients start from many heads at a time: each head has a code of bits, of which none holds all
those of another, so that of any two heads each starts once without the other. What arrives at a
destination's rows when none of its heads has started is the reach of another head. A head starts
before the output projection. Where that does not hold it is tried with all norms of the attention
frozen, as detection tells rows apart: Mamba 2 has one over all heads before its output projection.
From q, k and v at the attention interface nothing arrives at rows that are said to be another
letter.

    (Sperner 1928: of n bits, half of them set, there are C(n, n/2) such codes)

Shape legend: T tokens, H heads, e head width, n destinations of w rows each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, islice

import torch

from analysis.detection.closeness import Closeness
from analysis.detection.probe import ROWS, Cut, Layerwise, Read
from analysis.models.anatomy import Anatomy, Block, Heads, Projection, Reading, Unsupported
from analysis.models.linear import wide

_ENOUGH = 4  # rows, to tell a norm's reach from another
_BETWEEN = (
    "a norm between the heads and their output projection ties them together: a destination's rows "
    "reach other heads through the size of what it norms"
)
_LETTERS = frozenset("qkvg")


def codes(count: int) -> torch.Tensor:
    """As many codes, none of which holds all bits of another: bool [count, bits]."""
    bits = next(n for n in range(1, count + 2) if math.comb(n, n // 2) >= count)
    found = torch.zeros(count, bits, dtype=torch.bool)
    for row, chosen in enumerate(islice(combinations(range(bits), bits // 2), count)):
        found[row, list(chosen)] = True
    return found


def check_heads(
    close: Closeness, parts: Anatomy, seen: Layerwise, freeze: Callable[[], Layerwise]
) -> list[str]:
    """Raise Unsupported where a destination reaches heads that it does not feed.

    What is returned names the layers and sides where a norm ties heads together. `freeze` makes the
    same run with frozen norms.
    """
    for block, heads in parts.heads:
        _check_count(block, heads, seen.cut)
    reads = [read for read in seen.cut.reads if read.sides]
    if not reads:
        return []
    _check_letters(close, reads, seen.cut)
    try:
        return _Reaches(close, parts, seen.cut, reads).notes()
    except Unsupported:  # it may be a norm of what the heads give
        cut = freeze().cut
        told = _Reaches(close, parts, cut, [read for read in cut.reads if read.sides]).notes()
        return [*told, _BETWEEN]


def _check_count(block: Block, heads: Heads, cut: Cut) -> None:
    face = cut.faces.get(heads.attention)
    if face is not None and heads.kind == "softmax" and face.q.shape[1] != heads.n_heads:
        raise Unsupported(
            f"heads audit: layer {block.layer}: it is said to have {heads.n_heads} heads, and "
            f"attention is called with {face.q.shape[1]}"
        )


def _check_letters(close: Closeness, reads: list[Read], cut: Cut) -> None:
    """Nothing that is not a q is in q at the interface; so for k and v."""
    for letter in "qkv":
        faces = [getattr(face, letter) for face in cut.faces.values()]
        starts = [x for x in faces if x.requires_grad]
        if not starts:
            continue
        arrived = _grad(starts, reads, [torch.ones_like(x) for x in starts])
        for read, gradient in zip(reads, arrived, strict=True):
            for side in read.sides if gradient is not None else ():
                told = set(side.letter) <= _LETTERS
                if told and letter not in side.letter and _arrived(close, side, gradient):
                    raise Unsupported(
                        f"heads audit: layer {read.layer}: rows that are said to be {side.letter} "
                        f"reach attention as {letter}; they are other rows"
                    )


def _arrived(close: Closeness, side: Projection, gradient: torch.Tensor | None) -> bool:
    """Whether any of a module's gradient is at a side's rows."""
    assert gradient is not None
    there = float(wide(side.seen(gradient)).abs().max())
    return there > close.tolerance / 10 * float(wide(gradient).abs().max())


def _grad(
    starts: list[torch.Tensor], reads: list[Read], sent: list[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    leaves = [read.leaf for read in reads]
    return torch.autograd.grad(starts, leaves, sent, retain_graph=True, allow_unused=True)


class _Reaches:
    """What arrives at the destinations when some heads have started."""

    def __init__(self, close: Closeness, parts: Anatomy, cut: Cut, reads: list[Read]) -> None:
        self.close, self.cut, self.reads = close, cut, reads
        self.shapes = parts.graph.shapes
        self.most = max((shape.n_heads for shape in self.shapes), default=0)
        self.tied: dict[str, set[int]] = {}

    def notes(self) -> list[str]:
        """Start all heads, and look where that arrives; what is to be told."""
        starts = {heads: z for heads, z in self.cut.z.items() if z.requires_grad}
        if not starts or self.most < 2:
            return []
        for bits in codes(self.most).T.split(ROWS):  # one for each row of the run
            started = torch.zeros(ROWS, self.most, dtype=torch.bool)
            started[: len(bits)] = bits
            sent = [_from(heads, z, started) for heads, z in starts.items()]
            arrived = _grad(list(starts.values()), self.reads, sent)
            for read, gradient in zip(self.reads, arrived, strict=True):
                if gradient is not None:
                    for side in self._ties(read, gradient, started):
                        self.tied.setdefault(side.letter, set()).add(read.layer)
        return [_note(letter, sorted(layers)) for letter, layers in self.tied.items()]

    def _ties(
        self, read: Read, gradient: torch.Tensor, started: torch.Tensor
    ) -> Iterator[Projection]:
        """The sides of one module where a norm ties heads; Unsupported for any other reach."""
        assert isinstance(read.reader, Reading)
        feeds = [heads for side in self.shapes[read.layer].sides for heads in side.feeds]
        for side in read.sides:
            first = read.reader.column + side.column
            of_side = feeds[first : first + side.width]
            own = torch.stack([started[:, list(heads)].any(1) for heads in of_side], 1)
            g, y = (
                wide(side.seen(x.detach().reshape(ROWS, -1, x.shape[-1])))
                for x in (gradient, read.before)
            )
            size = g.norm(dim=(1, 3))  # [4, n]
            other = size.masked_fill(own.to(size.device), 0.0)
            off = float(other.max() / size.max().clamp_min(1e-30))
            if off <= self.close.tolerance / 10:
                continue
            by_norm = side.n_rows >= _ENOUGH and _besides_norm(g, y, other > 0)
            if not by_norm or by_norm > self.close.tolerance:
                place = int(other.max(0).values.argmax())
                raise Unsupported(
                    f"heads audit: layer {read.layer}: the rows that are said to be the "
                    f"{side.letter} of heads {list(of_side[place])} reach other heads too "
                    f"({off:.2g} of what they reach); they are other rows, or several heads share "
                    "them"
                )
            yield side


def _from(heads: Heads, z: torch.Tensor, started: torch.Tensor) -> torch.Tensor:
    """The gradient of those heads of z that start: of the shape of z."""
    own = started[:, heads.first : heads.first + heads.n_heads].to(z.device)
    generator = torch.Generator(z.device).manual_seed(0)
    noise = torch.rand(z.shape, generator=generator, device=z.device, dtype=wide(z).dtype) - 0.5
    by_head = noise.reshape(ROWS, z.shape[1], heads.n_heads, -1)
    return (by_head * own[:, None, :, None]).reshape(z.shape).to(z)


def _besides_norm(g: torch.Tensor, y: torch.Tensor, where: torch.Tensor) -> float:
    """What part of a reach g [4, T, n, w] is no multiple of the rows y there, up to a constant.

    A norm over all heads sends back just that to the rows of a head that has not started.
    where: bool [4, n]
    """
    basis = torch.stack([y, torch.ones_like(y)], -1)  # [4, T, n, w, 2]
    rest = g - (basis @ (torch.linalg.pinv(basis) @ g[..., None]))[..., 0]
    keep = where[:, None, :, None]
    return float((rest * keep).norm() / (g * keep).norm().clamp_min(1e-30))


def _note(letter: str, layers: list[int]) -> str:
    where = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    return (
        f"{where}: a norm over all heads ties them together; a destination <{letter}> is the rows "
        "of its projection, with what that norm makes of them"
    )
