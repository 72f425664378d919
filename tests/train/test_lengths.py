"""What a trainer would leave out is counted first; a training without a step is refused."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace

import pytest

from analysis.prompts.chat import Prompting
from train.lengths import check_rows, steps_said
from train.recipes.tiny import build_tokenizer

LONG = "Think with care. " * 12


def talk(question: str, answer: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def sft(**more) -> SimpleNamespace:
    standard = {
        "max_length": 64,
        "packing": False,
        "packing_strategy": "bfd",
        "truncation_mode": "keep_start",
        "completion_only_loss": None,
        "gradient_accumulation_steps": 1,
        "train_batch_size": 8,
        "world_size": 1,
        "dataloader_drop_last": False,
    }
    return SimpleNamespace(**standard | more)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def check(tokenizer, rows, args, max_lost=0.1, context=None):
    check_rows(rows, tokenizer, Prompting(), args, context, max_lost)


ROWS = [talk("1+1=?", "2")] * 8 + [talk(LONG, "2")] * 20 + [talk("1+1=?", LONG)] * 4


def test_rows_too_long_for_sft(tokenizer, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError) as caught:
        check(tokenizer, ROWS, sft())
    said = str(caught.value)
    assert said.startswith("of 32 rows of the training data 24 are rows longer than train.args.max")
    assert "20 of them to be dropped" in said and said.endswith("accept it with data.max_lost=0.75")
    check(tokenizer, ROWS, sft(), max_lost=0.75)
    assert caplog.messages[-1] == (
        "training data: 32 rows; 24 rows longer than train.args.max_length=64 (20 dropped); "
        "2 steps an epoch"
    )
    with pytest.raises(ValueError, match="accept it with"):
        check(tokenizer, ROWS, sft(truncation_mode="keep_end"))
    with pytest.raises(ValueError, match="leave these rows out$"):  # none would be left
        check(tokenizer, ROWS[8:28], sft(), max_lost=1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"max_length": None}, "32 rows; 4 steps an epoch"),
        ({"packing": True, "packing_strategy": "wrapped"}, "32 rows; packed"),
        (
            {"max_length": 4096, "train_batch_size": 2, "world_size": 2},
            "0 rows longer .*; 8 steps an",
        ),
        (
            {"max_length": None, "world_size": 3, "gradient_accumulation_steps": 4},
            "32 rows; 1 steps",
        ),
    ],
)
def test_nothing_is_lost(tokenizer, caplog, more, said):
    caplog.set_level(logging.INFO)
    check(tokenizer, ROWS, sft(**more), max_lost=0)
    assert re.search(said, caplog.messages[-1])


def test_packing_and_conversations_are_counted_too(tokenizer):
    talks = [{"messages": [*row["prompt"], *row["completion"]]} for row in ROWS]
    for rows, args in ((talks, sft()), (ROWS, sft(packing=True))):
        with pytest.raises(ValueError, match=r"24 are rows longer .* \(the longest has \d+ tok"):
            check(tokenizer, rows, args)


def grpo(tmp_path, **more):
    from trl import GRPOConfig

    standard = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 40}
    return GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **standard | more)


def test_prompts_too_long_for_grpo(tokenizer, tmp_path):
    rows = [{"prompt": row["prompt"], "answer": "2"} for row in ROWS]
    with pytest.raises(ValueError, match="20 are prompts longer than 60 tokens, which leave no ro"):
        check(tokenizer, rows, grpo(tmp_path), context=100)
    check(tokenizer, rows, grpo(tmp_path), context=1000)
    with pytest.raises(ValueError, match="max_completion_length=40 leaves no room for a prompt"):
        check(tokenizer, rows, grpo(tmp_path), context=40)


def test_a_training_without_a_step_is_refused(tmp_path):
    assert steps_said(2, grpo(tmp_path)) == "1 steps an epoch"
    assert steps_said(7, grpo(tmp_path)) == "3 steps an epoch; 1 prompts left out of each"
    accumulated = grpo(tmp_path, gradient_accumulation_steps=2, num_iterations=2)
    assert steps_said(8, accumulated) == "4 steps an epoch"
    with pytest.raises(ValueError, match=r"takes 4 prompts \(16 completions, 4 of each\), and the"):
        steps_said(3, accumulated)
    with pytest.raises(ValueError, match="7 rows are fewer than a batch of 16"):
        steps_said(7, sft(world_size=2, dataloader_drop_last=True))
