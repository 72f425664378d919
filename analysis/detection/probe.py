"""The runs that the audits look at: a prompt by itself, and four prompts layer by layer.

Rows of the second run, T tokens each, of which every layer is handed the stream that stands behind
the arrow, so that what one layer does wrong is not seen in the next:

    CLEAN    a prompt                                   its own
    LAST     the same up to the last token              CLEAN's, but for the last token
    PADDED   the first tokens of CLEAN, and padding     that of the prompt by itself
    OTHER    other tokens everywhere                    CLEAN's

In that run every layer's graph is its own, and cut at the destinations: what enters a layer is a
leaf, and so is what the rows of a projection give and what a node reads.

Shape legend: T tokens, d residual width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.detection.rows import elementwise, frozen
from analysis.models.anatomy import Anatomy, Block, Heads, Projection, Reading, Tap, Unsupported
from analysis.models.audit import Audit
from analysis.models.compat import attention_calls
from analysis.models.forward import run, source_run
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import Batch

TOKENS, SHORT = 8, 5
CLEAN, LAST, PADDED, OTHER = range(4)
ROWS = 4


def prompts(parts: Anatomy) -> torch.Tensor:
    """Two prompts that differ in every token: int64 [2, T].

    Of the part of the vocabulary in which most tokenizers keep frequent words, without the tokens
    that the configuration names.
    """
    size = parts.vocabulary
    length = min(TOKENS, parts.max_tokens or TOKENS)
    special, usual = _special(parts), range(size // 50, min(max(size // 4, 16), size))
    known = torch.tensor([token for token in usual if token not in special])
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(len(known), (length,), generator=generator)
    other = (first + 1 + len(known) // 3) % len(known)
    return known[torch.stack([first, other])]


def _special(parts: Anatomy) -> set[Any]:
    """The ids that a configuration names, such as that of an image."""
    found = set()
    for config in (parts.causal_lm.config, getattr(parts.decoder, "config", None)):
        for name, value in vars(config).items() if config is not None else ():
            if name.endswith(("token_id", "token_index")):
                found |= set(value) if isinstance(value, list) else {value}
    return found


def places(ids: torch.Tensor, rows: list[int], positions: list[int]) -> Batch:
    """A batch whose logits are read there."""
    where = torch.tensor(rows, device=ids.device), torch.tensor(positions, device=ids.device)
    return Batch(ids, ids, torch.ones_like(ids), *where, None, None, None)


def watch_streams(
    parts: Anatomy, hooks: Hooks, enter: Callable[[int, torch.Tensor], torch.Tensor | None]
) -> None:
    """In the next run, `enter(layer, x)` sees what enters every layer.

    And as layer L what leaves the last one; what it returns, if anything, takes its place.
    """
    for index, layer in enumerate(parts.layers):
        hooks.input(layer, partial(enter, index))
    hooks.output(parts.layers[-1], partial(enter, len(parts.layers)))


@dataclass(eq=False)
class Read:
    """What one projection, or one tap, has read in a run.

    x: the stream, where that is not `before` itself. before: the module's output, or the tap's
    input, in the graph of its layer. leaf: what the model went on with.
    """

    layer: int
    reader: Reading | Tap
    sides: tuple[Projection, ...]
    before: torch.Tensor
    leaf: torch.Tensor
    known: torch.Tensor | None = None  # bool [out]: rows of the module that are destinations


@dataclass(eq=False)
class Face:
    """A call of the attention interface: q [B, H, T, e], k and v [B, K, T, e], z [B, T, H, e]."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor


@dataclass(eq=False)
class Cut:
    """What was seen of the readers and the writers of all layers."""

    stream: dict[object, torch.Tensor] = field(default_factory=dict)  # at each place
    reads: list[Read] = field(default_factory=list)
    writes: list[torch.Tensor] = field(default_factory=list)
    z: dict[Heads, torch.Tensor] = field(default_factory=dict)  # at the output projection
    faces: dict[nn.Module, Face] = field(default_factory=dict)  # by attention


