"""How answers begin and end: what the prompt has opened, which tokens end a turn."""

from __future__ import annotations

import pytest

from analysis.evaluation.asking import requests_of
from analysis.evaluation.verify import judge
from analysis.prompts.chat import Prompting
from analysis.prompts.pair_building import answer_style_pairs, counterfactual_pairs
from analysis.prompts.problems import Problem, generate
from analysis.prompts.turns import NO_THINK, Turn, end_of_turn, ends_of
from tests.support.templates import tokenizer_with


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("chatml", "<|im_end|>"),
        ("drops_thinking", "<|im_end|>"),
        ("open_end", "<|im_end|>"),
        ("no_end", None),
        ("headers", None),
        ("broken", None),
    ],
)
def test_the_end_of_a_turn(template, end):
    tokenizer = tokenizer_with(template)
    wanted = None if end is None else tokenizer.convert_tokens_to_ids(end)
    assert end_of_turn(tokenizer) == wanted
    ends = {tokenizer.eos_token_id, 5, *([] if wanted is None else [wanted])}
    assert ends_of(tokenizer, [5]) == ends_of(tokenizer, 5) == sorted(ends)


def test_an_end_that_is_an_added_token_but_not_special():
    from tokenizers import AddedToken

    tokenizer = tokenizer_with("chatml")
    tokenizer.add_tokens([AddedToken("<end>", special=False)])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", " <end>")
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<end>")


@pytest.mark.parametrize(
    ("template", "prompting", "opened"),
    [
        ("chatml", Prompting(), ""),
        ("chatml", Prompting("Write <think>...</think>"), ""),
        ("chatml", Prompting(suffix=" <think>"), ""),
        ("chatml", Prompting(think="off"), NO_THINK),
        ("chatml", Prompting(prefix="<think>Hm"), "<think>Hm"),
        ("opens_think", Prompting(), "<think>\n"),
        ("opens_think", Prompting(think="off"), NO_THINK),
        ("opens_think", Prompting(prefix="<think>Hm"), "<think>\nHm"),
        ("opens_think", Prompting(prefix="<answer>"), NO_THINK + "<answer>"),
        ("headers", Prompting(suffix="\n<think>\n"), "<think>\n"),
    ],
)
def test_what_a_prompt_has_opened(template, prompting, opened):
    prompt = prompting.prompt(tokenizer_with(template), "7+5=?")
    assert prompt.turn.opened == opened
    assert prompt.text.endswith(opened)
    assert "<think>\n<think>" not in prompt.text


def test_an_answer_cut_off_while_it_thinks_has_none():
    turn = Turn("<think>\n", "<|im_end|>")
    assert judge(turn.judged("7+5 is 12"), "12").failure == "no_answer"
    assert judge(turn.judged("7+5</think>12<|im_end|>"), "12").correct
    assert judge(Turn(NO_THINK).judged("<think>7+5=12"), "12").failure == "no_answer"
    asked = requests_of(
        tokenizer_with("opens_think"), [Problem("7+5=?", "12")], Prompting(prefix="So "), 1
    )
    assert asked[0].begun == "<think>\nSo "


def test_pairs_go_on_from_what_the_template_opened():
    problems = generate("arithmetic", 400, seed=1, split="held_out")
    plain, opens = tokenizer_with("chatml"), tokenizer_with("opens_think")

    def texts(tokenizer, pairs) -> list[str]:
        return [
            tokenizer.decode(list(pair.clean_ids)).rpartition("assistant\n")[2] for pair in pairs
        ]

    for prefix, mark, start in (("<think>", "=", "<think>\n"), ("<answer>", None, NO_THINK)):
        found = counterfactual_pairs(opens, problems, Prompting(), 4, prefix, mark)
        wanted = counterfactual_pairs(plain, problems, Prompting(), 4, prefix, mark)
        expected = [start + text.removeprefix("<think>") for text in texts(plain, wanted)]
        assert texts(opens, found) == expected
        assert [pair.target_id for pair in found] == [pair.target_id for pair in wanted]
    styles = ("<think>Okay, so", "To determine")
    pairs = answer_style_pairs(opens, problems[:2], Prompting(), *styles, prefix_tokens=4)
    assert texts(opens, pairs) == ["<think>\nOkay"] * 2
