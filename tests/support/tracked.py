"""A tracked run of one record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis import Pair, Pairs
from analysis.prompts.pairs import encode
from analysis.records.run_file import RunFile
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from train.recipes.tiny import build_tokenizer

SETTINGS = TrackingSettings(fraction=0.1, resamples=50, ig_steps=2)


def tracked(run: Path, tiny_dir: Path) -> tuple[Any, Pairs]:
    """A run of one record, of the tiny model on arithmetic prompts of its chat template."""
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()

    def ids(a: int, b: int) -> tuple[int, ...]:
        asked = [{"role": "user", "content": f"{a} + {b}"}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return encode(tokenizer, text + "<answer>")

    pairs = Pairs([Pair(ids(a, 9 - a), ids(9 - a, a + 1)) for a in range(1, 7)])
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    RunFile("r", "track").write(run)
    HeadTracker(run, pairs, SETTINGS, tokenizer).track(model, 0, show_progress=False)
    return model, pairs
