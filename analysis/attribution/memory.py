"""What attribution keeps in memory, beside what the model's own passes need.

    differences  what every source writes on the corrupted prompt less on the clean one (of heads,
                 what enters the output projection), in float32 or wider
    sums         gradients, summed over the steps
    steps        the stream where it is read, of each step until it is contracted
    points       of ig_steps=auto: scores of a pair's later points, until its path is closed
    block        what sources write and destinations read, [d] each, at the tokens of one block

The passes themselves need what autograd keeps of all layers (analysis/attribution/graph_bytes.py),
or, where each layer is run twice, of one layer, and what every layer was given.

Shape legend: B pairs, T positions, d residual width.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.attribution.contraction import block_bytes
from analysis.attribution.graph_bytes import GraphBytes
from analysis.attribution.refinement import MOST, START
from analysis.models.anatomy import Anatomy
from analysis.models.graph import Graph
from analysis.models.linear import linear_map
from analysis.models.maps import Map

BLOCK_SHARE = 160  # a block of tokens gets this part of the budget, 26 MiB: it stays in the caches
MOST_STEPS = 8  # that are kept before they are contracted
LOGITS = 6  # tensors of the size of the logits in a metric and its gradient, at one place of a pair


@dataclass(frozen=True)
class Plan:
    """How a batch is attributed within a budget: steps that are kept, and tokens of a block.

    step, block: bytes of one. open: pairs whose later points are kept at a time, with
    ig_steps=auto. points: bytes of those of one pair, if it takes the most.
    """

    steps: int
    tokens: int
    step: int
    block: int
    open: int
    points: int


@dataclass(frozen=True)
class Sizes:
    """What of a model its attribution's memory depends on.

    heads: inputs of all output projections. nodes: that write. rows: that destinations have in all,
    d for one whose reading has no norm of known form. taps: of nodes. readings: of all layers.
    layers, width (d), vocabulary: of the model. itemsize: bytes of a number in sums; own: of one of
    the model's. weights: bytes.
    """

    heads: int
    nodes: int
    rows: int
    taps: int
    readings: int
    layers: int
    width: int
    vocabulary: int
    itemsize: int
    own: int
    weights: int
    graph: Graph

    @classmethod
    def of(cls, parts: Anatomy) -> Sizes:
        """Those of a model whose parts are known."""
        readings = [reading for block in parts.blocks for reading in block.readings]
        rows = sum(
            side.width * (parts.width if isinstance(reading.norm, Map) else side.n_rows)
            for reading in readings
            for side in reading.sides
        )
        return cls(
            heads=sum(linear_map(part.o_proj).shape[1] for _, part in parts.heads),
            nodes=len(parts.nodes),
            rows=rows,
            taps=sum(len(node.taps) for _, _, node in parts.nodes),
            readings=len(readings),
            layers=len(parts.layers),
            width=parts.width,
            vocabulary=parts.vocabulary,
            itemsize=parts.dtype.itemsize,
            own=parts.embedding.weight.element_size(),
            weights=sum(p.numel() * p.element_size() for p in parts.causal_lm.parameters()),
            graph=parts.graph,
        )


def plan(parts: Anatomy, n_pairs: int, length: int, budget: int) -> Plan:
    """The plan for a batch of pairs of so many tokens and a budget of bytes."""
    readings = sum(len(block.readings) for block in parts.blocks)
    return _plan(
        *(readings, parts.width, parts.embedding.weight.element_size(), parts.dtype.itemsize),
        *(parts.graph, n_pairs, length, budget),
    )


def _plan(
    readings: int,
    width: int,
    own: int,
    itemsize: int,
    graph: Graph,
    n_pairs: int,
    length: int,
    budget: int,
) -> Plan:
    step = max(1, readings * n_pairs * length * width * own)
    token = block_bytes(graph, n_pairs, width * itemsize)
    steps = max(1, min(MOST_STEPS, budget // step))
    tokens = max(1, min(length, budget // BLOCK_SHARE // token))
    points = (MOST - START) * graph.n_edges * itemsize
    pairs = max(1, min(n_pairs, (budget - step) // points))  # a later point's step goes at once
    return Plan(steps, tokens, step, tokens * token, pairs, points)


@dataclass(frozen=True)
class Need:
    """Bytes of each of the things above, of one batch; `peak` is what is there at once.

    passes: what autograd keeps of one pass, or with `recompute` of one layer, and all layers'
    inputs. logits: where the metric is read. points: of the pairs that are open.
    """

    weights: int
    differences: int
    sums: int
    steps: int
    block: int
    points: int
    passes: int
    logits: int

    @property
    def above(self) -> int:
        """The peak beside the weights.

        The steps of the start go before the later points come, which need the differences of their
        rows once more.
        """
        both = max(self.steps, self.differences + self.points) if self.points else self.steps
        return self.differences + self.sums + self.block + self.passes + self.logits + both

    @property
    def peak(self) -> int:
        """The weights included."""
        return self.weights + self.above


def need(
    sizes: Sizes,
    graph: GraphBytes,
    n_pairs: int,
    length: int,
    budget: int,
    points: int = MOST_STEPS,
    later: float = 0.0,
    recompute: bool = False,
) -> Need:
    """What a batch of pairs of so many tokens needs, with gradients at `points` of the path.

    graph: what autograd keeps. later: points of a pair beyond those, of ig_steps=auto.
    """
    s, tokens = sizes, n_pairs * length
    made = _plan(s.readings, s.width, s.own, s.itemsize, s.graph, n_pairs, length, budget)
    passes = n_pairs * (graph.of(length, "one") if recompute else graph.of(length))
    if recompute:
        passes += tokens * s.layers * s.width * s.own
    open_points = min(later, MOST - START) * min(n_pairs, made.open) / (MOST - START)
    return Need(
        weights=s.weights,
        differences=tokens * s.itemsize * (s.heads + (1 + s.nodes) * s.width),
        sums=tokens * s.itemsize * (s.rows + (1 + s.taps) * s.width),
        # that of the last is a part of its pass
        steps=(min(made.steps, points) - 1) * made.step,
        block=made.block,
        points=int(open_points * made.points),
        passes=passes,
        logits=LOGITS * n_pairs * s.vocabulary * s.itemsize,
    )
