"""The checkpoint table and the report page, from records written by hand, and in a browser.

Every head planted in a record has one edge in and one edge out of score 1 and nothing else has a
score, so the circuit, its resamples and the intervals are known exactly.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.commands import run
from analysis.heads.resampling import Selection, resample_heads, select
from analysis.models.graph import Graph
from analysis.records.evaluations import write_evaluation
from analysis.records.record import Record, write_record
from analysis.records.run_file import RunFile
from analysis.records.training_log import append_metrics
from analysis.reporting.figures.head_map import head_map
from analysis.reporting.figures.sensitivity import sensitivity_chart
from analysis.reporting.figures.trajectory import (
    cohort_chart,
    faithfulness_chart,
    trajectory_chart,
)
from analysis.reporting.report import write_report
from analysis.reporting.tables import format_table, head_cells
from analysis.trajectories.run import Run, read_runs
from tests.support.browser import BROWSERS, FLAGS, find_browser
from tests.support.places import ROOT

GRAPH = Graph(2, 4, 2)
PAIRS, RESAMPLES = 6, 200
BASE = ["a0.h0", "a1.h1"]
FINAL = ["a0.h0", "a0.h2", "a1.h3"]
SELECTION = Selection(20)  # more edges than have a score: the threshold is 0
SCORE = {"problems": 8, "samples": 2, "truncated": 0, "failures": {}}
EVIL = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"


def plant(
    run: Path, step: int, heads: list[str], rare: tuple[str, ...] = (), **changes: Any
) -> None:
    """Record heads that every pair uses and `rare` heads that only the first pair uses."""
    names = [GRAPH.edge_name(edge) for edge in range(GRAPH.n_edges)]
    per_pair = torch.zeros(PAIRS, GRAPH.n_edges)
    for head in (*heads, *rare):
        for edge in (f"input->{head}<q>", f"{head}->logits"):
            per_pair[: 1 if head in rare else PAIRS, names.index(edge)] = 1.0
    mean = per_pair.mean(0)
    values: dict[str, Any] = {
        "step": step,
        "graph": GRAPH,
        "pairs_hash": "pairs",
        "settings": {"method": "EAP", "resamples": RESAMPLES, "seed": 7},
        "origin": {
            "model": {"type": "qwen2", "path": "hub/base", "weights": "w1", "adapter": f"ad{step}"},
            "code": {"headlab": "9.9", "commit": "abcdef"},
            "config": "c0ffee",
        },
        "selection": asdict(SELECTION),
        "completeness_gap": 0.01,
        "metric_clean": 0.0,
        "metric_corrupted": 2.0,
        "n_pairs": PAIRS,
        "seconds": 1.0,
        "circuit": select(GRAPH, mean, SELECTION),
        "mean": mean,
        "evaluation": torch.tensor([[0.4], [0.0], [2.0]]).repeat(1, PAIRS),
        "resampled": resample_heads(GRAPH, per_pair, SELECTION, RESAMPLES, 7),
    }
    write_record(run, Record(**{**values, **changes}), per_pair)


def configure(run: Path, kind: str = "sft", name: str | None = None) -> Path:
    signal = {"sft": "loss", "grpo": "reward"}.get(kind)
    RunFile(name or run.name, kind, signal, seed=3).write(run)
    config = f"name: {name or run.name}\nseed: 3\ntrain:\n  kind: {kind}\n"
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


def report_of(run: Path) -> str:
    return text_of(write_report(read_runs([run]), run / "report.html"))


def test_rows_join_signal_score_and_states(tmp_path: Path) -> None:
    rows = Run.read(make_run(tmp_path / "r", FINAL)).rows
    assert [(row.step, row.signal) for row in rows] == [(0, None), (10, 2.5), (20, 0.75)]
    assert [row.evaluation is not None for row in rows] == [True, False, True]
    final = rows[-1].point
    assert final is not None
    counts = {name: count.value for name, count in final.counts.items()}
    assert counts == {"in_circuit": 3, "emergent": 2, "retained": 1, "pruned": 1, "transient": 0}
    assert Run.read(configure(tmp_path / "r", "grpo")).rows[1].signal == -2.5


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


def test_table_is_plain_and_says_what_its_marks_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    lines = format_table(Run.read(run)).splitlines()
    cells = ["20", "0.750", "41.2 [30, 50]", "3 [3-3]", "2 [2-2]", "1 [1-1]", "+2 -1"]
    assert re.split(r"\s\s+", lines[5].strip()) == cells
    legend = " ".join(lines[7:])
    assert "95 % bootstrap interval" in legend
    assert "two resamples of step 0 give 0.0 emergent (97.5 % point 0)" in legend
    assert all(line.isascii() and line.isprintable() and len(line) <= 80 for line in lines)


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


def test_head_table_tells_state_and_first_checkpoint(tmp_path: Path) -> None:
    run = Run.read(make_run(tmp_path / "r", FINAL))
    assert [cells[:6] for cells in head_cells(run)] == [
        ["L0H2", "emergent", "-", "20", "0.00", "1.00"],
        ["L1H3", "emergent", "emergent", "10", "0.00", "1.00"],
        ["L0H0", "retained", "-", "0", "1.00", "1.00"],
        ["L1H1", "pruned", "-", "0", "1.00", "0.00"],
    ]
    plant(tmp_path / "r", 30, BASE)
    run = Run.read(tmp_path / "r")
    assert [cells[1] for cells in head_cells(run)] == ["retained", "retained"] + ["transient"] * 2


def lines_of(figure: Any) -> dict[str, Any]:
    """Its lines and marks by name, without the bands."""
    return {trace.name: trace for trace in figure.data if trace.fill != "toself"}


def test_trajectory_holds_raw_settled_turnover_and_signal(tmp_path: Path) -> None:
    curves = lines_of(trajectory_chart(Run.read(make_run(tmp_path / "r", FINAL))))
    assert list(curves["emergent"].y) == [0, 1, 2]
    assert list(curves["emergent, settled"].y) == [0, 0, 1]
    assert curves["emergent, settled"].line.dash == "dot"
    assert curves["retained"].line.dash == "dash"
    assert list(curves["excess turnover"].x) == [10, 20]
    assert list(curves["excess turnover"].y) == pytest.approx([1 / 3, 1 / 2])
    assert list(curves["Jaccard"].y) == pytest.approx([1, 2 / 3, 1 / 4])
    assert list(curves["as logged"].y) == [3.0, 2.0, 1.0, 0.5]
    assert list(curves["mean"].y) == [2.5, 0.75]
    assert list(curves["held-out"].customdata[0]) == [0.3, 0.5]


def test_cohorts_are_stacked_by_first_emergence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 30, [*BASE, "a0.h2"])
    bars = {t.name: (list(t.y), list(t.customdata or [])) for t in cohort_chart(Run.read(run)).data}
    assert bars["10"] == ([0, 1, 1, 0], [0, 0, 1, 0])
    assert bars["20"] == ([0, 0, 1, 1], [0, 0, 0, 1])
    assert bars["settled"][0] == [0, 0, 1, 2]  # a head settled once counts until gone for two
    assert set(bars) == {"10", "20", "settled"}


def test_map_holds_every_checkpoint_and_marks_base_and_final(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 20, FINAL, rare=("a1.h2",))
    figure = head_map(Run.read(run))
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == ["0", "10", "20"]

    def shown(step: int) -> dict[str, Any]:
        kept = zip(figure.data, steps[step].args[1], strict=True)
        return {trace.name: trace for trace, visible in kept if visible}

    def places(trace: Any) -> list[tuple[int, int]]:
        return list(zip(trace.y, trace.x, strict=True))

    assert places(shown(1)["emergent, called"]) == [(1, 3)]  # layer 1, head 3
    assert places(shown(2)["emergent"]) == [(1, 2)]
    assert places(shown(2)["pruned, called"]) == [(1, 1)]
    for step in range(3):
        assert len(shown(step)["final circuit"].x) == 1 + 4 * 6
        assert len(shown(step)["base's circuit"].x) == 1 + 2 * 6
        assert shown(step)["base's circuit"].line.color == "#d62f2f"
    hover = shown(2)[None].text[1][3]
    for part in ("<b>L1H3</b> emergent, called", "inclusion 0.00 → 1.00, p = ", "E = 1.00 ["):
        assert part in hover


def test_sensitivity_marks_the_setting_of_the_run(tmp_path: Path) -> None:
    figure = sensitivity_chart(Run.read(make_run(tmp_path / "r", FINAL)))
    sweeps = [trace for trace in figure.data if trace.name == "emergent"]
    assert [list(trace.x) for trace in sweeps] == [
        [5, 10, 20, 40, 80],
        pytest.approx([0.002, 0.006, 0.02, 0.06, 0.2]),
    ]
    assert list(sweeps[1].y) == [2] * 5
    assert list(sweeps[1].error_y.array) == [0] * 5
    called = [trace for trace in figure.data if trace.name == "pruned, called"]
    assert list(called[1].y) == [1] * 5
    assert {line.x0 for line in figure.layout.shapes} == {20}  # no tau in this run


def test_faithfulness_without_a_value_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    plant(run, 10, FINAL, evaluation=torch.zeros(3, PAIRS))
    curves = lines_of(faithfulness_chart(Run.read(run)))
    assert list(curves["faithfulness"].x) == [0, 20]
    assert list(curves["faithfulness"].y) == pytest.approx([0.8, 0.8])
    assert list(curves["edges"].y) == [4, 6, 6]


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


@contextmanager
def opened(page_file: Path) -> Iterator[Any]:
    """A page in a browser without a network; fails on errors and on requests for anything else."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = find_browser()
    if browser_path is None:
        pytest.skip(f"no browser to open the report in: none of {', '.join(BROWSERS)}")
    faults: list[str] = []
    address = page_file.resolve().as_uri()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                asked.url == address
                or asked.url.startswith(("data:", "blob:"))
                or faults.append(asked.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector("#run0-trajectory .main-svg")
        yield page
        browser.close()
    assert faults == []


VISIBLE = "id => document.getElementById(id)._fullData.map(trace => trace.visible === true)"


def test_browser_slider_changes_the_map(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    with opened(write_report(read_runs([run]), tmp_path / "page.html")) as page:
        chart = page.locator("#run0-map")
        chart.scroll_into_view_if_needed()
        cells = chart.locator(".heatmaplayer image")

        def state() -> tuple[list[bool], str, int]:
            seen = page.evaluate(VISIBLE, "run0-map")
            return seen, cells.get_attribute("href"), chart.locator(".scatterlayer .point").count()

        final = state()
        assert chart.locator(".slider-label").first.text_content() == "step 20"
        rail = chart.locator(".slider-rail-touch-rect").bounding_box()
        page.mouse.click(rail["x"] + 3, rail["y"] + rail["height"] / 2)
        page.wait_for_function(
            "document.querySelector('#run0-map .slider-label').textContent === 'step 0'"
        )
        page.wait_for_timeout(300)
        base = state()
        assert base[0] != final[0]
        assert base[0].count(True) == final[0].count(True)
        assert base[1] != final[1]  # other colours
        assert (base[2], final[2]) == (2, 4)  # marks: 2 retained; 2 emergent, 1 retained, 1 pruned


def test_browser_search_and_sorting_of_heads(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL)
    with opened(write_report(read_runs([run]), tmp_path / "page.html")) as page:
        box = page.locator("input[data-table=run0-heads]")
        rows = page.locator("#run0-heads tbody tr")

        def heads() -> list[str]:
            cells = page.locator("#run0-heads tbody tr:visible td:first-child")
            return [str(text) for text in cells.all_text_contents()]

        assert rows.count() == 4
        box.press_sequentially("emerg")
        assert heads() == ["L0H2", "L1H3"]
        box.fill("l1h1 pruned")
        assert heads() == ["L1H1"]
        box.fill("")
        page.locator("#run0-heads th").first.click()
        assert heads() == ["L0H0", "L0H2", "L1H1", "L1H3"]
        page.locator("#run0-heads th", has_text="first at step").click()
        page.locator("#run0-heads th", has_text="first at step").click()
        assert heads()[:2] == ["L0H2", "L1H3"]


def test_browser_shows_foreign_text_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", FINAL, name=EVIL)
    plant(run, 20, FINAL, origin={"model": {"path": EVIL}})
    other = configure(tmp_path / "s", name=EVIL)
    plant(other, 0, BASE, pairs_hash=EVIL)
    with opened(write_report(read_runs([run, other]), tmp_path / "page.html")) as page:
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned === undefined")
        assert EVIL in page.locator("h1").text_content()
        assert f"name: {EVIL}" in page.locator("details pre").first.text_content()
        assert page.locator("td", has_text=EVIL).text_content() == f"path {EVIL}"
        assert page.locator("img").count() == 0
