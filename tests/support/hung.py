"""Trainings by trainers that know nothing of headlab, with `HeadTracking` hung on them or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.support.runs import assert_same, final_state

PLAIN: dict[str, Any] = {
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
}
TRACKING: dict[str, Any] = {"resamples": 10, "ig_steps": 2}


def load(directory: Path, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **more)


def tokenizer_of(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def write_pairs(path: Path) -> Path:
    """A file of text pairs, which need the trainer's tokenizer.

    Without answers: by them the random models would lack the behaviour, and have no circuit.
    """
    rows = [{"clean": f"{a}+{9 - a}=", "corrupted": f"{9 - a}+{a - 1}="} for a in range(1, 4)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def rows(tokenizer: Any, count: int = 16) -> Any:
    """A data set of token ids for a `transformers.Trainer`."""
    from datasets import Dataset

    ids = [tokenizer(f"{i % 9} + {i % 7} = {i % 9 + i % 7}")["input_ids"][:9] for i in range(count)]
    return Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])


def plain_trainer(model_dir: Path, out: Path, **more: Any) -> Any:
    """A `transformers.Trainer` of the tiny model; callbacks, model and data sets may be given."""
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(0)
    tokenizer = tokenizer_of(model_dir)
    names = ("callbacks", "model", "eval_dataset", "processing_class")
    own = {name: more.pop(name) for name in names if name in more}
    own = {"model": None, "processing_class": tokenizer, **own}
    if own["model"] is None:
        own["model"] = load(model_dir)
    args = TrainingArguments(output_dir=str(out), **PLAIN | more)
    return Trainer(args=args, train_dataset=rows(tokenizer), **own)


def assert_left_alone(make: Callable[[Path], Any], tracking: Any, tmp_path: Path) -> Path:
    """A tracked training ends in the bits of one without; the directory of the tracked one."""
    states = {}
    for name in ("bare", "tracked"):
        trainer = make(tmp_path / name)
        if name == "tracked":
            trainer.add_callback(tracking)
        trainer.train()
        states[name] = final_state(tmp_path / name)
    assert_same(states["tracked"], states["bare"])
    return tmp_path / "tracked"
