"""The paper's tables beside ours: printed cells, their standard errors, the files of scores."""

from __future__ import annotations

import json
import re

import pytest

from analysis.commands import paper as command
from analysis.reporting.paper_tables import PROBLEMS, TABLES, is_multiple, standard_error


@pytest.mark.parametrize(
    ("text", "problems", "expected"),
    [
        ("26.6", 30, True),  # 8 of 30 are 26.67, cut off
        ("26.7", 30, True),  # and rounded
        ("26.8", 30, False),
        ("66.2", 83, True),  # 55 of 83
        ("89.1", 83, True),
        ("0.05", 83, False),
        ("0.10", 500, False),  # half a problem
        ("81.4", 500, True),
        ("81.5", 500, False),
        ("0", 198, True),
        ("100", 30, True),
        ("3.33", 30, True),
        ("3.3", 30, True),
    ],
)
def test_multiples_of_one_problem(text, problems, expected):
    assert is_multiple(text, problems) is expected


def test_standard_errors():
    """Against a simulation of single samples; at 0 the formula gives 0."""
    import numpy as np

    error, exact = standard_error("30.0", 30)
    drawn = np.random.default_rng(0).binomial(30, 0.3, size=200_000) / 30
    assert exact
    assert error == pytest.approx(100 * drawn.std(), rel=0.01)
    assert standard_error("0", 30) == (0.0, True)
    assert standard_error("0.05", 83)[1] is False


def test_all_printed_cells_but_two_are_multiples():
    odd = [
        (row, task, text)
        for table in TABLES
        for group in table.groups
        for row, numbers in group.rows.items()
        for task, text in zip(table.tasks, numbers, strict=True)
        if not is_multiple(text, PROBLEMS[task])
    ]
    assert odd == [("SFT heads zeroed", "amc", "0.05"), ("SFT heads zeroed", "math500", "0.10")]


def write_scores(place, label, task, none, changed=None, **more):
    """A scores.json as `headlab evaluate` writes it, as far as it is read."""

    def score(value):
        return {"pass_at_1": value, "low": value - 0.1, "high": value + 0.1}

    def difference(value):
        return {"value": value, "low": value - 0.2, "high": value + 0.2}

    result = {"label": label, "task": task, "conditions": {"none": score(none)}, "comparisons": {}}
    if changed is not None:
        result["conditions"]["intervention"] = score(changed)
        result["comparisons"] = {"effect": difference(changed - none), "control": difference(-0.05)}
    place.mkdir(parents=True)
    (place / "scores.json").write_text(json.dumps(result | more))


def lines_of(directory, capsys, *words):
    from analysis.cli import main

    main(command.Options, "", command.act, [f"runs={directory}", *words])
    return capsys.readouterr().out.splitlines()


def test_ours_beside_the_paper(tmp_path, capsys):
    """A label and a task find their cell; the unchanged model is part of a change's evaluation."""
    row = "ablation/R1-Distill-Qwen-1.5B/reasoning"
    write_scores(tmp_path / "a", row, "aime24", 0.4, 0.3)
    write_scores(tmp_path / "b", row, "jsonl:data/amc.jsonl", 0.7, 0.6)  # a local copy
    write_scores(tmp_path / "c", "think/on", "aime24", 0.9, think="on")
    write_scores(tmp_path / "d", "scaling/SFT heads zeroed", "gsm8k", 0.5, 0.1)
    write_scores(tmp_path / "e", None, "aime24", 0.2, 0.1)  # no label, no cell
    lines = lines_of(tmp_path, capsys)
    assert max(map(len, lines)) <= 100

    def cells(title):
        at = next(i for i, line in enumerate(lines) if line.startswith(title))
        return [re.split(r"\s{2,}", line.strip()) for line in lines[at : at + 30]]

    ablation = cells("R1-Distill-Qwen-1.5B")
    assert ablation[1] == ["none", "AIME24", "30.0", "8.4", "40.0 [30, 50]", "-", "-"]
    assert ablation[4] == ["AMC", "66.2", "5.2", "70.0 [60, 80]", "-", "-"]
    changed = ["30.0 [20, 40]", "-10.0 [-30, 10]", "-5.0 [-25, 15]"]
    assert ablation[5] == ["reasoning", "AIME24", "26.6", "8.1", *changed]
    assert ablation[6] == ["AIME25", "16.6", "6.8", "-", "-", "-"]
    think = cells("Qwen3-8B")
    assert think[1] == ["on", "AIME24", "80.0", "7.3", "90.0 [80, 100]", "-", "-"]
    assert think[6][:2] == ["off", "AIME24"]
    assert think[6][-3:] == ["-", "-", "-"]  # what thinks is not the unchanged model of `off`
    assert sum("0.05 and 0.10 is open" in line for line in lines) == 1
    scaling = cells("Qwen2.5-Math-1.5B")
    assert ["AMC", "0.05", "<0.2", "-", "-", "-"] in scaling
    ours = ["gsm8k", "-", "-", "10.0 [0, 20]", "-40.0 [-60, -20]", "-5.0 [-25, 15]"]
    assert ours in scaling

    table = lines_of(tmp_path, capsys, "format=markdown")
    assert "| reasoning | AIME24 | 26.6 | 8.1 | " + " | ".join(changed) + " |" in table


def test_what_analysis_paper_can_not_read_is_said(tmp_path, capsys):
    def error(*words):
        with pytest.raises(SystemExit):
            lines_of(*words)
        return capsys.readouterr().err

    assert "there is no directory" in error(tmp_path / "none", capsys)
    assert "there is no directory" in error(tmp_path / "none*", capsys)
    assert "no tracked run and no scores.json with a label" in error(tmp_path, capsys)
    for name in ("a", "b"):
        write_scores(tmp_path / name, "think/on", "aime24", 0.9)
    assert "both stand for think/on on aime24" in error(tmp_path, capsys)
    assert lines_of(f"[{tmp_path}/a]", capsys)
    assert "format is 'html'" in error(tmp_path, capsys, "format=html")
