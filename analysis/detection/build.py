"""The anatomy of a model by its plan: modules in the place of names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from analysis.detection.plan import (
    HeadsPlan,
    Held,
    LayerPlan,
    NodePlan,
    NormPlan,
    Plan,
    ReadingPlan,
    SidePlan,
    TapPlan,
)
from analysis.detection.points import Factor
from analysis.models.anatomy import (
    Anatomy,
    Block,
    Heads,
    Node,
    Norm,
    Projection,
    Reading,
    Tap,
    Unsupported,
    in_force,
)
from analysis.models.configuration import position_limit
from analysis.models.graph import Graph, HeadsShape, LayerShape, NodeShape, SideShape
from analysis.models.linear import wide
from analysis.models.maps import Map


def build(plan: Plan, causal_lm: Any, kv: str = "grouped") -> Anatomy:
    """The anatomy of the model that a plan was made of, or of one of the same modules.

    Raises:
        Unsupported: in the ungrouped graph, heads share more than keys and values.
        AttributeError: the model has no module of a name.
    """
    layers = causal_lm.get_submodule(plan.layers_name)
    gauge: Factor = 1.0
    blocks, shapes = [], []
    for index, (layer, own) in enumerate(zip(layers, plan.layers, strict=True)):
        builder = _LayerBuilder(index, layer, own, kv, gauge)
        blocks.append(builder.block())
        shapes.append(builder.shape())
        gauge = builder.gauges[-1]
    embedding = in_force(causal_lm.get_input_embeddings())
    final = plan.final
    return Anatomy(
        causal_lm=causal_lm,
        decoder=causal_lm.get_submodule(plan.decoder),
        embedding=embedding,
        layers=layers,
        blocks=tuple(blocks),
        graph=Graph.of(tuple(shapes), _kv_heads(plan), kv),
        width=plan.width,
        gauge=_tensor(gauge),
        final_norm=None if final is None else _norm(causal_lm, final),
        max_tokens=position_limit(causal_lm),
    )


def _norm(parent: nn.Module, plan: NormPlan) -> Norm:
    assert plan.form is not None
    return plan.form.norm(parent.get_submodule(plan.module))


def _before(parent: nn.Module, plan: NormPlan | None) -> Norm | Map | None:
    """What stands between the stream and a reader."""
    if plan is None:
        return None
    if plan.form is None:
        return Map(in_force(parent.get_submodule(plan.module)))
    return _norm(parent, plan)


def _tensor(gauge: Factor) -> torch.Tensor | None:
    """A gauge as the anatomy has it: None for 1."""
    if isinstance(gauge, torch.Tensor):
        return gauge
    return None if gauge == 1.0 else torch.tensor(gauge)


def _kv_heads(plan: Plan) -> int:
    """Key/value heads of the layer with most, or heads where none are shared."""
    shared = [
        sum(side.rows.n for r in layer.readings for side in r.sides if side.letter == letter)
        for layer in plan.layers
        for letter in ("k", "kv")
        if any(side.of == "kv" for r in layer.readings for side in r.sides)
    ]
    heads = [sum(part.count for part in layer.heads) for layer in plan.layers]
    return max(shared, default=0) or max(heads, default=0)


class _LayerBuilder:
    """Builds one layer's block and shape."""

    def __init__(
        self, index: int, layer: nn.Module, plan: LayerPlan, kv: str, gauge: Factor
    ) -> None:
        self.index, self.layer, self.plan, self.kv = index, layer, plan, kv
        self.gauges = [gauge]
        for update in plan.updates:
            self.gauges.append(self.gauges[-1] * self._factor(update.kept))

    def block(self) -> Block:
        """The modules of the layer's parts."""
        return Block(
            self.index,
            self.layer,
            tuple(self._readings()),
            tuple(self._heads()),
            tuple(self._node(node) for node in self.plan.nodes),
        )

    def shape(self) -> LayerShape:
        """The layer's part of the graph."""
        heads = tuple(HeadsShape(part.count, part.point, part.kind) for part in self.plan.heads)
        nodes = tuple(
            NodeShape(node.letter, tuple(sorted({tap.point for tap in node.taps})), node.point)
            for node in self.plan.nodes
        )
        return LayerShape(len(self.plan.updates), heads, tuple(self._sides()), nodes)

    def _sides(self) -> Iterator[SideShape]:
        numbered: dict[str, int] = {}
        for reading in self.plan.readings:
            for side in reading.sides:
                feeds, of = side.feeds, side.of
                if self._copies(side) > 1:
                    feeds, of = tuple((head,) for group in feeds for head in group), "h"
                elif of == "kv" and self.kv == "ungrouped":
                    of = "h"
                first = numbered.get(side.letter, 0) if of == "kv" else 0
                numbered[side.letter] = first + len(feeds)
                yield SideShape(side.letter, of, reading.point, feeds, first)

    def _copies(self, side: SidePlan) -> int:
        """Copies of each destination in the ungrouped graph: the heads that share it."""
        if self.kv == "grouped" or side.letter == "in":
            return 1
        sizes = {len(feeds) for feeds in side.feeds}
        if side.of in ("h", "kv") and len(sizes) == 1:
            return sizes.pop()
        raise Unsupported(
            f"layer {self.index}: in {side.module} heads share more than whole keys and values, "
            "and the ungrouped graph is not defined there; use kv=grouped"
        )

    def _module(self, name: str) -> Any:
        return in_force(self.layer.get_submodule(name))

    def _factor(self, planned: Any) -> Factor:
        """A factor as it is now."""
        if not isinstance(planned, Held):
            return planned
        value = wide(getattr(self.layer, planned.name).detach()) + planned.shift
        return float(value) if value.numel() == 1 else value.reshape(-1)

    def _share(self, point: int, name: str) -> float | torch.Tensor:
        """What a module's output is multiplied with, over the gauge."""
        share = self._factor(self.plan.updates[point - 1].shares[name])
        gauge = self.gauges[point]
        return share if isinstance(gauge, float) and gauge == 1.0 else share / gauge

    def _readings(self) -> Iterator[Reading]:
        column = 0
        for plan in self.plan.readings:
            reading = self._reading(plan, column)
            column += reading.width
            yield reading

    def _reading(self, plan: ReadingPlan, column: int) -> Reading:
        sides: list[Projection] = []
        for side in plan.sides:
            projection = Projection(
                self._module(side.module),
                side.rows.index,
                sum(before.width for before in sides),
                side.letter,
                plan.scale,
                self._copies(side),
            )
            sides.append(projection)
        norm = _before(self.layer, plan.norm)
        place = self._module(plan.place)
        gauge = _tensor(self.gauges[plan.point])
        return Reading(norm, place, tuple(sides), column, plan.point, gauge)

    def _heads(self) -> Iterator[Heads]:
        first = 0
        for plan in self.plan.heads:
            yield self._one_projection(plan, first)
            first += plan.count

    def _one_projection(self, plan: HeadsPlan, first: int) -> Heads:
        after = plan.after
        return Heads(
            self._module(plan.attention),
            self._module(plan.o_proj),
            plan.count,
            first,
            after=_norm(self.layer, after) if isinstance(after, NormPlan) else None,
            linear_after=self._module(after) if isinstance(after, str) else None,
            scale=self._share(plan.point, plan.branch),
            point=plan.point,
            kind=plan.kind,
        )

    def _node(self, plan: NodePlan) -> Node:
        writes = tuple((self._module(n), self._share(plan.point, n)) for n in plan.writes)
        return Node(plan.letter, tuple(map(self._tap, plan.taps)), writes, plan.point)

    def _tap(self, plan: TapPlan) -> Tap:
        norm = _before(self.layer, plan.norm)
        gauge = _tensor(self.gauges[plan.point])
        return Tap(self._module(plan.module), plan.point, norm, plan.scale, gauge)
