"""The checkpoint table and the head table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from analysis.heads.same import Same
from analysis.intervals import Estimate
from analysis.reporting.figures.trajectory import trajectory_content
from analysis.reporting.rows import head_values
from analysis.reporting.sections import summary
from analysis.reporting.tables import format_table, head_cells
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import write_trajectory
from tests.support.planted_runs import (
    BASE,
    FINAL,
    GRAPH,
    PAIRS,
    make_run,
    plant,
    report_of,
)


def test_table_is_plain_and_says_what_its_marks_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    lines = format_table(Run.read(run)).splitlines()
    cells = ["20", "0.750", "41.2 [30, 50]", "3 [3-3]", "2 [2-2]", "1 [1-1]", "+2 -1"]
    assert re.split(r"\s\s+", lines[5].strip()) == cells
    legend = " ".join(lines[7:])
    assert "95 % bootstrap interval" in legend
    assert "two resamples of step 0 give 0.0 emergent (97.5 % point 0)" in legend
    assert all(line.isascii() and line.isprintable() and len(line) <= 80 for line in lines)


def test_head_table_tells_state_and_first_checkpoint(tmp_path: Path) -> None:
    run = Run.read(make_run(tmp_path / "r", FINAL))
    assert [cells[:3] + cells[6:9] for cells in head_cells(run)] == [
        ["L0H2", "emergent", "-", "20", "0.00", "1.00"],
        ["L1H3", "emergent", "emergent", "10", "0.00", "1.00"],
        ["L0H0", "retained", "-", "0", "1.00", "1.00"],
        ["L1H1", "pruned", "-", "0", "1.00", "0.00"],
    ]
    assert {tuple(cells[3:6]) for cells in head_cells(run)} == {("-", "-", "-")}  # not compared
    plant(tmp_path / "r", 30, BASE)
    run = Run.read(tmp_path / "r")
    assert [cells[1] for cells in head_cells(run)] == ["retained", "retained"] + ["transient"] * 2


def test_kl_from_the_base_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    """In the terminal, the loggers' rows, the chart and the page; nothing where there is none."""
    run = make_run(tmp_path / "r", FINAL)
    assert "KL" not in format_table(Run.read(run))
    plant(run, 0, BASE, kl=torch.zeros(PAIRS))
    plant(run, 20, FINAL, kl=torch.arange(PAIRS) / 10)
    found = Run.read(run)
    low, high = 0.117, 0.383
    cells = [re.split(r"\s\s+", line.strip()) for line in format_table(found).splitlines()]
    shown = dict(row for row in cells if len(row) == 2)
    assert (shown["0"], shown["10"]) == ("0.000 [0.000, 0.000]", "-")
    assert re.fullmatch(r"0\.250 \[0\.1\d\d, 0\.3\d\d\]", shown["20"])
    values = head_values(found.points)
    assert values["circuit/kl_from_base"] == pytest.approx(0.25)
    assert values["circuit/kl_from_base/lo"] == pytest.approx(low, abs=0.05)
    assert values["circuit/kl_from_base/hi"] == pytest.approx(high, abs=0.05)
    [curve] = [
        t
        for t in trajectory_content(found)["data"]
        if t["name"].startswith("KL") and "customdata" in t
    ]
    assert (curve["x"], curve["y"]) == ([0, 20], pytest.approx([0, 0.25]))
    assert "KL from the base, nats" in report_of(run)


def test_heads_that_changed_are_told_wherever_states_are(tmp_path: Path) -> None:
    """In the terminal, the table of heads, the loggers' rows, trajectory.json and the page."""
    run = make_run(tmp_path / "r", FINAL)
    assert "changed" not in format_table(Run.read(run))
    chance = {"o_proj": (0.0, 0.25), "attention": (-0.125, 0.625)}
    one = torch.ones(3, GRAPH.n_heads_total)
    plant(run, 0, BASE, same=Same(one, one.clone(), Estimate(0, 0, 0), chance))
    o_proj, attention = one.clone(), one.clone()
    o_proj[:, 0] = 0.25  # of L0H0, which is retained
    attention[:, 0], attention[:, 2] = torch.tensor([0.3, 0.2, 0.4]), torch.nan
    attention[:, 7] = torch.tensor([0.45, 0.3, 0.6])  # of L1H3: not beyond its error
    plant(run, 20, FINAL, same=Same(o_proj, attention, Estimate(2, 1, 3)))
    found = Run.read(run)
    text = " ".join(format_table(found).split())
    assert " 20 " in text and "1 (1 retained)" in text and "0 (0 retained)" in text
    assert "of the base they are 0.00 (97.5 % point 0.25) and -0.12 (97.5 % point 0.62)." in text
    cells = {row[0]: row[3:6] for row in head_cells(found)}
    assert cells["L0H0"] == ["o_proj and attention", "0.25", "0.30 [0.20, 0.40]"]
    assert cells["L0H2"] == ["no", "1.00", "-"]
    assert cells["L1H3"] == ["no", "1.00", "0.45 [0.30, 0.60]"]
    values = head_values(found.points)
    ends = ("", "/lo", "/hi", "/called", "/retained")
    assert [values[f"heads/changed{end}"] for end in ends] == [2, 1, 3, 1, 1]
    lists = summary(found).lists
    assert lists["Retained, but changed"] == "L0H0"
    write_trajectory(tmp_path / "t.json", found.points)
    of_point = json.loads((tmp_path / "t.json").read_text())["checkpoints"][-1]["same"]
    assert (of_point["changed"], of_point["below"]["value"]) == (["L0H0"], 2)
    assert of_point["attention"]["high"][:3] == [0.4, 1.0, None]
    page = report_of(run)
    assert "Retained, but changed" in page and "o_proj cosine" in page


def test_gap_and_held_out_faithfulness_are_shown_at_every_checkpoint(tmp_path: Path) -> None:
    """Of a base without the behaviour too, which is said; of pairs without answers, why not."""
    run = make_run(tmp_path / "r", FINAL)
    assert "gap" not in format_table(Run.read(run))
    held_out = torch.full((PAIRS,), 0.8)
    known = {"held_out": held_out, "gap_metric": "logit_diff"}
    plant(run, 0, BASE, gap=torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]), **known)
    plant(run, 20, FINAL, gap=torch.full((PAIRS,), 3.0), sizes=torch.arange(201) % 5 + 20, **known)
    text = format_table(Run.read(run))
    lines = [re.split(r"\s\s+", line.strip()) for line in text.splitlines()]
    base, last = ([c for c in lines if c[0] == step and len(c) == 4][0] for step in ("0", "20"))
    assert re.fullmatch(r"0.00 \[-.*\], no circuit", base[1]) and base[3] == "-"
    assert (last[1], last[2]) == ("3.00 [3.00, 3.00]", "0.60 [0.60, 0.60]")
    assert last[3].startswith("20 [")
    words = " ".join(text.split())
    assert (
        "gap: logit_diff of the corrupted prompts less that of the clean ones. no circuit:" in words
    )
    assert "under a circuit that the other half of the pairs ranked" in report_of(run)
    values = head_values(Run.read(run).points)
    assert values["circuit/metric_gap"] == 3.0 and values["circuit/size"] == 20
    plant(run, 0, BASE, held_out=held_out)
    plant(run, 20, FINAL, held_out=held_out)
    assert "pairs with a target and a foil do" in " ".join(format_table(Run.read(run)).split())