class Layerwise:
    """The four prompts, layer by layer, with the graph cut at all destinations.

    alone: the streams of a prompt by itself. arrived, given: L + 1 times [4, T, d], what stood
    there and the leaf in its place.
    """

    def __init__(
        self, parts: Anatomy, hooks: Hooks, alone: list[torch.Tensor], freeze: bool
    ) -> None:
        self.alone = alone
        self.arrived: list[torch.Tensor] = []
        self.given: list[torch.Tensor] = []
        self.cut = Cut()
        watch_streams(parts, hooks, self._enter)
        for block in parts.blocks:
            self._watch(hooks, block)
        for _, heads in parts.heads if freeze else ():
            for name, module in heads.attention.named_modules():
                if name and elementwise(module):
                    hooks.passed(module, frozen)

    def _enter(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        self.arrived.append(x.detach())
        x = x.detach().clone()
        alone = self.alone[layer][0].to(x)
        x[LAST, :-1] = x[CLEAN, :-1]
        x[PADDED, : len(alone)] = alone
        x[OTHER] = x[CLEAN]
        self.given.append(x.requires_grad_())
        return x.clone()  # what a model does in place, it may not do to a leaf

    def _watch(self, hooks: Hooks, block: Block) -> None:
        for reading in block.readings:
            hooks.input(reading.place, partial(self._keep, reading.place))
            for module, sides in reading.modules.items():
                own = tuple(reading.sides[side] for side in sides)
                hooks.output(module, partial(self._cut_rows, block.layer, reading, own))
        for node in block.nodes:
            for tap in node.taps:
                if tap.norm is not None:
                    hooks.input(tap.place, partial(self._keep, tap.place))
                hooks.input(tap.module, partial(self._cut_tap, block.layer, tap))
            for module, _ in node.writes:
                hooks.output(module, self._write)
        for heads in block.heads:
            hooks.input(heads.o_proj, partial(self.cut.z.__setitem__, heads))
            hooks.output(heads.branch, self._write)

    def see_attention(
        self, module: nn.Module, q: Any, k: Any, v: Any, call: Callable[..., Any]
    ) -> Any:
        """What stands in the place of the attention interface (`attention_calls`)."""
        output = call(q, k, v)
        self.cut.faces[module] = Face(q, k, v, output[0])
        return output

    def _keep(self, place: nn.Module, x: torch.Tensor) -> None:
        self.cut.stream[place] = x.detach()

    def _write(self, y: torch.Tensor) -> torch.Tensor:
        self.cut.writes.append(y)
        return y.clone()  # a layer may add the stream to it in place

    def _cut_rows(
        self, layer: int, reading: Reading, sides: tuple[Projection, ...], y: torch.Tensor
    ) -> torch.Tensor:
        leaf = y.detach().requires_grad_()
        known = _known(sides, y)
        self.cut.reads.append(Read(layer, reading, sides, y, leaf, known))
        return leaf.clone() if bool(known.all()) else torch.where(known, leaf, y)

    def _cut_tap(self, layer: int, tap: Tap, x: torch.Tensor) -> torch.Tensor:
        leaf = x.detach().requires_grad_()
        self.cut.reads.append(Read(layer, tap, (), x, leaf))
        return leaf.clone()


def _known(sides: Iterable[Projection], y: torch.Tensor) -> torch.Tensor:
    """Which of a module's rows are destinations: bool [out]."""
    known = torch.zeros(y.shape[-1], dtype=torch.bool, device=y.device)
    for side in sides:
        side.write(known, known.new_ones(side.width, side.n_rows))
    return known


@torch.no_grad()
def run_alone(parts: Anatomy, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """A prompt [1, T] by itself: what enters every layer and leaves the last one, and its logits.

    L + 1 times [1, T, d], and [T, V].

    Raises:
        Unsupported: the layers do not run once each, in their order, or the model's parts do not
            add up.
        ValueError: something is not finite.
    """
    backwards = list(range(ids.shape[1]))[::-1]
    seen: list[tuple[int, torch.Tensor]] = []
    with Hooks() as hooks:
        watch_streams(parts, hooks, lambda layer, x: seen.append((layer, x.clone())))
        audit = Audit(parts, hooks, len(backwards))
        sources, logits = source_run(parts, ids, places(ids, [0] * len(backwards), backwards))
    for place in range(len(parts.layers) + 1):
        if place >= len(seen) or seen[place][0] != place:
            raise Unsupported(
                f"layer {place}: it does not run once, after the layer before it; the layers of a "
                "graph run once each, one after the other"
            )
    audit.verify(sources)
    return [x for _, x in seen], logits.flip(0)


def run_layerwise(
    parts: Anatomy, both: torch.Tensor, alone: list[torch.Tensor], freeze: bool = False
) -> tuple[Layerwise, torch.Tensor]:
    """The four prompts, and the logits of two tokens of each: [4, 2, V].

    The first token, and the last that is its own in PADDED. freeze: of the norms inside attention
    only the factors are taken, for gradients that no norm over several heads has mixed.
    """
    clean, other = both
    ids = torch.stack([clean, clean, clean, other])
    ids[LAST, -1] = other[-1]
    short = alone[0].shape[1]
    ids[PADDED, short:] = 0
    rows = [row for row in range(ROWS) for _ in range(2)]
    with Hooks() as hooks, torch.enable_grad():
        seen = Layerwise(parts, hooks, alone, freeze)
        with attention_calls(seen.see_attention):
            logits = run(parts, ids, places(ids, rows, [0, short - 1] * ROWS))
        return seen, logits.unflatten(0, (ROWS, 2))
