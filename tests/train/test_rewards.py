"""Rewards of completions."""

from __future__ import annotations

from analysis.prompts.problems import Problem, generate
from train.rewards import REWARDS


def test_rewards():
    good = "<think>7+5=12</think><answer>12</answer>"
    messages = [[{"role": "assistant", "content": text}] for text in (good, "12", "<think>" + good)]
    logged: dict[str, float] = {}
    scores = REWARDS["accuracy"](messages, answer=["12"] * 3, log_metric=logged.__setitem__)
    assert scores == [1.0, 1.0, 1.0]
    assert REWARDS["format"](messages) == [1.0, 0.0, 0.0]
    assert REWARDS["tag_count"](messages) == [1.0, 0.0, 0.75]
    assert REWARDS["format"]([good]) == [1.0]
    REWARDS["accuracy"](
        ["no", "<answer>5</answer>"], answer=["5", "5"], log_metric=logged.__setitem__
    )
    assert logged["verify/no_answer"] == 0.5


def test_a_completion_that_the_parser_cannot_read_scores_zero_and_is_counted():
    logged: dict[str, float] = {}
    answer = ["<answer>}</answer>", "<answer>5</answer>"]
    scores = REWARDS["accuracy"](answer, answer=["5", "5"], log_metric=logged.__setitem__)
    assert scores == [0.0, 1.0]
    assert logged["verify/unparseable"] == 0.5


def test_rewards_judge_by_what_is_right_for_each_row():
    """The column `gold`, rows repeated and shuffled as a trainer does."""
    (countdown,) = generate("reasoning_gym:countdown", 1)
    problems = [countdown, Problem("2*2=?", "4", alternatives=("four",))]
    golds = [problems[i].gold.to_json() for i in (1, 0, 0, 1)]
    target = countdown.question.split()[1]
    texts = ["four", target, countdown.answer, target]
    completions = [f"<answer>{text}</answer>" for text in texts]
    assert REWARDS["accuracy"](completions, answer=[target] * 4, gold=golds) == [1.0, 0.0, 1.0, 0.0]
