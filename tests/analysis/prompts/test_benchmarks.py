"""Benchmarks: their rows as the hub gives them, without the hub."""

from __future__ import annotations

import json

import pytest

from analysis.prompts.benchmarks import (
    BENCHMARKS,
    SUFFIX,
    default_suffix,
    load_task,
    problems_for_pairs,
    slug,
)
from analysis.prompts.columns import Columns
from analysis.prompts.problems import Problem
from analysis.prompts.values import Row

ROWS = {
    "aime24": ({"problem": "p", "answer": "204"}, "204"),
    "amc": ({"problem": "p", "answer": "1234567.0"}, "1234567"),
    "amc23": ({"question": "p", "answer": "27.0"}, "27.0"),
    "math500": (
        {
            "problem": "p",
            "answer": "wrong",
            "solution": "so \\boxed{1}. Then \\boxed{\\frac{1}{2}}.",
        },
        "\\frac{1}{2}",
    ),
    "gsm8k": ({"question": "p", "answer": "so 5 #### 1,024"}, "1,024"),
}


@pytest.mark.parametrize("task", ROWS)
def test_rows_of_benchmarks(task):
    row, answer = ROWS[task]
    problem = BENCHMARKS[task].problem(Row(row, "row 1"))
    assert (problem.question, problem.answer) == ("p", answer)
    assert default_suffix(task) == SUFFIX


def test_choices_of_gpqa_are_in_an_order_of_their_own():
    orders = set()
    for number in range(40):
        row = {"Question": f"q{number}", "Correct Answer": "yes "}
        row |= {f"Incorrect Answer {i}": f"no{i}" for i in (1, 2, 3)}
        problem = BENCHMARKS["gpqa"].problem(Row(row, "row 1"))
        assert f"({problem.answer}) yes" in problem.question
        assert BENCHMARKS["gpqa"].problem(Row(row, "row 1")) == problem
        orders.add(problem.answer)
    assert orders == set("ABCD")


def test_a_benchmark_comes_from_the_hub(monkeypatch):
    import datasets

    def load_dataset(name, config, split):
        assert (name, config, split) == ("openai/gsm8k", "main", "test")
        return [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(5)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_task("gsm8k", 2, 0, {}) == [Problem("q0", "0"), Problem("q1", "1")]

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match="gsm8k can't be loaded from the hub .* no network; with"):
        load_task("gsm8k", 2, 0, {})


def test_names_of_tasks():
    assert slug("reasoning_gym:chain_sum") == "reasoning_gym-chain_sum"
    assert slug("jsonl:/data/my problems.jsonl") == "my-problems"
    assert default_suffix("arithmetic") == ""


def test_pairs_of_trivia_come_from_the_hub(monkeypatch):
    """The benchmarks' rows as the hub gives them, without the hub."""
    import datasets

    asked = []

    def load(name, config=None, split=None):
        asked.append((name, config, split))
        return [{"question": f"Who is {i}?", "answer": {"value": str(i)}} for i in range(50)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = problems_for_pairs("triviaqa", 30, 1, {})
    assert asked == [("mandarjoshi/trivia_qa", "rc.nocontext", "validation")]
    assert len({problem.question for problem in found}) == 30
    assert all(problem.question == f"Who is {problem.answer}?" for problem in found)
    assert found == problems_for_pairs("triviaqa", 30, 1, None)
    assert len(problems_for_pairs("triviaqa", 99, 1, None)) == 50


def test_pairs_take_each_question_once(tmp_path):
    rows = [{"problem": problem, "answer": "2"} for problem in ("1+1=?", "1 + 1 =?", "1+2=?")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = problems_for_pairs(f"file:{tmp_path}/a.jsonl", 9, 1, None)
    assert [problem.question for problem in found] == ["1+1=?", "1+2=?"]
    few = problems_for_pairs("arithmetic", 50, 1, {"digits": 1})
    assert len(few) == len({problem.question for problem in few}) < 20


def test_keys_of_a_command_are_those_of_the_file_it_names(tmp_path):
    """Those of a training's data may fail another file, whose standard columns are then meant."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"problem": "1+1=?", "answer": "2"}\n')
    right = [Problem("1+1=?", "2")]
    assert load_task(f"file:{path}", None, 0, {}, Columns("q", prefix="data.")) == right
    with pytest.raises(ValueError, match=r"line 1: no column 'q' \(problem_column\)"):
        load_task(f"file:{path}", None, 0, {}, Columns("q"))
