"""A norm as a map of which nothing is known but what it computes, against its closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from analysis import attribute
from analysis.detection.detect import anatomy
from analysis.models.anatomy import Anatomy
from analysis.models.maps import Map
from tests.support.families.build import build
from tests.support.families.proof import some_pairs


def as_maps(parts: Anatomy) -> Anatomy:
    """The same parts, which know no form of what stands between the stream and a reader."""

    def unknown(part):
        return part if part.norm is None else replace(part, norm=Map(part.norm.module))

    blocks = []
    for block in parts.blocks:
        nodes = tuple(replace(n, taps=tuple(map(unknown, n.taps))) for n in block.nodes)
        blocks.append(replace(block, readings=tuple(map(unknown, block.readings)), nodes=nodes))
    return replace(parts, blocks=tuple(blocks))


# of gptj the MLP reads through the attention's norm, which has a bias; of the last the layers
# multiply the stream
@pytest.mark.parametrize("kind", ["llama", "gptj", "gemma4_unified_text"])
def test_scores_through_maps_are_those_of_the_closed_form(kind):
    model, pairs = build(kind, dtype=torch.float64), some_pairs()
    parts = anatomy(model)
    assert (parts.gauge is not None) == (kind == "gemma4_unified_text")
    settings = {"metric": "logit_diff", "ig_steps": 2, "memory_budget": 1}  # a sum for each step
    for method in ("EAP-IG-inputs", "exact") if kind == "llama" else ("EAP-IG-inputs",):
        wanted = attribute(model, pairs, method, parts=parts, **settings).per_pair
        found = attribute(model, pairs, method, parts=as_maps(parts), **settings).per_pair
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
