"""Roles of heads: intervals over pairs, their file, models with an adapter."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.heads.attention import (
    PATTERN_SCORES,
)
from analysis.heads.resampling import resample_weights
from analysis.heads.roles import (
    head_roles,
    read_roles,
    roles_path,
    summarise,
    write_roles,
)
from analysis.intervals import LEVELS
from analysis.reporting.roles import TITLES, role_cells
from tests.support.models import random_pairs, tiny_model


def test_intervals_are_a_bootstrap_over_the_pairs_that_define_a_score() -> None:
    generator = torch.Generator().manual_seed(0)
    per_pair = torch.rand(6, len(PATTERN_SCORES), 2, generator=generator, dtype=torch.float64)
    per_pair[0, 2], per_pair[:, 3] = torch.nan, torch.nan
    names = ["L0H0", "L0H1"]
    roles = summarise(per_pair, torch.tensor([0.5, -1.0]), names, "tokens", 200, seed=4)
    counts = resample_weights(range(6), 200, 4)[1:].double().numpy() * 6
    values = per_pair[1:, 2, 1].numpy()
    means = (counts[:, 1:] * values).sum(1) / counts[:, 1:].sum(1)
    operands = roles.scores["operands"]
    assert operands.pairs == 5
    assert operands.value[1] == pytest.approx(values.mean())
    assert [operands.low[1], operands.high[1]] == pytest.approx(np.quantile(means, LEVELS))
    assert roles.scores["answer"].pairs == 0
    assert role_cells(roles, 1)[list(TITLES).index("answer")] == "-"
    assert role_cells(roles, 1)[list(TITLES).index("copying")] == "-1.00"


def test_roles_survive_their_file(tmp_path: Path) -> None:
    roles = head_roles(tiny_model("qwen2"), random_pairs(4, (20, 16)), resamples=20)
    write_roles(tmp_path, 40, "abc", roles)
    content = json.loads((tmp_path / "roles" / "step-000040.json").read_text())
    assert content["scores"]["think"]["value"] == [None] * 8
    back = read_roles(tmp_path, 40)
    assert back is not None
    for head in range(8):
        assert role_cells(back, head) == role_cells(roles, head)
    assert (back.heads, back.unit) == (roles.heads, "tokens")
    assert read_roles(tmp_path, 41) is None
    roles_path(tmp_path, 40).write_text(json.dumps({**content, "schema": 0}))
    with pytest.raises(ValueError, match="has schema 0"):
        read_roles(tmp_path, 40)


def test_roles_of_a_peft_model_are_those_of_its_merged_copy() -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model("llama")
    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj", "o_proj"],
        init_lora_weights=False,
        modules_to_save=["embed_tokens", "lm_head"],
        lora_dropout=0.5,
    )
    model = get_peft_model(base, config).double().train()
    pairs = random_pairs(4, (20, 16))
    found = head_roles(model, pairs, resamples=20)
    assert model.training
    merged = copy.deepcopy(model).eval().merge_and_unload()
    wanted = head_roles(merged, pairs, resamples=20)
    for name in TITLES:
        assert found.scores[name].value == pytest.approx(
            wanted.scores[name].value, abs=1e-5, nan_ok=True
        )
