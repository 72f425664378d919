"""Questions of an evaluation that are trained on too are counted, and said."""

from __future__ import annotations

import pytest
from datasets import Dataset

from analysis.prompts.chat import Prompting
from analysis.prompts.pairs import Pair, Pairs
from analysis.prompts.problems import Problem
from train.build import Evaluation
from train.overlap import apart, check_overlap
from train.recipes.tiny import build_tokenizer


def test_questions_that_are_trained_on_are_counted(caplog):
    ask = Prompting("be brief", " Think.")
    rows = [{"prompt": ask.messages(question)} for question in ("1+1=?", "2+2=?", "3+3=?")]
    rows.append({"messages": [{"role": "user", "content": "4+4=?"}]})
    seen, new = Problem("2 + 2=?", "4"), Problem("5+5=?", "10")
    check_overlap(rows, [Evaluation(None, [new], ask)], " Think.")
    assert caplog.messages == []
    check_overlap(rows, [Evaluation("mine", [seen, new, Problem("4+4=?", "8")], ask)], " Think.")
    assert caplog.messages == [
        "2 of 3 questions of mine are trained on too; its score is no held-out score"
    ]
    with pytest.raises(ValueError, match=r"1 of 2 held-out problems .* such as '2 \+ 2=\?'; take"):
        check_overlap(rows, [Evaluation(None, [seen, new], ask)], " Think.")


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
