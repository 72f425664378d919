"""The checkpoint table and the report page, from records written by hand.

Every head planted in a record has one edge in and one edge out of score 1 and nothing else has a
score, so the circuit, its resamples, the intervals and the chance level are known exactly.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.circuits import edge_budget, head_importance, select_edges
from analysis.graph import Graph
from analysis.heads import Estimate, HeadStates, bootstrap_heads
from analysis.records import Record, append_metrics, write_evaluation, write_record
from analysis.report import head_map, main, trajectory, write_report
from analysis.table import Row, checkpoint_rows, format_table, head_cells, read_runs

GRAPH = Graph(2, 4, 2)
PAIRS = 6
BASE = ["a0.h0", "a1.h1"]
SCORE = {"problems": 8, "samples": 2, "truncated": 0, "failures": {}}


def plant(
    run: Path, step: int, heads: list[str], rare: tuple[str, ...] = (), pairs_hash: str = "pairs"
) -> None:
    """Record heads that every pair uses and `rare` heads that only the first pair uses."""
    names = [GRAPH.edge_name(edge) for edge in range(GRAPH.n_edges)]
    per_pair = torch.zeros(PAIRS, GRAPH.n_edges)
    for head in (*heads, *rare):
        for edge in (f"input->{head}<q>", f"{head}->logits"):
            per_pair[: 1 if head in rare else PAIRS, names.index(edge)] = 1.0
    budget = edge_budget(GRAPH, 20, None)
    circuit = select_edges(GRAPH, per_pair.mean(0), budget)
    record = Record(
        step=step,
        graph=GRAPH,
        pairs_hash=pairs_hash,
        settings={"method": "EAP"},
        model={"name": "planted"},
        completeness_gap=0.0,
        metric_clean=1.0,
        metric_corrupted=0.0,
        seconds=1.0,
        per_pair=per_pair,
        circuit=circuit,
        importance=head_importance(GRAPH, per_pair, circuit),
        bootstrap=bootstrap_heads(GRAPH, per_pair, budget, resamples=200, seed=0),
    )
    write_record(run, record)


def configure(run: Path, kind: str = "sft", name: str | None = None) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    config = f"name: {name or run.name}\ntrain:\n  kind: {kind}\n"
    (run / "config.yaml").write_text(config, encoding="utf-8")
    return run


def make_run(run: Path, heads: list[str], kind: str = "sft", name: str | None = None) -> Path:
    """A run of three checkpoints that ends with `heads`."""
    configure(run, kind, name)
    plant(run, 0, BASE)
    plant(run, 10, [*BASE, *heads[-1:]])
    plant(run, 20, heads)
    for step, value in ((5, 3.0), (10, 2.0), (15, 1.0), (20, 0.5)):
        append_metrics(run, step, {"loss": value, "reward": -value})
    for step in (0, 20):
        write_evaluation(run, step, {"pass_at_1": 0.412, "low": 0.3, "high": 0.5, **SCORE})
    return run


def text_of(page: Path) -> str:
    """What a reader sees of a page, without scripts and tags, on one line."""
    html = re.sub(r"<script.*?</script>|<style.*?</style>", "", page.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_rows_join_signal_score_and_states(tmp_path: Path) -> None:
    rows = checkpoint_rows(make_run(tmp_path / "r", ["a0.h0", "a0.h2", "a1.h3"]))
    assert [(row.step, row.signal) for row in rows] == [(0, None), (10, 2.5), (20, 0.75)]
    assert [row.evaluation is not None for row in rows] == [True, False, True]
    final = rows[-1].states
    assert final is not None
    assert {name: count.value for name, count in final.counts.items()} == {
        "in_circuit": 3,
        "emergent": 2,
        "retained": 1,
        "pruned": 1,
    }
    assert checkpoint_rows(configure(tmp_path / "r", "grpo"))[1].signal == -2.5


def test_rows_of_a_run_without_records_or_without_scores(tmp_path: Path) -> None:
    untracked = configure(tmp_path / "untracked")
    write_evaluation(untracked, 10, {"pass_at_1": 0.5, "low": 0.4, "high": 0.6, **SCORE})
    [row] = checkpoint_rows(untracked)
    assert row.states is None
    assert row.evaluation is not None
    assert "50.0 [40-60]" in format_table([row], "loss")
    unscored = configure(tmp_path / "unscored")
    plant(unscored, 0, BASE)
    [row] = checkpoint_rows(unscored)
    assert row.evaluation is None
    for run in (untracked, unscored):
        assert run.name in text_of(write_report([run], run / "report.html"))


def test_without_the_base_no_state_is_claimed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If tracking failed at step 0, a later checkpoint must not stand in for the base."""
    run = make_run(tmp_path / "r", ["a0.h0", "a0.h2", "a1.h3"])
    (run / "heads" / "step-000000" / "record.json").unlink()
    assert {row.states for row in checkpoint_rows(run)} == {None}
    assert "has no record of step 0, the base" in caplog.text
    assert "L1H3" not in text_of(write_report([run], tmp_path / "page.html"))


