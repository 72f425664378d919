"""What attribution is predicted to keep is what it keeps."""

from __future__ import annotations

import logging

import torch

from analysis.attribution.eap import MEMORY_BUDGET, attribute
from analysis.attribution.gradients import GradientSums
from analysis.attribution.memory import plan, predicted
from analysis.detection.detect import anatomy
from analysis.models.forward import run, source_run
from analysis.prompts.pairs import collate
from tests.support.models import random_pairs, tiny_model


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_differences_and_sums_are_predicted_to_the_byte():
    parts = anatomy(tiny_model("gemma2"))
    batch = collate(list(random_pairs()))
    found = predicted(parts, *batch.clean.shape, MEMORY_BUDGET)
    seen, _ = source_run(parts, batch.clean, batch)
    assert found["differences"] == size([seen.embedding, *seen.zr, *seen.nodes])
    sums = GradientSums(parts)
    with sums.step(1.0):
        run(parts, batch.clean, batch).sum().backward()
    kept = [reading.g for readings in sums.readings for reading in readings]
    kept += [tap for nodes in sums.nodes for node in nodes for tap in node.taps]
    assert found["sums"] == size([*kept, sums.logits])
    assert found["weights"] == size(parts.causal_lm.parameters())


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
