"""What attribution is predicted to keep is what it keeps."""

from __future__ import annotations

import logging

import pytest
import torch

from analysis.attribution.eap import MEMORY_BUDGET, attribute
from analysis.attribution.gradients import GradientSums
from analysis.attribution.graph_bytes import graph_bytes
from analysis.attribution.memory import Sizes, need, plan
from analysis.detection.detect import anatomy
from analysis.models.forward import run, source_run
from analysis.models.hooks import Hooks
from analysis.prompts.pairs import collate
from tests.support.models import random_pairs, tiny_model


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_differences_and_sums_are_predicted_to_the_byte():
    parts = anatomy(tiny_model("gemma2"))
    batch = collate(list(random_pairs()))
    found = vars(need(Sizes.of(parts), graph_bytes(parts), *batch.clean.shape, MEMORY_BUDGET))
    seen, _ = source_run(parts, batch.clean, batch)
    assert found["differences"] == size([seen.embedding, *seen.zr, *seen.nodes])
    sums = GradientSums(parts)
    with sums.step(1.0):
        run(parts, batch.clean, batch).sum().backward()
    kept = [reading.g for readings in sums.readings for reading in readings]
    kept += [tap for nodes in sums.nodes for node in nodes for tap in node.taps]
    assert found["sums"] == size([*kept, sums.logits])
    assert found["weights"] == size(parts.causal_lm.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_what_autograd_keeps_is_counted(name):
    """Of a longer prompt than those that were counted, against a sum over the live graph."""
    model = tiny_model(name, torch.float32)
    model.requires_grad_(False)
    parts, kept = anatomy(model), {}

    def keep(x):
        kept[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    with Hooks() as hooks, torch.enable_grad():
        hooks.input(parts.layers[0], lambda x: x.detach().requires_grad_())
        for block in parts.blocks:
            for reading in block.readings:
                for module in reading.modules:
                    hooks.output(module, keep)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            logits = model(input_ids=torch.arange(48)[None], use_cache=False).logits
    of_weights = {p.untyped_storage()._cdata for p in model.parameters()}
    alive = sum(s.nbytes() for key, s in kept.items() if key not in of_weights)
    found = graph_bytes(parts)
    assert logits.requires_grad and found.of(48) == pytest.approx(alive, rel=0.05)
    assert found.of(48) / 2 <= found.of(48, "one") < 0.7 * found.of(48)


def test_steps_and_blocks_stay_within_the_budget():
    parts = anatomy(tiny_model("llama", torch.float32))
    large, small = plan(parts, 3, 6, 2**40), plan(parts, 3, 6, 2**14)
    assert (large.steps, large.tokens) == (8, 6)
    assert small.steps * small.step <= 2**14
    assert small.steps == 3
    assert small.tokens == 1  # never less than one


def test_the_log_says_the_plan(caplog):
    with caplog.at_level(logging.INFO):
        attribute(tiny_model("llama", torch.float32), random_pairs(), ig_steps=1)
    assert "up to 8 steps are kept" in caplog.text
