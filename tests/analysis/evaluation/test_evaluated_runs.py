"""Scores of the checkpoints of a run, which they land in."""

from __future__ import annotations

import json
import re

from analysis.cli import parse
from analysis.commands.evaluate import act
from analysis.evaluation.setup import Options
from analysis.records.run_file import RunFile
from tests.support.known_circuit import HEADS


def test_a_score_measured_otherwise_is_not_replaced(copier, tmp_path, capsys):
    from analysis.records.evaluations import read_evaluations

    run_dir = tmp_path / "my-run"
    RunFile("my-run", "sft", "loss").write(run_dir)
    (run_dir / "checkpoint-7").symlink_to(copier)
    for size, out in ((20, "a"), (3, "b")):
        words_of = [
            f"model={run_dir}@7",
            f"task=jsonl:{copier}/task.jsonl",
            "suffix=''",
            "n=1",
            "max_new_tokens=4",
            f"size={size}",
            f"out={tmp_path}/{out}",
        ]
        act(parse(Options, words_of))
    assert read_evaluations(run_dir, "task")[7]["problems"] == 20
    assert "keeps its score of step 7, which was measured with other" in capsys.readouterr().out


def test_a_checkpoint_of_a_run(copier, tmp_path, compose):
    """Scores land in the run, and its report and table show them."""
    from analysis.files import write_json
    from analysis.records.evaluations import evaluated_tasks, read_evaluations
    from analysis.reporting.report import write_report
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run

    run_dir = tmp_path / "my-run"
    RunFile("my-run", "sft", "loss").write(run_dir)
    write_json(run_dir / "base.json", {"path": str(copier), "dtype": "float32"})
    (run_dir / "checkpoint-7").symlink_to(copier)
    for place, change in (("0", "none"), ("last", f"zero:{','.join(HEADS)}")):
        arguments = [
            f"model={run_dir}@{place}",
            f"task=jsonl:{copier}/task.jsonl",
            "suffix=''",
            "n=1",
            "max_new_tokens=4",
            f"intervention={change}",
            "controls=2",
            "size=20",
        ]
        act(parse(Options, arguments))
    assert evaluated_tasks(run_dir) == ["task"]
    assert sorted(read_evaluations(run_dir, "task")) == [0, 7]
    out = run_dir / "evaluations" / "task" / "step-000007" / "zero-L0H1-L2H2"
    assert "base+intervention" in json.loads((out / "scores.json").read_text())["conditions"]
    assert "zero:L0H1,L2H2" in (run_dir / "report.html").read_text()
    table = format_table(Run.read(run_dir))
    assert re.search(r"checkpoint +task\n +0 +100.0 .*\n +7 +100.0", table)
    page = write_report([Run.read(run_dir)], tmp_path / "report.html").read_text()
    assert "Heads changed" in page
    assert "zero:L0H1,L2H2" in page
    assert "Benchmarks, pass@1 %" in page
