"""What detection finds in a model, against tables of names and heads tried one by one."""

from __future__ import annotations

import pytest
import torch

from analysis.detection.build import build
from analysis.detection.find import find
from tests.support.layouts import by_names
from tests.support.models import ARCHITECTURES, tiny_model


def flat(part):
    """Everything that a part of an anatomy holds, with tensors as lists."""
    if isinstance(part, torch.Tensor):
        return part.tolist()
    if isinstance(part, tuple | list):
        return [flat(one) for one in part]
    if hasattr(part, "__dataclass_fields__"):
        return {name: flat(getattr(part, name)) for name in part.__dataclass_fields__}
    return part


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_anatomy_of_known_families_is_that_of_their_names(architecture, kv):
    model = tiny_model(architecture)
    found, named = build(find(model), model, kv), by_names(model, kv)
    assert flat(found.blocks) == flat(named.blocks)
    assert (found.graph, found.width, found.gauge) == (named.graph, named.width, None)
    assert flat(found.final_norm) == flat(named.final_norm)
    assert (found.decoder, found.embedding, found.layers) == (
        (named.decoder, named.embedding, named.layers)
    )
    assert found.max_tokens == named.max_tokens
