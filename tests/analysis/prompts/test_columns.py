"""Rows become problems: what is understood, and what is refused with its row."""

from __future__ import annotations

import json
import math

import pytest

from analysis.prompts.columns import Columns, problems_of
from analysis.prompts.conversations import messages_of
from analysis.prompts.problems import Problem
from analysis.prompts.values import Number, Row

USER = {"role": "user", "content": "1+1=?"}


def problem(columns: Columns | None = None, solutions: bool = False, **values) -> Problem:
    (found,) = problems_of([Row(values, "F, line 3")], columns or Columns(), solutions)
    return found


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("24", ("24",)),
        (" x+1 ", (" x+1 ",)),
        (Number("39.0"), ("39.0",)),
        (["24", Number("24.0"), "24"], ("24", "24.0")),
        ({"ground_truth": "24", "style": "rule"}, ("24",)),
        ({"ground_truth": [Number("24"), "XXIV"]}, ("24", "XXIV")),
        ("['24', 'XXIV']", ("24", "XXIV")),
        ('{"style": "rule", "ground_truth": 24}', ("24",)),
        ("{'ground_truth': '24', 'style': 'rule'}", ("24",)),
        ("[24, 25]", ("[24, 25]",)),
        (r"\{1, 2\}", (r"\{1, 2\}",)),
        ("sum is 24\n#### 24", ("24",)),
        ("see #### 24", ("see #### 24",)),
    ],
)
def test_answers_that_are_understood(answer, right):
    found = problem(problem="1+1=?", answer=answer)
    assert (found.answer, *found.alternatives) == right


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "answer is null; it has to be text, a number, or a list of them"),
        (math.nan, "answer is NaN"),
        (math.inf, "answer is infinite"),
        (2.0**80, "answer is 1.2089258196146292e[+]24, a float too large to be exact"),
        (True, "answer is the truth value true"),
        ("", "answer is blank"),
        (" \n", "answer is blank"),
        ([], "answer is an empty list"),
        (["24", None], "answer is null"),
        ([["24"]], "answer is a list"),
        ({"value": "24"}, "answer is an object of value"),
        ({"ground_truth": None}, "answer.ground_truth is null"),
        ("\ud800", "half a character"),
        ("{'ground_truth': array([24])}", "answer is the text of an object, which can't be read"),
    ],
)
def test_answers_that_are_refused_with_their_row(answer, message):
    with pytest.raises(ValueError, match=f"^F, line 3: .*{message}"):
        problem(problem="1+1=?", answer=answer)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "problem is null"),
        (Number("7"), "problem is the number 7; it has to be text"),
        ([USER, USER], "problem is a conversation of user, user"),
        ([{"role": "user", "content": None}], "message 1 .user.: its content is null"),
        ([{"role": "system", "content": "Hm."}, USER], "'Hm.', .* give it as data.system_prompt"),
        ([{"role": "bot", "content": "x"}], "has the role 'bot'"),
        ("[{'role': 'user', 'content': 'x'}\n {'role': ", "is the text of a conversation, which"),
    ],
)
def test_questions_that_are_refused_with_their_row(value, message):
    with pytest.raises(ValueError, match=f"^F, line 3: .*{message}"):
        problem(Columns(prefix="data."), problem=value, answer="2")


def test_prompts_as_conversations():
    assert problem(prompt=[USER], reward_model={"ground_truth": "2"}) == Problem("1+1=?", "2")
    written = {"prompt": json.dumps([USER]), "reward_model": str({"ground_truth": "2"})}
    assert problem(**written) == Problem("1+1=?", "2")
    assert problem(Columns("prompt", "reward_model.ground_truth"), **written).answer == "2"
    brief = [{"role": "system", "content": "Be brief."}, USER]
    assert problem(Columns(system="Be brief."), problem=brief, answer="2").question == "1+1=?"


def test_columns_of_the_users_own():
    row = {"q": "1+1=?", "a": {"b": "so it is [2]"}, "s": "1+1=2"}
    columns = Columns("q", "a.b", "s", r"\[(.*)\]")
    assert problem(columns, True, **row) == Problem("1+1=?", "2", "1+1=2")
    with pytest.raises(ValueError, match=r"F, line 3: no column 'c' \(data.problem_column\)"):
        problem(Columns("c", prefix="data."), **row)
    with pytest.raises(ValueError, match=r"answer_pattern '#\(\.\*\)' finds nothing in a.b"):
        problem(Columns("q", "a.b", None, "#(.*)"), **row)
    with pytest.raises(ValueError, match="has no group"):
        Columns(pattern="####")
    with pytest.raises(ValueError, match="is no regular expression"):
        Columns(pattern="(")


@pytest.mark.parametrize("solution", [None, Number("24"), ["add"], ""])
def test_solutions_are_checked_where_they_are_asked_for(solution):
    row = {"problem": "1+1=?", "answer": "2", "solution": solution}
    assert problem(**row).solution is None
    with pytest.raises(ValueError, match="^F, line 3: solution is "):
        problem(solutions=True, **row)


def test_solutions_in_the_layout_of_gsm8k():
    row = {"question": "1+1=?", "answer": "1+1=2\n#### 2"}
    assert problem(solutions=True, **row) == Problem("1+1=?", "2", "1+1=2")


def test_another_file_may_have_the_standard_columns():
    rows = [Row({"problem": "1+1=?", "answer": "2"}, "G, line 1")]
    columns = Columns("question", pattern="#### (.*)")
    assert list(problems_of(rows, columns, other=True)) == [Problem("1+1=?", "2")]
    with pytest.raises(ValueError, match="no column 'question'"):
        list(problems_of(rows, columns))
    own = [Row({"problem": "1+1=?", "answer": "so 2", "meta": {"gold": "2"}}, "G, line 1")]
    found = problems_of(own, Columns(answer="meta.gold"), other=True)
    assert list(found) == [Problem("1+1=?", "2")]


def test_conversations():
    talk = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    assert messages_of(talk, "", "") == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
    ]
    parts = [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"], "name": None}]
    assert messages_of(parts, "", "") == [{"role": "user", "content": "ab"}]
    for wrong, message in [
        ("hi", " is text; it has to be a list of messages"),
        ([{"from": "bot", "value": "x"}], "message 1 is from 'bot'"),
        ([USER, {"role": "assistant", "content": None}], "message 2 .assistant.: .* null"),
        ([USER, {"role": "assistant", "text": "x"}], "message 2 has role, text; it has to have"),
    ]:
        with pytest.raises(ValueError, match=f"^F, row 2: m.*{message}"):
            messages_of(wrong, "F, row 2", "m")
