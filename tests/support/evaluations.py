"""`headlab evaluate` on the model whose circuit is known."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.cli import parse
from analysis.commands.evaluate import act
from analysis.evaluation.setup import Options


def load(directory: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def words(copier: Path, out: Path, *more: str) -> list[str]:
    return [
        f"model={copier}",
        f"task=jsonl:{copier}/task.jsonl",
        "suffix=''",
        "max_new_tokens=4",
        "n=2",
        "temperature=0.3",
        f"out={out}",
        *more,
    ]


def run(copier: Path, out: Path, *more: str) -> dict:
    act(parse(Options, words(copier, out, *more)))
    return json.loads((out / "scores.json").read_text())
