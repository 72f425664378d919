"""The data sets that problems and files make."""

from __future__ import annotations

import json

from analysis.evaluation.verify import judge


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
