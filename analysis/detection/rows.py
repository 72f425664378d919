"""Whose the rows of an attention's projections are: by which heads their gradient reaches.

The attention is run on constants in the place of its projections' outputs, and q, k and v are seen
where the attention interface gets them, z where the output projection does. What reaches z past q,
k and v is a gate. Without the interface there is only z: then rows of v reach the first token's z,
where rows of q and k can't change weights that are 1, and rows of q reach no other token's.

One cotangent for each head would do; for H heads 2 log2 H do too: heads are numbered, and each
cotangent is on those whose number has a certain bit set, or not set. A row that only one head
reads has its number in the bits that it answers to. A row that answers to both of a bit is read by
several heads, and the heads are then tried one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from analysis.detection.parts import Attention
from analysis.detection.plan import Rows, SidePlan
from analysis.detection.trace import first_floats, is_linear, replace_floats
from analysis.models.anatomy import Unsupported, in_force
from analysis.models.compat import attention_calls
from analysis.models.hooks import not_compiled

Item = tuple[str, int]  # q, k, v, g or z, and which head's
_ORDER = "qkvgz"
_SMALL = 0.3  # what is put in the place of projections' outputs
REACHES = 1e-9  # the least share of a row's strongest gradient (squared) that is one

_NO_GAIN = 1e-2  # a factor smaller than this share of the mean passes for none


@dataclass(eq=False)
class Seen:
    """What was seen of one attention in the run: constants at the linears, and what they reach."""

    attention: Attention
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)
    faces: dict[str, torch.Tensor] = field(default_factory=dict)  # q, k, v: [B, H, T, e]
    z: torch.Tensor | None = None


class RowFinder:
    """Hooks for one run, that give the sides of every attention: the rows of its linears."""

    def __init__(self, layers: list[nn.Module], attentions: list[list[Attention]]) -> None:
        self.sides: list[list[list[SidePlan]]] = [[] for _ in layers]
        self._layers, self._attentions = layers, attentions
        self._seen: dict[int, list[Seen]] = {}
        self._known: dict[Any, list[SidePlan]] = {}
        self._random = torch.Generator().manual_seed(1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, one run of the model finds the rows."""
        with ExitStack() as stack:
            stack.enter_context(not_compiled())
            stack.enter_context(attention_calls(self._face))
            stack.enter_context(torch.enable_grad())
            for index, layer in enumerate(self._layers):
                self._seen[index] = [Seen(attention) for attention in self._attentions[index]]
                for handle in self._hooks(index, layer):
                    stack.callback(handle.remove)
            yield

    def _hooks(self, index: int, layer: nn.Module) -> Iterator[Any]:
        for seen in self._seen[index]:
            readers = {call.name for call, _ in seen.attention.readers}
            for name in readers:
                module = in_force(layer.get_submodule(name))
                yield module.register_forward_hook(self._leaf(seen, name))
            o_proj = in_force(layer.get_submodule(seen.attention.o_proj.name))
            yield o_proj.register_forward_pre_hook(self._keep(seen))
            yield o_proj.register_forward_hook(lambda m, i, output: output.detach())
            for name, module in seen.attention.face.call.module.named_modules():
                if name and elementwise(module):
                    yield module.register_forward_hook(frozen)
        yield layer.register_forward_hook(self._finish(index))

    def _leaf(self, seen: Seen, name: str) -> Callable[..., torch.Tensor]:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            leaf = self._constant(output.detach())
            seen.leaves[name] = leaf.requires_grad_()
            return leaf + 0  # not the leaf itself, on which nothing may work in place

        return hook

    def _constant(self, output: torch.Tensor) -> torch.Tensor:
        """What is put in the place of a linear's output.

        It is small, so that no softmax is so sure that gradients vanish in it.
        """
        return (_SMALL * torch.randn(output.shape, generator=self._random)).to(output)

    def _keep(self, seen: Seen) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor]) -> None:
            seen.z = args[0]

        return hook

    def _face(self, module: nn.Module, q: Any, k: Any, v: Any, call: Callable[..., Any]) -> Any:
        for layer in self._seen.values():
            for seen in layer:
                if seen.attention.face.call.module is module and seen.attention.single:
                    seen.faces = {"q": q, "k": k, "v": v}
                    return call(q.detach(), k.detach(), v.detach())
        return call(q, k, v)

    def _finish(self, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            for seen in self._seen.pop(index):
                self.sides[index].append(self._sides(seen, f"layer {index}"))
            y = first_floats(output)
            return None if y is None else replace_floats(output, y.detach())

        return hook

    def _sides(self, seen: Seen, where: str) -> list[SidePlan]:
        return self._once(Probe(seen, self._random), where)

    def _once(self, probe: Probe, where: str) -> list[SidePlan]:
        """The sides of an attention; those of one with the same rows, where there was one."""
        key = probe.key()
        if key not in self._known:
            self._known[key] = _sides(probe, where)
        return self._known[key]


class Probe:
    """The gradients of heads at the rows of one attention's linears."""

    def __init__(self, seen: Seen, random: torch.Generator) -> None:
        attention, self._random = seen.attention, random
        assert seen.z is not None
        z = seen.z.unflatten(-1, (attention.n_heads, -1)).movedim(-2, 1)  # [B, H, T, e]
        ends = {**seen.faces, ("g" if attention.single else "z"): z}
        self.ends = {letter: end for letter, end in ends.items() if end.requires_grad}
        self.n_heads = attention.n_heads
        self.kv_heads = seen.faces["k"].shape[1] if attention.single else None
        self.leaves = seen.leaves
        self.items: list[Item] = [
            (letter, head) for letter, end in self.ends.items() for head in range(end.shape[1])
        ]
        self.bits = max(len(self.items) - 1, 1).bit_length()
        self.strength = self._coded() if self.items else {}

    def key(self) -> Any:
        """The same for two attentions with the same rows, as far as the codes tell."""
        shapes = [(name, tuple(leaf.shape)) for name, leaf in self.leaves.items()]
        answers = [part.cpu().numpy().tobytes() for part in self.answers().values()]
        return tuple(shapes), tuple(answers), tuple(self.items)

    def answers(self) -> dict[str, torch.Tensor]:
        """Whether each row answers to each cotangent: bool [2 * bits, rows]."""
        return {name: part > REACHES * part.amax(0) for name, part in self.strength.items()}

    def _coded(self) -> dict[str, torch.Tensor]:
        code = torch.arange(len(self.items))
        rounds = [
            self._gradients((code >> bit & 1) == value)
            for bit in range(self.bits)
            for value in (0, 1)
        ]
        return {name: torch.stack([part[name] for part in rounds]) for name in self.leaves}

    def _gradients(
        self, on: torch.Tensor, tokens: slice | None = None, at: slice | None = None
    ) -> dict[str, torch.Tensor]:
        """Squared gradients at the rows of random cotangents on some items: [rows] each.

        tokens: the cotangents' tokens only; at: the rows' tokens only.
        """
        ends, cotangents, start = [], [], 0
        for end in self.ends.values():
            here = on[start : start + end.shape[1]]
            start += end.shape[1]
            if not bool(here.any()):
                continue
            noise = torch.randn(end.shape, generator=self._random) * here[:, None, None]
            if tokens is not None:
                kept = torch.zeros_like(noise)
                kept[:, :, tokens] = noise[:, :, tokens]
                noise = kept
            ends.append(end)
            cotangents.append(noise.to(end))
        names, leaves = list(self.leaves), list(self.leaves.values())
        found = torch.autograd.grad(ends, leaves, cotangents, retain_graph=True, allow_unused=True)
        out = {}
        for name, leaf, gradient in zip(names, leaves, found, strict=True):
            if gradient is None:
                out[name] = torch.zeros(leaf.shape[-1])
                continue
            g = gradient.detach().float().reshape(*leaf.shape[:1], -1, leaf.shape[-1])
            g = g if at is None else g[:, at]
            out[name] = g.square().flatten(0, -2).sum(0).cpu()
        return out

    def decoded(self) -> dict[str, list[Item | bool]]:
        """The item that each row reaches; True for several, False for none."""
        powers = 2 ** torch.arange(self.bits)
        found: dict[str, list[Item | bool]] = {}
        for name, part in self.answers().items():
            dead = (self.strength[name].amax(0) == 0.0).tolist()
            several = (part[0::2] & part[1::2]).any(0).tolist()
            numbers = (part[1::2].long() * powers[:, None]).sum(0).tolist()
            found[name] = [
                not none and (many or self.items[number])
                for none, many, number in zip(dead, several, numbers, strict=True)
            ]
        return found

    def reached(self) -> dict[str, list[frozenset[Item]]]:
        """The items that each row of each linear reaches."""
        decoded = self.decoded()
        several = any(item is True for rows in decoded.values() for item in rows)
        one_by_one = self._one_by_one() if several else {}
        return {
            name: [
                one_by_one[name][row]
                if item is True
                else frozenset([item] if isinstance(item, tuple) else [])
                for row, item in enumerate(rows)
            ]
            for name, rows in decoded.items()
        }

    def _one_by_one(self) -> dict[str, list[frozenset[Item]]]:
        each = torch.eye(len(self.items), dtype=torch.bool)
        rounds = [self._gradients(on) for on in each]
        found = {}
        for name in self.leaves:
            strength = torch.stack([part[name] for part in rounds])
            hits = strength > REACHES * strength.amax(0)
            found[name] = [
                frozenset(self.items[i] for i in column.nonzero().flatten().tolist())
                for column in hits.T
            ]
        return found

    def letters(self) -> dict[str, list[str]]:
        """Without the interface: q, k, v or g for each row, by the tokens that it reaches."""
        z = next(iter(self.ends.values()))
        everything = torch.ones(len(self.items), dtype=torch.bool)
        limit = {torch.bfloat16: 1e-4, torch.float16: 1e-5}.get(z.dtype, 1e-7)

        def repeated(**where: slice) -> dict[str, torch.Tensor]:
            """Over a few rounds, in which a gradient is not small by chance each time."""
            rounds = [self._gradients(everything, **where) for _ in range(4)]
            return {name: torch.stack([one[name] for one in rounds]).sum(0) for name in self.leaves}

        whole, first = repeated(), repeated(tokens=slice(0, 1))
        before = repeated(tokens=slice(-1, None), at=slice(0, -1))
        names = {(False, False): "q", (False, True): "k", (True, True): "v", (True, False): "g"}
        return {
            name: [
                names[f, b]
                for f, b in zip(
                    (first[name] > limit * whole[name]).tolist(),
                    (before[name] > limit * whole[name]).tolist(),
                    strict=True,
                )
            ]
            for name in self.leaves
        }


def elementwise(module: Any) -> bool:
    """Whether a module may be a norm, or works on numbers one by one."""
    return (
        not is_linear(module)
        and not isinstance(module, nn.Softmax)
        and not any(True for _ in module.children())
        and all(part.ndim < 2 for part in module.parameters())
    )


def frozen(module: nn.Module, args: Any, output: Any) -> Any:
    """The same output, as if x had been multiplied by constants.

    So a norm over all heads ties no heads together. Where a gain is 0, as trained ones may be, a
    row of x is still read: by the norm's scale.
    """
    x = first_floats(args)
    if not isinstance(output, torch.Tensor) or x is None or x.shape != output.shape:
        return None
    if not x.requires_grad:
        return None
    factor = (output / torch.where(x == 0, torch.ones_like(x), x)).detach()
    size = factor.abs().mean()
    factor = torch.where(factor.abs() < _NO_GAIN * size, size, factor)
    held = output.detach() + (x - x.detach()) * factor
    if len(args) > 1:  # a gate that the norm multiplies with stays a gate
        alive = module.forward(x.detach(), *args[1:])
        held = held + alive - alive.detach()
    return held


def _sides(probe: Probe, where: str) -> list[SidePlan]:
    """The sides of one attention: its destinations, by linear, letter and what they are of."""
    reached = probe.reached()
    if probe.kv_heads is None:
        return _in_order(_without_interface(probe, reached), where)
    group = probe.n_heads // probe.kv_heads
    found: dict[tuple[str, str, str], dict[tuple[int, ...], list[int]]] = {}
    for name, rows in reached.items():
        for row, items in enumerate(rows):
            if not items:
                continue
            letters = "".join(sorted({letter for letter, _ in items}, key=_ORDER.index))
            feeds = {h for item in items for h in _fed(item, group)}
            numbers = {number for _, number in items}
            of = "*" if len(feeds) == probe.n_heads else "+"
            if len(numbers) == 1 and not set(letters) - {"k", "v"}:
                of = "kv"
            elif len(feeds) == 1:
                of = "h"
            key = name, letters, of
            found.setdefault(key, {}).setdefault(tuple(sorted(feeds)), []).append(row)
    return _in_order(found, where)


def _fed(item: Item, group: int) -> range:
    letter, number = item
    return (
        range(number * group, (number + 1) * group) if letter in "kv" else range(number, number + 1)
    )


_Found = dict[tuple[str, str, str], dict[tuple[int, ...], list[int]]]


def _without_interface(probe: Probe, reached: dict[str, list[frozenset[Item]]]) -> _Found:
    """Sides where only z is seen: one letter a row, or `in` for all that a head reads."""
    for letters in (probe.letters(), None):
        found: _Found = {}
        for name, rows in reached.items():
            for row, items in enumerate(rows):
                if not items:
                    continue
                letter = "in" if letters is None else letters[name][row]
                feeds = tuple(sorted(number for _, number in items))
                key = name, letter, str(len(feeds))
                found.setdefault(key, {}).setdefault(feeds, []).append(row)
        named: _Found = {}
        for (name, letter, _), destinations in found.items():
            key = name, letter, _of(letter, destinations, probe)
            named.setdefault(key, {}).update(destinations)
        even = all(len({len(rows) for rows in d.values()}) == 1 for d in named.values())
        if even and {letter for _, letter, _ in named} >= {"q", "k", "v"}:
            return named  # else tokens see later ones, or weights are not made by a softmax
    return named


def _of(letter: str, destinations: dict[tuple[int, ...], list[int]], probe: Probe) -> str:
    """What destinations are of, by the heads that they feed."""
    sizes = {len(feeds) for feeds in destinations}
    total = [head for feeds in destinations for head in feeds]
    tiled = len(sizes) == 1 and sorted(total) == list(range(probe.n_heads))
    if letter in ("k", "v") and tiled:
        return "kv"
    if sizes == {1}:
        return "h"
    return "*" if sizes == {probe.n_heads} else "+"


def _in_order(found: _Found, where: str) -> list[SidePlan]:
    """Sides in the order q, k, v, g, then what is shared; those of one width together."""
    sides = []
    for (name, letters, of), destinations in found.items():
        by_width: dict[int, list[tuple[int, ...]]] = {}
        for feeds in sorted(destinations):
            by_width.setdefault(len(destinations[feeds]), []).append(feeds)
        for members in by_width.values():
            rows = Rows.of([destinations[feeds] for feeds in members])
            sides.append(SidePlan(name, letters, of, rows, tuple(members)))
    if not sides:
        raise Unsupported(f"{where}: nothing that the attention reads reaches its heads")
    return sorted(sides, key=lambda side: (side.of in "*+", _order(side.letter), side.rows.first))


def _order(letters: str) -> tuple[int, str]:
    return (_ORDER.find(letters) if len(letters) == 1 else len(_ORDER)), letters
