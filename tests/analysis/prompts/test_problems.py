"""Problems and their answers, from generators and files."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from analysis.prompts.chat import fill
from analysis.prompts.gold import Gold
from analysis.prompts.problems import Problem, generate, part_of


def test_arithmetic_solutions_are_right():
    for options in ({}, {"terms": 4, "digits": 1}, {"terms": 3, "digits": 2}):
        for problem in generate("arithmetic", 200, seed=3, options=options):
            operands = [int(x) for x in problem.question.removesuffix("=?").split("+")]
            assert sum(operands) == int(problem.answer)
            for left, right in re.findall(r"([\d+]+)=(\d+)", problem.solution):
                assert sum(int(x) for x in left.split("+")) == int(right)


def test_columns_and_carries():
    rows = {p.question: p.solution for p in generate("arithmetic", 4000)}
    problem, solution = next((q, s) for q, s in rows.items() if "+1=" in s)
    a, b = problem.removesuffix("=?").split("+")
    first = int(a[1]) + int(b[1])
    assert solution == f"{a[1]}+{b[1]}={first},{a[0]}+{b[0]}+1={int(a[0]) + int(b[0]) + 1}"


def test_a_lookup_is_answered_by_the_value_of_the_name_that_is_asked_for():
    for options in ({}, {"names": 4}):
        for problem in generate("lookup", 50, options=options):
            given, asked = problem.question.removesuffix("=?").split(";")
            values = dict(entry.split("=") for entry in given.split(","))
            assert problem.answer == values[asked]
            assert len(set(values.values())) == len(values) == options.get("names", 3)
    assert {p.skeleton for p in generate("lookup", 50)} == {"#=#,#=#,#=#;#=?"}


def test_a_guessed_lookup_is_right_once_in_as_many_as_there_are_names():
    guessed = generate("lookup", 400, options={"names": 3, "guess": True})
    assert all(p.answer in p.question for p in guessed)
    shown = [dict(part.split("=") for part in p.question[:-4].split(",")) for p in guessed]
    hits = sum(p.answer == v[p.question[-3]] for p, v in zip(guessed, shown, strict=True))
    assert 100 < hits < 170  # a third of 400 is 133, 3.5 standard errors are 33


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": 1}, "options.names must be a whole number from 2 to 16"),
        ({"names": 17}, "options.names must be a whole number from 2 to 16"),
        ({"names": True}, "options.names must be a whole number"),
        ({"guess": 1}, "options.guess must be true or false"),
        ({"digits": 2}, r"lookup has no option \['digits'\]; it has: names, guess"),
    ],
)
def test_options_that_a_lookup_does_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        generate("lookup", 1, options=options)


def test_splits_are_disjoint_and_reproducible():
    train = generate("arithmetic", 500, seed=0, split="train")
    held = generate("arithmetic", 100, seed=0, split="held_out", distinct=True)
    pairs = generate("arithmetic", 100, seed=0, split="pairs", distinct=True)
    parts = {"train": train, "held_out": held, "pairs": pairs}
    for name, problems in parts.items():
        assert {part_of(p.question) for p in problems} == {name}
    assert [len({p.question for p in some}) for some in (held, pairs)] == [100, 100]
    assert generate("arithmetic", 500, seed=0, split="train") == train
    assert generate("arithmetic", 500, seed=1, split="train") != train


def test_exhausted_generator_says_so():
    with pytest.raises(ValueError, match="gives only .* usable problems of 5000"):
        generate("arithmetic", 5000, split="held_out", options={"digits": 1}, distinct=True)
    few = generate("arithmetic", 99, 0, "pairs", {"digits": 1}, distinct=True, or_fewer=True)
    assert 1 < len(few) == len({p.question for p in few}) < 20


def test_reasoning_gym_gives_new_problems_in_each_block():
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3}
    problems = generate("reasoning_gym:chain_sum", 2000, seed=1, options=options)
    assert len({p.question for p in problems}) > 1990


def test_reasoning_gym_problems():
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    problems = generate("reasoning_gym:chain_sum", 20, seed=1, options=options)
    for problem in problems:
        a, sign, b = re.search(r"(\d+) ([+-]) (\d+)", problem.question).groups()
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(problem.answer)


def test_templates_without_solution_are_refused():
    with pytest.raises(ValueError, match="has none"):
        fill("<think>{solution}</think>", Problem("1+1", "2"))


def test_a_task_without_gold_text_is_judged_and_never_imitated():
    (problem,) = generate("reasoning_gym:rush_hour", 1)
    assert (problem.answer, problem.scorer.task) == ("", "rush_hour")
    with pytest.raises(ValueError, match="reasoning_gym:rush_hour gives no gold answer"):
        fill("{answer}", problem)
    assert fill("{solution}", replace(problem, solution="s")) == "s"


def test_a_scorer_that_accepts_nonsense_is_none():
    (problem,) = generate("reasoning_gym:game_of_life_halting", 1)
    assert problem.answer in ("True", "False")
    assert problem.scorer is None


def test_tasks_with_no_scorer_of_their_own_have_gold_texts():
    (problem,) = generate("reasoning_gym:gcd", 1)
    assert problem.gold == Gold((problem.answer,))


def test_a_task_with_neither_is_refused(monkeypatch):
    from reasoning_gym.games.rush_hour import RushHourDataset

    monkeypatch.setattr(RushHourDataset, "score_answer", lambda *args, **kwargs: 1.0)
    with pytest.raises(ValueError, match="reasoning_gym:rush_hour gives neither"):
        generate("reasoning_gym:rush_hour", 1)
