"""Questions of an evaluation that are trained on too are counted, and said."""

from __future__ import annotations

from analysis.prompts.chat import Prompting
from analysis.prompts.problems import Problem
from train.build import Evaluation
from train.overlap import warn_of_overlap


def test_questions_that_are_trained_on_are_counted(caplog):
    ask = Prompting("be brief", " Think.")
    rows = [{"prompt": ask.messages(question)} for question in ("1+1=?", "2+2=?", "3+3=?")]
    rows.append({"messages": [{"role": "user", "content": "4+4=?"}]})
    seen, new = Problem("2 + 2=?", "4"), Problem("5+5=?", "10")
    warn_of_overlap(rows, [Evaluation(None, [new], ask)], " Think.")
    assert caplog.messages == []
    warn_of_overlap(rows, [Evaluation("mine", [seen, new, Problem("4+4=?", "8")], ask)], " Think.")
    assert caplog.messages == [
        "2 of 3 questions of mine are trained on too; its score is no held-out score"
    ]