def test_table_is_plain_and_says_what_its_marks_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", ["a0.h0", "a0.h2", "a1.h3"])
    lines = format_table(checkpoint_rows(run), "loss").splitlines()
    cells = ["20", "0.750", "41.2 [30-50]", "3 [3-3]", "2 [2-2]*", "1 [1-1]", "1 [1-1]*"]
    assert re.split(r"\s\s+", lines[5].strip()) == cells
    legend = " ".join(lines[7:])
    assert "95 % bootstrap interval" in legend
    assert "two resamples of step 0 give 0.0 emergent (97.5 % point 0)" in legend
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_table_fits_80_columns_with_counts_of_hundreds() -> None:
    many, few = Estimate(254, 201.0, 311.0), Estimate(54, 41.0, 71.0, 12.0, 15.0)
    counts = {"in_circuit": many, "emergent": few, "retained": many, "pruned": few}
    nothing = torch.zeros(0)
    evaluation: dict[str, Any] = {"pass_at_1": 0.412, "low": 0.3, "high": 0.5}
    row = Row(123456, 12.345, evaluation, HeadStates({}, counts, nothing, nothing))
    lines = format_table([row], "reward").splitlines()
    assert "254 [201-311] 54 [41-71]*" in lines[3]
    assert max(map(len, lines)) <= 80


def test_report_names_the_heads_and_judges_the_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", ["a0.h0", "a0.h2", "a1.h3"])
    text = text_of(write_report([run], run / "report.html"))
    assert "from step 0 to step 20, the number of heads that emerged is 2 (interval 2-2)" in text
    assert "so this is more than chance" in text
    assert "base → final: L0H2 (0.00 → 1.00), L1H3 (0.00 → 1.00)." in text
    assert "Retained: L0H0." in text
    assert "Pruned, with inclusion at base → final: L1H1 (1.00 → 0.00)." in text


def test_a_head_of_one_pair_is_not_distinguished_from_chance(tmp_path: Path) -> None:
    run = configure(tmp_path / "r")
    plant(run, 0, BASE)
    plant(run, 10, BASE, rare=("a0.h3",))
    text = text_of(write_report([run], run / "report.html"))
    assert "the number of heads that emerged is 1 (interval 0-1)" in text
    assert "not distinguishable from chance" in text


def test_head_table_tells_state_and_first_checkpoint(tmp_path: Path) -> None:
    [run] = read_runs([make_run(tmp_path / "r", ["a0.h0", "a0.h2", "a1.h3"])])
    rows = [cells[:5] for cells in head_cells(run)]
    assert rows == [
        ["L0H2", "emergent", "20", "0.00", "1.00"],
        ["L1H3", "emergent", "10", "0.00", "1.00"],
        ["L0H0", "retained", "0", "1.00", "1.00"],
        ["L1H1", "pruned", "0", "1.00", "0.00"],
    ]
    plant(tmp_path / "r", 30, BASE)
    [run] = read_runs([tmp_path / "r"])
    assert [cells[1] for cells in head_cells(run)] == ["retained", "retained"] + ["in passing"] * 2


def test_figures_hold_every_checkpoint(tmp_path: Path) -> None:
    [run] = read_runs([make_run(tmp_path / "r", ["a0.h0", "a0.h2", "a1.h3"])])
    curves = {trace.name: trace for trace in trajectory(run).data if trace.name}
    assert list(curves["emergent"].y) == [0, 1, 2]
    assert curves["retained"].line.dash == "dash"
    figure = head_map(run)
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == ["0", "10", "20"]
    shown = [trace for trace, seen in zip(figure.data, steps[1].args[1], strict=True) if seen]
    marks = {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in shown[1:]}
    assert marks["emergent"] == [(3, 1)]  # head 3 of layer 1
    assert len(figure.layout.shapes) == 3


def test_text_of_the_configuration_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    run = make_run(tmp_path / "r", ["a0.h2"], name=name)
    page = write_report([run, make_run(tmp_path / "s", ["a0.h2"])], tmp_path / "p.html").read_text()
    assert "alert(1)" in page
    assert name not in page


def test_page_needs_no_network_and_is_reproducible(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", ["a0.h2"])
    page = write_report([run], tmp_path / "a.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", page[-300_000:])
    assert not re.search(r"<(script|link)\b[^>]*\b(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert page.count("plotly.js v") == 1
    assert write_report([run], tmp_path / "b.html").read_text() == page
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["a.html", "b.html"]


def test_several_runs_are_compared(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "sft", [*BASE, "a0.h2", "a1.h3"])
    grpo = make_run(tmp_path / "grpo", ["a0.h0", "a0.h2"], kind="grpo")
    text = text_of(write_report([sft, grpo], tmp_path / "both.html"))
    assert "Emergent in sft and grpo: L0H2." in text
    assert "Emergent only in sft: L1H3." in text
    assert "Emergent only in grpo: none." in text
    assert "Take care" not in text
    assert text.count("How to read this") == 1


def test_runs_that_measured_different_pairs_carry_a_warning(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "a" / "same", ["a0.h2"])
    other = configure(tmp_path / "b" / "same")
    plant(other, 0, BASE, pairs_hash="other")
    text = text_of(write_report([sft, other], tmp_path / "both.html"))
    assert f"Take care: same ({sft}) and same ({other}) differ in pairs_hash" in text


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run .*nowhere"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        checkpoint_rows(tmp_path)
    with pytest.raises(ValueError, match="neither heads/step-"):
        checkpoint_rows(configure(tmp_path / "young"))
    with pytest.raises(ValueError, match=r"train\.kind 'dpo'"):
        checkpoint_rows(configure(tmp_path / "odd", kind="dpo"))
    assert not (tmp_path / "report.html").exists()


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(tmp_path / name, ["a0.h2"])) for name in ("one", "two")]
    monkeypatch.setattr(sys, "argv", ["report", runs[0]])
    main()
    assert (tmp_path / "one" / "report.html").exists()
    monkeypatch.setattr(sys, "argv", ["report", *runs])
    main()
    assert (tmp_path / "report.html").exists()
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 1
    assert "there is no run" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, analysis.report; sys.exit(bool({'torch', 'plotly'} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
