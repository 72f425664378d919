"""The data sets that problems and files make."""

from __future__ import annotations

import json

import pytest

from analysis.evaluation.verify import judge
from analysis.prompts.problems import Problem, part_of, spaceless


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
    (tmp_path / "rows.csv").write_text("q,a,s\n1+1?,so #### 2,1+1=2\n2+2?,#### 4,2+2\n")
    columns = ["data.problem_column=q", "data.answer_column=a", "data.solution_column=s"]
    for source in (
        f"jsonl:{path}",
        f"parquet:{tmp_path}/rows.parquet",
        f"file:{tmp_path}/rows.csv",
    ):
        where = ["data=file", f"data.source={source}", *columns, "data.answer_pattern='#### (.*)'"]
        assert grpo_dataset(compose("grpo", *where).data)["answer"] == ["2", "4"]
        first = sft_dataset(compose("sft", *where).data)[0]
        assert first["completion"][0]["content"] == "<think>1+1=2</think><answer>2</answer>"


TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


@pytest.mark.parametrize("talk", [TALK, SHAREGPT])
@pytest.mark.parametrize("source", ["file", "hub"])
def test_conversations(compose, tmp_path, monkeypatch, talk, source):
    import datasets

    from train.data import held_out_part, sft_dataset

    hub = datasets.Dataset.from_list([{"conversation": talk, "other": 1}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **split: hub)
    (tmp_path / "talks.jsonl").write_text(json.dumps({"conversation": talk}))
    name = "hub:x/y" if source == "hub" else f"file:{tmp_path}/talks.jsonl"
    where = ["data=file", f"data.source={name}", "data.messages_column=conversation"]
    data = compose("sft", *where, "data.held_out_every=2").data
    assert sft_dataset(data).to_list() == [{"messages": TALK}]
    assert held_out_part(data, needs_solution=False, part=part_of("hi", 2)) == [Problem("hi", "ho")]
    with pytest.raises(ValueError, match="has 1 rows, and all of them are in its held-out parts"):
        sft_dataset(data, "train")


@pytest.mark.parametrize("source", ["file", "hub"])
def test_what_is_held_out_is_not_trained_on(compose, tmp_path, monkeypatch, source):
    """Nor is the same question in other white space; evaluation and pairs draw from that part."""
    import datasets

    from train.build import _pair_problems, held_out_problems
    from train.data import draws_held_out, grpo_dataset, held_out_part

    rows = [{"problem": f"{n}+1=?", "answer": n + 1} for n in range(100)]
    rows += [{"problem": f" {n} + 1 =?", "answer": n + 1} for n in range(50)]
    hub = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **split: hub)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    name = "hub:x/y" if source == "hub" else f"jsonl:{path}"
    where = ["data=file", f"data.source={name}"]
    cfg = compose("grpo", *where)
    assert draws_held_out(cfg)
    trained = [spaceless(row["prompt"][0]["content"]) for row in grpo_dataset(cfg.data, "train")]
    held = held_out_problems(cfg)
    asked = [spaceless(problem.question) for problem in held]
    paired = [spaceless(p.question) for p in held_out_part(cfg.data, False, "pairs")]
    parts = [set(trained), set(asked), set(paired)]
    assert len(asked) == len(set(asked)) and len(paired) == len(set(paired))
    assert set.union(*parts) == {r["problem"] for r in rows[:100]}
    assert sum(map(len, parts)) == 100 and 3 < len(asked) < 20 and 3 < len(paired) < 20
    assert len(trained) > len(set(trained))
    assert {spaceless(p.question) for p in _pair_problems(cfg, 2)} < set(paired)
    assert held[0].answer == str(int(held[0].question.split("+")[0]) + 1)
    fewer = compose("grpo", *where, "data.held_out_every=20", "evaluation.size=3")
    assert len(held_out_problems(fewer)) == 3
    assert len(grpo_dataset(fewer.data, "train")) > len(trained)
    # what draws nothing from the file leaves it whole; another file is evaluated on whole
    (tmp_path / "other.csv").write_text("problem,answer\n0+1=?,1\n7+7=?,14\n")
    other = f"evaluation.source=csv:{tmp_path}/other.csv"
    apart = compose("grpo", *where, other, "pairs.source=arithmetic")
    assert not draws_held_out(apart)
    assert [problem.answer for problem in held_out_problems(apart)] == ["1", "14"]
    assert not draws_held_out(compose("grpo", *where, "evaluation=none", "tracking=none"))
    assert draws_held_out(compose("grpo", *where, f"evaluation.source={name}", "tracking=none"))


def test_too_few_rows_are_one_line_that_says_how_to_mend(compose, tmp_path):
    from train.build import _pair_problems, held_out_problems

    (tmp_path / "a.jsonl").write_text('{"problem": "1+1=?", "answer": 2}\n')
    cfg = compose("sft", "data=file", f"data.source=jsonl:{tmp_path}/a.jsonl")
    with pytest.raises(
        ValueError, match="a.jsonl has no row in its held-out part .* evaluation.so"
    ):
        held_out_problems(cfg)
    with pytest.raises(
        ValueError, match="a.jsonl has no row in its part for pairs .* pairs.source"
    ):
        _pair_problems(cfg, 8)


def test_rows_are_drawn_as_before():
    from datasets import Dataset

    from train.data import drawn

    shuffled = Dataset.from_dict({"x": list(range(100))}).shuffle(seed=3).select(range(7))
    assert drawn(lambda: iter(range(100)), 7, 3) == shuffled["x"][:]
    assert drawn(lambda: iter(range(5)), None, 3) == [0, 1, 2, 3, 4]
    assert sorted(drawn(lambda: iter(range(5)), 9, 3)) == [0, 1, 2, 3, 4]


def test_a_solution_that_speaks_of_the_answer_stays_as_it_is(compose, tmp_path):
    from train.data import sft_dataset

    row = {"problem": "1+1=?", "answer": "2", "solution": r"\text{answer} is {answer}, {solution}"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    data = compose("sft", "data=file", f"data.source=jsonl:{tmp_path}/a.jsonl").data
    said = sft_dataset(data)[0]["completion"][0]["content"]
    assert said == f"<think>{row['solution']}</think><answer>2</answer>"
