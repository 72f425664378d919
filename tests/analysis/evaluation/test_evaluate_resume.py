"""An evaluation that is started again: it goes on alike, or is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from analysis.evaluation.asking import evaluate
from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import (
    Sampling,
    batches,
)
from analysis.prompts.chat import Prompting
from analysis.prompts.problems import Problem
from tests.support.evaluations import load, run, words
from tests.support.places import ROOT
from tests.support.warm import pid_of, warm_python


def test_the_same_settings_go_on_and_others_are_refused(copier, tmp_path):
    first = run(copier, tmp_path / "e", "intervention=scale:0.5:L0H1", "controls=1")
    lines = (tmp_path / "e" / "completions" / "none.jsonl").read_text()
    more = run(copier, tmp_path / "e", "intervention=scale:0.5:L0H1", "controls=2", "k=[2]")
    assert (tmp_path / "e" / "completions" / "none.jsonl").read_text() == lines
    assert more["conditions"]["random-1"] != {}
    assert (
        first["conditions"]["random-1"]["pass_at_1"]
        == (more["conditions"]["random-1"]["pass_at_1"])
    )
    with pytest.raises(ValueError, match=r"other settings: temperature \(0.3 -> 0.9\)"):
        run(copier, tmp_path / "e", "intervention=scale:0.5:L0H1", "temperature=0.9")


def test_an_evaluation_does_not_go_on_with_other_heads_or_weights(copier, tmp_path):
    """A file that names other heads by now, other weights, another reference: refused, all kept."""
    heads = tmp_path / "heads.json"
    heads.write_text('{"heads": ["L0H1"]}')
    more = [f"intervention=zero:{heads}", "controls=1", "size=8"]
    run(copier, tmp_path / "e", *more)
    heads.write_text('{"heads": ["L1H0"]}')
    with pytest.raises(ValueError, match=r"intervention \(zero:L0H1 -> zero:L1H0\)"):
        run(copier, tmp_path / "e", *more)
    heads.write_text('{"heads": ["L0H1"]}')
    other = tmp_path / "other"
    shutil.copytree(copier, other)
    run(other, tmp_path / "w", "size=8")
    model, tokenizer = load(other)
    model.lm_head.weight.data[5] += 1
    model.save_pretrained(other)
    with pytest.raises(ValueError, match=r"other settings: weights \("):
        run(other, tmp_path / "w", "size=8")


def test_answers_of_unchanged_models_are_shared(copier, tmp_path, monkeypatch):
    """`none` and `base` are asked once, by the first evaluation; settings tell them apart."""
    from analysis.evaluation import conditions

    asked = []
    drawn = conditions.sample
    monkeypatch.setattr(
        conditions, "sample", lambda *given: asked.append(len(given[2])) or drawn(*given)
    )
    shared = [f"unchanged={tmp_path}/shared", "size=8", "n=1", "batch_size=8", "controls=1"]
    run(copier, tmp_path / "a", *shared, "intervention=zero:L0H1", f"base={copier}")
    assert len(asked) == 4  # none (which is the base as well), changed, random, changed base
    run(copier, tmp_path / "b", *shared, "intervention=zero:L1H1", f"base={copier}")
    assert len(asked) == 7
    result = run(copier, tmp_path / "c", *shared)
    assert len(asked) == 7
    assert result["conditions"]["none"]["problems"] == 8
    run(copier, tmp_path / "d", *shared, "temperature=0.9")
    assert len(asked) == 8


def test_a_store_that_was_cut_goes_on_alike(tiny_dir, tmp_path):
    """Answers missing in the middle of a batch, and a line cut by a crash: the same file."""
    model, tokenizer = load(tiny_dir)
    problems = [Problem(f"{n}+{n}=?", str(2 * n)) for n in range(10, 17)]
    sampling = Sampling(3, 1.0, 0.95, 6, 4)
    whole, cut = Completions(tmp_path / "whole.jsonl"), tmp_path / "cut.jsonl"
    score = evaluate(model, tokenizer, problems, Prompting(), sampling, 0, whole)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 21
    cut.write_text("".join(lines[:9]) + lines[9][:25])
    again = evaluate(model, tokenizer, problems, Prompting(), sampling, 0, Completions(cut))
    assert again == score

    def answers(path: Path) -> list[dict]:
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return sorted(rows, key=lambda row: (row["problem"], row["sample"]))

    assert answers(cut) == answers(tmp_path / "whole.jsonl")
    assert len(list(batches(range(21), 4))) == 6


@pytest.mark.distributed
def test_a_killed_evaluation_goes_on_to_the_same_result(copier, tmp_path):
    """kill -9 of the command in the middle of it; the same command again, and one never killed."""
    more = ["intervention=zero:L0H1", "controls=2", "batch_size=4", "temperature=1.0"]

    def command(out: Path) -> list[str]:
        return [warm_python(), "-m", "analysis", "evaluate", *words(copier, out, *more)]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(command(killed), cwd=ROOT, stderr=subprocess.DEVNULL)
    there = killed / "completions" / "intervention.jsonl"
    deadline = time.monotonic() + 120
    while not (there.exists() and there.read_bytes().count(b"\n") >= 8):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid_of(process), signal.SIGKILL)
    process.wait()
    assert not (killed / "scores.json").exists()
    for out in (killed, whole):
        done = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = [json.loads((out / "scores.json").read_text()) for out in (killed, whole)]
    assert found[0] == found[1]
    assert "tokens/s" in done.stderr  # throughput, and tqdm's remaining time beside it
