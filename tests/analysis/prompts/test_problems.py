"""Problems, answers, rewards and the data sets made of them."""

from __future__ import annotations

import json
import re

import pytest

from analysis.evaluation.verify import judge
from analysis.prompts.chat import fill
from analysis.prompts.problems import Problem, generate, is_held_out
from train.rewards import REWARDS


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


def test_splits_are_disjoint_and_reproducible():
    train = generate("arithmetic", 500, seed=0, split="train")
    held = generate("arithmetic", 100, seed=0, split="held_out", distinct=True)
    assert not {p.question for p in train} & {p.question for p in held}
    assert all(is_held_out(p.question) for p in held)
    assert len({p.question for p in held}) == 100
    assert generate("arithmetic", 500, seed=0, split="train") == train
    assert generate("arithmetic", 500, seed=1, split="train") != train


def test_exhausted_generator_says_so():
    with pytest.raises(ValueError, match="gives only .* usable problems of 5000"):
        generate("arithmetic", 5000, split="held_out", options={"digits": 1}, distinct=True)


def test_reasoning_gym_problems():
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    problems = generate("reasoning_gym:chain_sum", 20, seed=1, options=options)
    for problem in problems:
        a, sign, b = re.search(r"(\d+) ([+-]) (\d+)", problem.question).groups()
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(problem.answer)


def test_problem_files(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "1+1", "answer": 2}\n\n{"problem": "x"}\n')
    with pytest.raises(ValueError, match=r"line 3: no field \['answer'\]"):
        generate(f"jsonl:{path}", 1)
    path.write_text('{"problem": "1+1", "answer": 2}\n{oops\n')
    with pytest.raises(ValueError, match="line 2: not valid JSON"):
        generate(f"jsonl:{path}", 1)


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


def test_templates_without_solution_are_refused():
    with pytest.raises(ValueError, match="has none"):
        fill("<think>{solution}</think>", Problem("1+1", "2"))


def test_sft_and_grpo_rows(compose):
    from train.data import grpo_dataset, sft_dataset

    data = compose("sft", "data.size=50", "data.worked_share=0.5", "data.system_prompt=Think.").data
    rows = sft_dataset(data)
    assert [m["role"] for m in rows[0]["prompt"]] == ["system", "user"]
    texts = [row["completion"][0]["content"] for row in rows]
    assert 5 < sum("<think>" in text for text in texts) < 45
    assert all(
        judge(t, str(eval(r["prompt"][1]["content"][:-2]))).correct
        for t, r in zip(texts, rows, strict=True)
    )  # noqa: E501
    assert set(grpo_dataset(data).column_names) == {"prompt", "answer"}


def test_local_files(compose, tmp_path):
    from datasets import Dataset

    from train.data import grpo_dataset, sft_dataset

    rows = [{"q": "1+1?", "a": "so #### 2", "s": "1+1=2"}, {"q": "2+2?", "a": "#### 4", "s": "2+2"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    columns = ["data.problem_column=q", "data.answer_column=a", "data.solution_column=s"]
    for source in (f"jsonl:{path}", f"parquet:{tmp_path}/rows.parquet"):
        where = ["data=file", f"data.source={source}", *columns, "data.answer_pattern='#### (.*)'"]
        assert grpo_dataset(compose("grpo", *where).data)["answer"] == ["2", "4"]
        first = sft_dataset(compose("sft", *where).data)[0]
        assert first["completion"][0]["content"] == "<think>1+1=2</think><answer>2</answer>"
    talks = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    talks.write_text(json.dumps({"conversation": talk}))
    where = ["data=file", f"data.source=jsonl:{talks}", "data.messages_column=conversation"]
    assert sft_dataset(compose("sft", *where).data)[0]["messages"] == talk
