"""What attribution keeps in memory, beside what the model's own passes need.

    differences  what every source writes on the corrupted prompt less on the clean one (of heads,
                 what enters the output projection), in float32 or wider
    sums         gradients, summed over the steps
    steps        the stream where it is read, of each step until it is contracted
    block        what sources write and destinations read, [d] each, at the tokens of one block

Shape legend: B pairs, T positions, d residual width.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.attribution.contraction import block_bytes
from analysis.models.anatomy import Anatomy
from analysis.models.linear import linear_map
from analysis.models.maps import Map

BLOCK_SHARE = 160  # a block of tokens gets this part of the budget, 26 MiB: it stays in the caches
MOST_STEPS = 8  # that are kept before they are contracted


@dataclass(frozen=True)
class Plan:
    """How a batch is attributed within a budget: steps that are kept, and tokens of a block.

    step, block: bytes of one.
    """

    steps: int
    tokens: int
    step: int
    block: int


def plan(parts: Anatomy, n_pairs: int, length: int, budget: int) -> Plan:
    """The plan for a batch of pairs of so many tokens and a budget of bytes."""
    readings = sum(len(block.readings) for block in parts.blocks)
    element = parts.embedding.weight.element_size()
    step = max(1, readings * n_pairs * length * parts.width * element)
    token = block_bytes(parts, n_pairs)
    steps = max(1, min(MOST_STEPS, budget // step))
    tokens = max(1, min(length, budget // BLOCK_SHARE // token))
    return Plan(steps, tokens, step, tokens * token)


def predicted(parts: Anatomy, n_pairs: int, length: int, budget: int) -> dict[str, int]:
    """Bytes of each of the things above, and of the model's weights."""
    made, each = plan(parts, n_pairs, length, budget), n_pairs * length * parts.dtype.itemsize
    heads = sum(linear_map(part.o_proj).shape[1] for _, part in parts.heads)
    readings = [reading for block in parts.blocks for reading in block.readings]
    rows = sum(
        side.width * (parts.width if isinstance(reading.norm, Map) else side.n_rows)
        for reading in readings
        for side in reading.sides
    )
    taps = sum(len(node.taps) for _, _, node in parts.nodes)
    return {
        "weights": sum(p.numel() * p.element_size() for p in parts.causal_lm.parameters()),
        "differences": each * (heads + (1 + len(parts.nodes)) * parts.width),
        "sums": each * (rows + (1 + taps) * parts.width),
        "steps": made.steps * made.step,
        "block": made.block,
    }
