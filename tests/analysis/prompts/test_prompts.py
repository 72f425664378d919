"""Prompts, and pairs built from problems."""

from __future__ import annotations

import re

import pytest

from analysis.prompts.chat import Prompting
from analysis.prompts.pair_building import answer_style_pairs, counterfactual_pairs
from analysis.prompts.problems import Problem, generate
from train.recipes.tiny import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_tokenizer_round_trip_and_single_digits(tokenizer):
    text = "<think>7+5=12</think><answer>É\n12</answer>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in ids[:6]] == ["<think>", "7", "+", "5", "=", "1"]


def test_chat_template_and_think_switch(tokenizer):
    prompt = Prompting("Be brief.").text(tokenizer, "1+1=?")
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1=?")
    assert prompt.endswith("<|im_start|>assistant\n")
    off = Prompting(template_options={"enable_thinking": False}).text(tokenizer, "1+1=?")
    assert off.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("prefix", "mark"), [("<answer>", None), ("<think>", "="), ("The answer is ", None)]
)
def test_counterfactual_pairs(tokenizer, prefix, mark):
    """Same skeleton and length, other operands; target and foil are what each problem calls for."""
    problems = generate("arithmetic", 600, seed=1, split="held_out")
    by_question = {problem.question: problem for problem in problems}
    pairs = counterfactual_pairs(tokenizer, problems, Prompting(), 12, prefix, mark)
    assert len(pairs) == 12
    used = []
    for pair in pairs:
        skeletons = set()
        for ids, wanted in ((pair.clean_ids, pair.target_id), (pair.corrupted_ids, pair.foil_id)):
            text = tokenizer.decode(list(ids))
            question = re.search(r"user\n(.*?)<", text).group(1)
            problem = by_question[question]
            used.append(question)
            skeletons.add(re.sub(r"\d", "#", question))
            if mark is None:
                assert text.endswith(prefix)
                expected = problem.answer[0]
            else:
                given = text.rpartition(prefix)[2]
                assert problem.solution.startswith(given)
                assert given.endswith(mark)
                expected = problem.solution[len(given)]
            assert tokenizer.decode([wanted]) == expected
        assert len(skeletons) == 1
        assert pair.target_id != pair.foil_id
    assert len(set(used)) == len(used)


def test_too_few_counterfactuals_are_an_error(tokenizer):
    with pytest.raises(
        ValueError, match="3 distinct problems gave only 0 counterfactual pairs of 1"
    ):
        same = [Problem("1+1=?", "2"), Problem("11+1=?", "12"), Problem("1+1=?", "2")]
        counterfactual_pairs(tokenizer, same, Prompting(), 1, "<answer>")


def test_answer_style_pairs(tokenizer):
    problems = generate("arithmetic", 5)
    styles = ("<think>{solution}", "<answer>{answer}</answer>")
    pairs = answer_style_pairs(tokenizer, problems, Prompting(), *styles, prefix_tokens=3)
    for pair, problem in zip(pairs, problems, strict=True):
        prompt = Prompting().text(tokenizer, problem.question)
        assert tokenizer.decode(list(pair.clean_ids)) == f"{prompt}<think>{problem.solution[:2]}"
        assert tokenizer.decode(list(pair.corrupted_ids)) == f"{prompt}<answer>{problem.answer[:2]}"
    with pytest.raises(ValueError, match="do not differ within 3 tokens"):
        answer_style_pairs(tokenizer, problems, Prompting(), "same", "same", prefix_tokens=3)


def test_a_tokenizer_without_chat_template_is_named(tokenizer):
    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        Prompting().text(bare, "1+1=?")
