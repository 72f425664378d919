"""Questions of an evaluation that are trained on too are counted, and said."""

from __future__ import annotations

import pytest
from datasets import Dataset

from analysis.prompts.chat import Prompting
from analysis.prompts.pairs import Pair, Pairs
from analysis.prompts.problems import Problem
from train.build import Evaluation
from train.overlap import AskedInPairs, apart, check_overlap
from train.recipes.tiny import build_tokenizer

# as Gemma, Llama 2 and Mistral have it: the system prompt stands in the user's turn
SYSTEM_IN_TURN = """\
{%- set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}\
{%- for m in messages if m.role != 'system' %}{{- '<|im_start|>' + m.role + '\n' }}\
{{- (first if loop.first else '') + m.content + '<|im_end|>\n' }}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def test_questions_that_are_trained_on_are_counted(caplog):
    ask = Prompting("be brief", " Think.")
    rows = [{"prompt": ask.messages(question)} for question in ("1+1=?", "2+2=?", "3+3=?")]
    talk = [("user", "4+4=?"), ("assistant", "8"), ("user", "6+6=?"), ("assistant", "12")]
    rows.append({"messages": [{"role": role, "content": content} for role, content in talk]})
    seen, new = Problem("2 + 2=?", "4"), Problem("5+5=?", "10")
    check_overlap(rows, [Evaluation(None, [new], ask)], " Think.")
    assert caplog.messages == []
    check_overlap(rows, [Evaluation("mine", [seen, new, Problem("4+4=?", "8")], ask)], " Think.")
    assert caplog.messages == [
        "2 of 3 questions of mine are trained on too; its score is no held-out score"
    ]
    with pytest.raises(ValueError, match=r"1 of 2 held-out problems .* such as '2 \+ 2=\?'; take"):
        check_overlap(rows, [Evaluation(None, [seen, new], ask)], " Think.")


def test_held_out_problems_that_come_up_in_conversations_of_training_are_left_out(caplog):
    """A file is split by what a conversation begins with, so any part may ask them later."""
    talk = [("user", "4+4=?"), ("assistant", "8"), ("user", "6+6=?"), ("assistant", "12")]
    rows = [{"messages": [{"role": role, "content": content} for role, content in talk]}]
    new, later = Problem("5+5=?", "10"), Problem("6 + 6=?", "12")
    held = Evaluation(None, [new, later], Prompting())
    assert check_overlap(rows, [held], "") == [Evaluation(None, [new], Prompting())]
    assert caplog.messages == [
        "1 of 2 held-out problems are asked later in conversations of training, and are left out"
    ]
    with pytest.raises(ValueError, match="all held-out problems .* are asked in conversations"):
        check_overlap(rows, [Evaluation(None, [later], Prompting())], "")


def test_what_pairs_ask_is_neither_trained_on_nor_held_out(caplog):
    """Whatever system prompt or answer stands around it; of a benchmark nothing is left out."""
    tokenizer, ask = build_tokenizer(), Prompting("be brief", " Think.")
    rows = [{"prompt": ask.messages(f"{n}+{n}=?")} for n in (1, 2, 11, 3)]
    dataset = Dataset.from_list(rows)
    held = Evaluation(None, [Problem("7+7=?", "14"), Problem("3 + 4=?", "7")], ask)
    task = Evaluation("mine", [Problem("3+4=?", "7")], ask)
    prompts = (
        ask.text(tokenizer, "1 + 1=?") + "<answer>",
        Prompting("other").text(tokenizer, "3+4=?") + "<answer>",
        "2+2=?2",  # none of the template's
        ask.text(tokenizer, "1+11=?"),
    )
    ids = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in prompts]
    length = max(map(len, ids))
    padded = [one + (one[-1],) * (length - len(one)) for one in ids]
    pairs = Pairs([Pair(*padded[:2]), Pair(*padded[2:])])
    left, evaluations = apart(dataset, [held, task], pairs, tokenizer, ask)
    assert [row["prompt"][-1]["content"] for row in left] == ["11+11=? Think.", "3+3=? Think."]
    assert [p.question for p in evaluations[0].problems] == ["7+7=?"]
    assert evaluations[1] == task
    assert caplog.messages == [
        "2 of 4 rows of training ask what the pairs ask, and are left out",
        "1 of 2 held-out problems ask what the pairs ask, and are left out",
    ]
    with pytest.raises(ValueError, match="the pairs ask all that the rows of training ask"):
        apart(dataset.select([0, 1]), [], pairs, tokenizer, ask)


@pytest.mark.parametrize("template", [None, SYSTEM_IN_TURN])
@pytest.mark.parametrize("asked_otherwise", ["", "be brief", "other"])
@pytest.mark.parametrize("suffix", ["", " Think.", " Answer!"])
def test_a_question_is_found_however_a_file_of_pairs_asks_it(template, asked_otherwise, suffix):
    """With another system prompt, wherever the template writes it, and with another suffix."""
    tokenizer, ask = build_tokenizer(), Prompting("be brief", " Think.")
    tokenizer.chat_template = template or tokenizer.chat_template
    text = Prompting(asked_otherwise or None, suffix).text(tokenizer, "12+34=?")
    assert found_in(text, tokenizer, ask) == ["12+34=?", "12 + 34=? Think."]
    assert found_in(text, tokenizer, Prompting())[0] == "12+34=?"


@pytest.mark.parametrize(
    "text", ["12+34=?", "12+34=?\n<answer>", "be brief\n12+34=?", "1+1=?2\n12+34=?"]
)
def test_a_question_is_found_in_a_text_that_is_of_no_template(text):
    assert found_in(text, build_tokenizer(), Prompting("be brief")) == ["12+34=?"]


def test_the_beginning_of_another_question_is_not_asked():
    tokenizer, ask = build_tokenizer(), Prompting()
    texts = [Prompting(None, " Now.").text(tokenizer, q) for q in ("1+2=? 3+4=?", "5+6=? 7+8=?")]
    clean, corrupted = (tuple(tokenizer(x, add_special_tokens=False).input_ids) for x in texts)
    inside = AskedInPairs(Pairs([Pair(clean, corrupted)]), tokenizer, ask)
    assert "1+2=? 3+4=?" in inside and "5+6=? 7+8=? Now." in inside
    assert "1+2=?" not in inside and "7+8=?" not in inside


def found_in(text: str, tokenizer, ask: Prompting) -> list[str]:
    ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    inside = AskedInPairs(Pairs([Pair(ids, (*ids[:-1], 0))]), tokenizer, ask)
    near = ["2+34=?", "12+3", "34=?", "+34=?", "", "12+34=?0", "12+34=? Try."]
    return [q for q in ("12+34=?", "12 + 34=? Think.", *near) if q in inside]
