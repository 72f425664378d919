"""Answers are judged with what the prompt begins, and counted."""

from __future__ import annotations

import pytest

from analysis.evaluation import asking
from analysis.evaluation.asking import evaluate, requests_of
from analysis.evaluation.sampling import (
    Sampling,
)
from analysis.prompts.chat import Prompting
from analysis.prompts.problems import Problem
from train.recipes.tiny import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_pass_at_1_by_hand(tokenizer, monkeypatch):
    from analysis.evaluation.sampling import Completion

    problems = [Problem("1+1=?", "2"), Problem("2+2=?", "4"), Problem("3+3=?", "6")]
    answers = ["2", "2", "4", "5", "<think>", "nothing"]
    drawn = [Completion(text, 1, text == "<think>") for text in answers]
    monkeypatch.setattr(asking, "sample", lambda *args: drawn)
    found = evaluate(None, tokenizer, problems, Prompting(), Sampling(samples=2))
    assert found.pass_at_1 == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.low <= found.pass_at_1 <= found.high
    assert (found.truncated, found.failures) == (1, {"no_answer": 2})


def test_what_the_prompt_begins_is_judged_too(monkeypatch):
    """A template that opens a think block: reasoning that was cut off holds no answer."""
    from analysis.evaluation.sampling import Completion

    opens = build_tokenizer()
    opens.chat_template = "{{ messages[0].content + '\\n<think>\\n' }}"
    problems = [Problem("1+1=?", "2")]
    drawn = [Completion("1+1 is 2", 5, True), Completion("hm</think>so 2", 5, False)]
    monkeypatch.setattr(asking, "sample", lambda *args: drawn)
    found = evaluate(None, opens, problems, Prompting(), Sampling(samples=2))
    assert found.failures == {"no_answer": 1}
    assert found.pass_at_1 == 0.5
    requests = requests_of(opens, problems, Prompting(prefix="<answer>"), 1)
    assert requests[0].prompt.endswith("<think>\n\n</think>\n\n<answer>")
    assert requests[0].begun == "\n\n<answer>"
