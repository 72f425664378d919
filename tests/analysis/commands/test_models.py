"""`headlab models`: the table of types, and what is found in one model."""

from __future__ import annotations

import json

import pytest
import torch

from analysis import commands
from analysis.reporting.anatomy_features import known_models
from analysis.reporting.text import WIDTH
from tests.support.families.build import build


@pytest.fixture
def run(capsys):
    """Run `headlab models` in this process: what it prints."""

    def command(*arguments: str) -> str:
        capsys.readouterr()  # what saving a model has printed
        commands.run("models", list(arguments))
        return str(capsys.readouterr().out)

    return command


def test_without_a_model_every_type_is_listed(run):
    assert "qwen3_moe" in run()
    assert [model["type"] for model in json.loads(run("json=true"))] == [
        model.type for model in known_models()
    ]


def test_a_model_that_is_supported(run, tmp_path):
    model = build("granite", dtype=torch.float32)
    model.save_pretrained(tmp_path / "m")
    text = run(f"model={tmp_path / 'm'}", "batch_size=2", "tokens=16")
    assert text.startswith("GraniteForCausalLM is supported.")
    assert "queries for each head, keys and" in text
    assert "Memory for 2 pairs of 16 tokens" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    found = json.loads(run(f"model={tmp_path / 'm'}", "json=true"))
    assert found["heads"] == [4, 4]
    assert found["special"] == ["scaled outputs"]
    assert found["memory"]["weights"] == sum(p.numel() * 4 for p in model.parameters())


def test_a_model_that_is_refused(run, tmp_path):
    build("jetmoe", dtype=torch.float32).save_pretrained(tmp_path / "m")
    text = run(f"model={tmp_path / 'm'}")
    assert text.startswith("JetMoeForCausalLM is not supported: layer 0")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert json.loads(run(f"model={tmp_path / 'm'}", "json=true"))["supported"] is False


def test_a_mistyped_graph_is_refused_before_a_model_is_looked_for(capsys):
    with pytest.raises(SystemExit):
        commands.run("models", ["model=nowhere", "kv=groupd"])
    assert capsys.readouterr().err == "error: kv is 'groupd'; did you mean grouped?\n"
