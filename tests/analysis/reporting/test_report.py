"""The report page, from records written by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.commands import run
from analysis.files import write_json
from analysis.heads.roles import Roles, Score, write_roles
from analysis.records.evaluations import write_evaluation
from analysis.records.record_files import write_invalid
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from analysis.reporting.report import write_report
from analysis.reporting.roles import TITLES
from analysis.reporting.tables import format_table
from analysis.trajectories.run import Run, read_runs
from tests.support.places import ROOT
from tests.support.planted_runs import (
    BASE,
    EVIL,
    FINAL,
    SCORE,
    configure,
    make_run,
    plant,
    report_of,
    text_of,
)


def test_runs_without_records_or_scores_or_signal_are_shown(tmp_path: Path) -> None:
    untracked = configure(tmp_path / "untracked")
    write_evaluation(untracked, 10, {"pass_at_1": 0.5, "low": 0.4, "high": 0.6, **SCORE})
    [row] = Run.read(untracked).rows
    assert row.point is None
    assert "50.0 [40, 60]" in format_table(Run.read(untracked))
    text = report_of(untracked)
    assert "In untracked no checkpoint after the base was tracked." in text
    assert "Cohorts" not in text

    only_base = configure(tmp_path / "only_base")
    plant(only_base, 0, BASE)
    assert Run.read(only_base).rows[0].evaluation is None
    text = report_of(only_base)
    assert "no checkpoint after the base was tracked" in text
    assert "There are too few checkpoints" in text

    afterwards = make_run(tmp_path / "afterwards", FINAL, kind="track")
    (afterwards / "metrics.jsonl").unlink()
    text = report_of(afterwards)
    assert "2 [2-2] emergent" in text
    assert not re.search(r"\b(loss|reward|rho)\b", text)


def test_without_the_base_no_state_is_claimed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If tracking failed at step 0, a later checkpoint must not stand in for the base."""
    run = make_run(tmp_path / "r", FINAL)
    (run / "heads" / "step-000000" / "record.json").unlink()
    assert {row.point for row in Run.read(run).rows} == {None}
    assert "has no record of step 0, the base" in caplog.text
    assert "L1H3" not in report_of(run)


def test_summary_says_what_is_raw_called_and_settled(tmp_path: Path) -> None:
    text = report_of(make_run(tmp_path / "r", FINAL))
    assert "at step 20 against the base (step 0), 3 [3-3] heads are in the circuit" in text
    assert "2 [2-2] emergent, 1 [1-1] retained, 1 [1-1] pruned, 0 [0-0] transient" in text
    assert "give 0.0 emergent (97.5 % point 0) and 0.0 pruned (97.5 % point 0)" in text
    assert "beyond noise of the pairs: 2 emergent and 1 pruned" in text
    assert "Settled: 1 emergent and 0 pruned" in text  # only L1H3 is called twice in a row
    assert "base → final (* called): L0H2* (0.00 → 1.00), L1H3* (0.00 → 1.00)." in text
    assert "Pruned, with inclusion at base → final (* called): L1H1* (1.00 → 0.00)." in text
    assert "Retained: L0H0." in text
    assert "Settled emergent: L1H3." in text


def test_a_head_of_one_pair_is_noise(tmp_path: Path) -> None:
    run = configure(tmp_path / "r")
    plant(run, 0, BASE)
    plant(run, 10, BASE, rare=("a0.h3",))
    text = report_of(run)
    assert "1 [0-2] emergent" in text
    assert "no change of the circuit's heads is distinguishable from noise of the pairs" in text
    assert "Called, that is" not in text
    assert re.search(r"Emergent, [^:]*: L0H3 \(0\.00 → 0\.\d\d\)\.", text)


