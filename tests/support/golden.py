"""Reference scores of the EAP-IG package (tests/golden/README.md)."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from analysis import Pair, Pairs
from tests.support.places import GOLDEN


def golden(name: str) -> tuple:
    """A reference model in float64, its pairs by case, its scores and their columns."""
    from transformers import AutoModelForCausalLM

    directory = GOLDEN / name
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    cases = json.loads((directory / "cases.json").read_text())
    columns = cases.pop("columns")
    pairs = {
        case: Pairs([Pair(tuple(c), tuple(k), *labels) for c, k, labels in rows])
        for case, rows in cases.items()
    }
    return model, pairs, load_file(directory / "scores.safetensors"), columns
