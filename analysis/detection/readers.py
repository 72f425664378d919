"""The gradient audit: the destinations are all that reads the stream, and read what is said.

In a run whose graph is cut at the destinations nothing that a layer writes depends on what enters
it, in any dtype: else something has read it unseen. And the gradient that a cut sends back to what
enters the layer is, by the norm, the rows and the scales of the anatomy, what torch sends back: one
reader in each row of the run. Together: the gradient at the stream is the sum of those at all
destinations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from analysis.detection.closeness import Closeness
from analysis.detection.probe import ROWS, Layerwise, Read
from analysis.models.anatomy import Anatomy, Block, Reading, Tap, Unsupported
from analysis.models.hooks import Hooks
from analysis.models.linear import wide

_NOTHING = 1e-6  # what a reader without any effect may be of the gradient: a saturated gate
Rerun = Callable[[], tuple[Layerwise, torch.Tensor]]


def check_readers(
    close: Closeness, parts: Anatomy, seen: Layerwise, logits: torch.Tensor, rerun: Rerun
) -> None:
    """Raise Unsupported unless the gradient at every layer's stream is that of its destinations.

    `rerun` makes the same run again, to find what an error names.
    """
    for block in parts.blocks:
        _all_ran(block, [read for read in seen.cut.reads if read.layer == block.layer])
    some = _Noise(parts)
    entered = seen.given[:-1]
    writes = [y for y in (*seen.cut.writes, logits) if y.requires_grad]
    unseen = _grad(writes, entered, [some.like(y) for y in writes])
    for layer, gradient in enumerate(unseen):
        if gradient is None or not bool((gradient != 0).any()):
            continue
        share = _share(seen, layer, writes, gradient, some)
        if share > _NOTHING:
            raise Unsupported(
                f"gradient audit: layer {layer}: something reads the residual stream that is not "
                f"among the destinations{_culprit(parts, layer, rerun)} ({share:.2g} of the "
                "gradient there)"
            )
    of_layers = [[r for r in seen.cut.reads if r.layer == layer] for layer in range(len(entered))]
    rows = [(read, index % ROWS) for reads in of_layers for index, read in enumerate(reads)]
    sent = [some.of_row(read, row) for read, row in rows]
    arrived = _grad([read.before for read, _ in rows], entered, sent)
    for layer, total in enumerate(arrived):
        for row in range(ROWS):
            own = [
                (r, g)
                for (r, at), g in zip(rows, sent, strict=True)
                if (r.layer, at) == (layer, row)
            ]
            if own:
                _check_formula(close, parts.blocks[layer], seen, own, row, total)


class _Noise:
    """Random gradients, the same each time."""

    def __init__(self, parts: Anatomy) -> None:
        self._device, self._dtype = parts.device, parts.dtype
        self._generator = torch.Generator(parts.device).manual_seed(0)

    def like(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(
            x.shape, generator=self._generator, device=self._device, dtype=self._dtype
        )
        return (noise - 0.5).to(x)

    def of_row(self, read: Read, row: int) -> torch.Tensor:
        """At what was cut, in one row of the run and at destinations only."""
        noise = (
            self.like(read.before) if read.known is None else self.like(read.before) * read.known
        )
        own = torch.zeros_like(noise)
        own.view(ROWS, -1)[row] = noise.view(ROWS, -1)[row]  # [4, T, d], or [4 * T, d]
        return own


def _grad(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], sent: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    return torch.autograd.grad(outputs, inputs, sent, retain_graph=True, allow_unused=True)


def _all_ran(block: Block, reads: list[Read]) -> None:
    """Raise Unsupported unless each reader of a layer has run once, and reads what enters it."""
    sides = [side for reading in block.readings for side in reading.modules]
    taps = [tap for node in block.nodes for tap in node.taps]
    if len(reads) != len(sides) + len(taps):
        raise Unsupported(
            f"gradient audit: layer {block.layer}: {len(sides)} projections and {len(taps)} inputs "
            f"of nodes are said to read the residual stream, and {len(reads)} were seen to run"
        )
    for read in reads:
        if not read.before.requires_grad:
            raise Unsupported(
                f"gradient audit: layer {block.layer}: {_title(read)} is said to read the residual "
                "stream, and does not depend on it"
            )


def _title(read: Read) -> str:
    letters = "".join(dict.fromkeys(letter for side in read.sides for letter in side.letter))
    return f"the {letters} projection" if letters else "a node's input"


def _check_formula(
    close: Closeness,
    block: Block,
    seen: Layerwise,
    reads: list[tuple[Read, torch.Tensor]],
    row: int,
    total: torch.Tensor | None,
) -> None:
    """What was sent from readers of a layer, pulled back by the anatomy, against `total` there."""
    found = torch.stack([_pulled_back(seen, read, sent, row) for read, sent in reads]).sum(0)
    entered = wide(torch.zeros_like(found) if total is None else total[row])
    gauge = _gauge(block)
    entered = entered if gauge is None else entered * gauge.to(entered)
    off = float(close.off(found.flatten(), entered.flatten(), entered.flatten()))
    if off > close.tolerance / 5:
        raise Unsupported(
            f"gradient audit: layer {block.layer}: the gradient at the residual stream is not that "
            f"of {_title(reads[0][0])} (off by {off:.2g} of it); a norm, rows or a scale are not "
            "what they are taken for"
        )


def _gauge(block: Block) -> torch.Tensor | None:
    """That of what enters a layer, by what reads it there."""
    taps = [tap for node in block.nodes for tap in node.taps]
    readers: list[Reading | Tap] = [*block.readings, *taps]
    return next((reader.gauge for reader in readers if reader.point == 0), None)


def _pulled_back(seen: Layerwise, read: Read, sent: torch.Tensor, row: int) -> torch.Tensor:
    """The gradient at the sum of what was written, in one row: [T, d]."""
    reader, shape = read.reader, seen.given[0].shape
    sent = sent.reshape(*shape[:2], -1)[row]
    if isinstance(reader, Reading):
        parts = [
            torch.einsum("the,hed->td", wide(side.seen(sent)), side.weight) for side in read.sides
        ]
        gradient = torch.stack(parts).sum(0)
    else:
        gradient = wide(sent) * reader.scale
    if reader.norm is not None:
        gradient = reader.norm.pull_back(
            seen.cut.stream[reader.place].reshape(shape)[row], gradient
        )
    return gradient if reader.gauge is None else gradient * reader.gauge.to(gradient)


def _share(
    seen: Layerwise, layer: int, writes: list[torch.Tensor], unseen: torch.Tensor, some: _Noise
) -> float:
    """What part of the gradient at a layer's stream goes past its destinations."""
    reads = [read for read in seen.cut.reads if read.layer == layer]
    sent = _grad(writes, [read.leaf for read in reads], [some.like(y) for y in writes])
    known = [(r.before, g) for r, g in zip(reads, sent, strict=True) if g is not None]
    if not known:
        return 1.0
    [through] = _grad([b for b, _ in known], [seen.given[layer]], [g for _, g in known])
    size = float(unseen.norm())
    return size / (size + (0.0 if through is None else float(through.norm())))


def _culprit(parts: Anatomy, layer: int, rerun: Rerun) -> str:
    """` (self_attn.gate_proj)`, or nothing where no module does it."""
    block = parts.blocks[layer]
    taps = [tap for node in block.nodes for tap in node.taps]
    readers: list[Reading | Tap] = [*block.readings, *taps]
    places = [reader.place for reader in readers if reader.norm is not None]
    norms = {part for place in places for part in place.modules()}
    given: dict[str, torch.Tensor] = {}
    with Hooks() as hooks:
        for name, module in block.module.named_modules():
            if module not in norms and not list(module.children()):
                hooks.output(module, partial(given.__setitem__, name))
        seen, _ = rerun()
    covered = {
        id(read.before) for read in seen.cut.reads if read.known is None or bool(read.known.all())
    }
    for name, y in given.items():
        if id(y) in covered or not y.requires_grad:
            continue
        [gradient] = _grad([y], [seen.given[layer]], [torch.ones_like(y)])
        if gradient is not None:
            return f": {name}"
    return ""