def test_associations_need_checkpoints_and_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    assert "There are too few checkpoints" in report_of(run)
    for step in (30, 40, 50):
        append_metrics(run, step, {"loss": 1 / step})
        plant(run, step, [*FINAL, *["a1.h0", "a1.h2", "a0.h1"][: step // 10 - 2]])
    text = report_of(run)
    assert re.search(r"emergent -1\.00 \[-1\.00, -1\.00\] 0\.\d+ 5 ", text)
    assert "it is at least 1/n" in text
    assert not re.search(r"\bnan\b", text)  # curves that are constant have no row


def test_every_number_can_be_traced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    text = report_of(run)
    assert "20 w1 ad20 c0ffee headlab 9.9, commit abcdef top_n 20, tau None" in text
    assert "path hub/base, type qwen2" in text
    assert "pairs: pairs (6 pairs)" in text
    assert "settings: method EAP, resamples 200, seed 7" in text
    assert "false-discovery rate 0.05, hysteresis 2" in text
    assert "seed of the training: 3" in text
    plant(run, 20, FINAL, origin={})
    assert "20 - - - top_n 20, tau None" in report_of(run)


def test_text_of_the_configuration_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", ["a0.h2"], name=EVIL)
    plant(run, 20, FINAL, origin={"model": {"path": EVIL}, "code": {"commit": EVIL}})
    runs = read_runs([run, make_run(tmp_path / "s", ["a0.h2"])])
    page = write_report(runs, tmp_path / "p.html").read_text()
    assert "window.pwned" in page
    assert EVIL not in page
    assert "<img" not in page


def test_no_field_of_a_run_becomes_markup(tmp_path: Path) -> None:
    """Everything that comes from files, in every part of the page."""
    run = configure(tmp_path / "r", name=EVIL)
    RunFile(EVIL, EVIL, EVIL, seed=3).write(run)
    (run / "config.yaml").write_text(f"name: {EVIL}\n")
    evil = {
        "pairs_hash": EVIL,
        "settings": {"method": EVIL, EVIL: 1, "resamples": 200, "seed": 7},
        "origin": {
            "model": dict.fromkeys(("type", "path", "dtype", "weights", "adapter"), EVIL),
            "code": {"headlab": EVIL, "commit": EVIL, EVIL: EVIL},
            "config": EVIL,
        },
    }
    for step, heads in ((0, BASE), (10, FINAL)):
        plant(run, step, heads, **evil)
        append_metrics(run, step + 5, {EVIL: 1.0})
    write_invalid(run, 20, EVIL, {})
    task = "<img src=x onerror=window.pwned=1>"  # a directory's name has no slash
    ends = {"pass_at_1": 0.5, "low": 0.4, "high": 0.6, **SCORE}
    write_evaluation(run, 10, {**ends, "asked": EVIL})
    write_evaluation(run, 10, ends, task)
    difference = {"value": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.5}
    result = {"schema": 1, "task": EVIL, "step": 10, "think": EVIL, "label": EVIL}
    result |= {"intervention": EVIL, "heads": [EVIL], "comparisons": {"effect": difference}}
    result |= {"conditions": dict.fromkeys(("none", "intervention", EVIL), ends)}
    write_json(run / "evaluations" / task / "step-000010" / task / "scores.json", result)
    names = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    scores = {title: Score([0.5] * 8, [0.4] * 8, [0.6] * 8, 6) for title in (*TITLES, EVIL)}
    write_roles(run, 10, EVIL, Roles(names, scores, EVIL))
    other = make_run(tmp_path / "other", FINAL, name=EVIL)
    page = write_report(read_runs([run, other]), tmp_path / "p.html").read_text()
    assert page.count("window.pwned") > 20
    for tag in (EVIL, task, "<img", "<script>window"):
        assert tag not in page


def test_page_needs_no_network_and_is_reproducible(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", ["a0.h2"])
    page = write_report(read_runs([run]), tmp_path / "a.html").read_text()
    assert not re.search(r"<(script|link)\b[^>]*\b(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert page.count("plotly.js v") == 1
    assert write_report(read_runs([run]), tmp_path / "b.html").read_text() == page
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["a.html", "b.html"]


def test_several_runs_are_compared(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "sft", [*BASE, "a0.h2", "a1.h3"])
    grpo = make_run(tmp_path / "grpo", ["a0.h0", "a0.h2"], kind="grpo")
    text = text_of(write_report(read_runs([sft, grpo]), tmp_path / "both.html"))
    assert "Emergent in sft and grpo: L0H2." in text
    assert "Emergent only in sft: L1H3." in text
    assert "Emergent only in grpo: none." in text
    assert "Take care" not in text
    assert text.count("How to read this") == 1


def test_runs_that_measured_different_pairs_carry_a_warning(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "a" / "same", ["a0.h2"])
    other = configure(tmp_path / "b" / "same")
    plant(other, 0, BASE, pairs_hash="other")
    text = text_of(write_report(read_runs([sft, other]), tmp_path / "both.html"))
    assert f"Take care: same ({sft}) and same ({other}) differ in pairs_hash" in text


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run .*nowhere"):
        write_report(read_runs([tmp_path / "nowhere"]), tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"holds no run\.json, so it is not a run"):
        Run.read(tmp_path)
    with pytest.raises(ValueError, match="neither heads/step-"):
        format_table(Run.read(configure(tmp_path / "young")))
    with pytest.raises(ValueError, match="neither heads/step-"):
        report_of(tmp_path / "young")
    assert not (tmp_path / "report.html").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / name, ["a0.h2"])) for name in ("one", "two")]
    run("report", [f"runs={runs[0]}"])
    assert (tmp_path / "one" / "report.html").exists()
    run("report", [f"runs=[{','.join(runs)}]"])
    assert (tmp_path / "report.html").exists()
    with pytest.raises(SystemExit) as exit_info:
        run("report", [f"runs={tmp_path / 'nowhere'}"])
    assert exit_info.value.code == 1
    assert "there is no run" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, analysis.commands.report; "
        "sys.exit(bool({'torch', 'plotly'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"hash": "h", "pairs": 6, "about": "made of <b>rows</b>"}', "6 pairs: made of"),
        ('{"hash": "h", "pairs": 6}', "(6 pairs)"),
        ("{", "(6 pairs)"),
    ],
)
def test_what_pairs_were_made_of_is_said(tmp_path: Path, content: str, said: str) -> None:
    run = make_run(tmp_path / "r", FINAL)
    (run / "pairs.json").write_text(content)
    assert said in report_of(run)
    assert "<b>rows" not in (run / "report.html").read_text()
