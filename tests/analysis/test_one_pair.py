"""One pair, or copies of one, can't be resampled: no interval, no p-value and no call anywhere."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.comparison.findings import Findings
from analysis.comparison.json import to_json
from analysis.comparison.pairs import compare_subjects, profile
from analysis.comparison.text import format_findings
from analysis.evaluation.asking import n_distinct
from analysis.evaluation.scores import compare as compare_scores
from analysis.evaluation.scores import score
from analysis.heads.changes import compare
from analysis.heads.roles import summarise
from analysis.prompts.pairs import Pair, Pairs
from analysis.prompts.problems import Problem
from analysis.records.record_files import read_record, write_record
from analysis.reporting.report import write_report
from analysis.reporting.rows import head_values
from analysis.reporting.tables import format_table, head_rows
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import write_trajectory
from tests.support import comparisons
from tests.support.planted_runs import configure, text_of

COPIES = 8
ONE_ROW = {0: comparisons.EARLY, 10: comparisons.LATE}
RANGE = re.compile(r"\[[^\]]*\d[^\]]*\]|\bnan\b")


def record_of(step: int, n_pairs: int, n_distinct: int | None, groups: list[int] | None = None):
    torch.manual_seed(step)
    scores = comparisons.plant(ONE_ROW[step], 1).repeat(n_pairs, 1)
    record = comparisons.make_record(step, scores, 12)
    return replace(record, n_distinct=n_distinct, groups=groups), scores


SAMPLES = {"single": (1, None), "copies": (COPIES, 1), "reversed": (COPIES, None, [0] * COPIES)}


@pytest.fixture(params=SAMPLES.values(), ids=SAMPLES)
def run(request, tmp_path: Path) -> Path:
    path = configure(tmp_path / "r")
    for step in ONE_ROW:
        write_record(path, *record_of(step, *request.param))
    return path


def test_a_run_has_no_intervals_and_no_calls(run: Path) -> None:
    found = Run.read(run)
    last = found.points[-1]
    assert last.masks["emergent"].any()
    assert not any(mask.any() for mask in last.change.called.values())
    assert last.change.p_value.isnan().all()
    table = format_table(found)
    assert "nothing is known of the noise of pairs" in " ".join(table.split())
    assert not RANGE.search(table.replace("[ ]", ""))
    assert not any(RANGE.search(cell) for row in head_rows(found.points) for cell in row)
    text = text_of(write_report([found], run / "report.html"))
    assert "nothing is known of the noise of pairs" in text
    assert "distinguishable from noise" not in text
    summary = text.split("How to read this")[0]
    assert not RANGE.search(summary)
    values = head_values(found.points)
    assert not [name for name in values if name.endswith(("/lo", "/hi", "/null", "/called"))]
    assert all(math.isfinite(value) for value in values.values())
    write_trajectory(run / "trajectory.json", found.points)
    [_, written] = json.loads((run / "trajectory.json").read_text())["checkpoints"]
    assert written["counts"]["emergent"] == {"value": 2.0, "low": None, "high": None}
    assert written["null"] == {"emergent": [None, None], "pruned": [None, None]}
    assert written["faithfulness"]["low"] is None
    assert written["called"] == {"emergent": [], "pruned": []}


def test_two_circuits_are_compared_without_intervals(run: Path) -> None:
    a, b = (
        comparisons.Subject(
            name, name, run, record.graph, record.circuit, record.mean, record, read_record(run, 0)
        )
        for name, record in (("a", read_record(run, 0)), ("b", read_record(run, 10)))
    )
    n_pairs = a.record.n_pairs
    scores = record_of(0, n_pairs, None)[1], record_of(10, n_pairs, None)[1]
    compared = compare_subjects(a, b, per_pair=scores)
    assert compared.heads.masks["gained"].any()
    assert compared.heads.called == {}
    assert compared.edges.inclusion.isnan().all()
    profiles = {s.name: profile(s) for s in (a, b)}
    findings = Findings([a, b], [compared], profiles, [], [], {}, 0.05, 0)
    text = format_findings(findings)
    assert "nothing is known of the noise of pairs" in " ".join(text.split())
    assert not RANGE.search(text.replace("[ ]", ""))
    assert to_json(findings)["subjects"]["a"]["intervals"] is False


def test_a_record_that_does_not_say_how_many_pairs_differ(tmp_path: Path) -> None:
    """Those of earlier versions: the run's pairs say it."""
    write_record(tmp_path, *record_of(0, COPIES, None))
    assert read_record(tmp_path, 0).distinct == COPIES
    pair = Pair((1, 2), (1, 3), 4, 5)
    Pairs([pair] * COPIES).save(tmp_path / "pairs.jsonl")
    assert read_record(tmp_path, 0).distinct == 1
    Pairs([pair] * (COPIES - 1) + [Pair((1, 5), (1, 4), 4, 5)]).save(tmp_path / "pairs.jsonl")
    assert read_record(tmp_path, 0).distinct == 2


def test_resamples_of_one_side_say_nothing() -> None:
    one, two = (record_of(step, COPIES, n)[0].heads for step, n in ((0, 1), (10, None)))
    for change in (compare(one, two), compare(two, one)):
        assert not change.is_tested
        assert math.isnan(change.jaccard.low)
        assert change.inclusion_after.isnan().all()
        assert not change.called["emergent"].any()


def test_a_role_that_one_pair_defines_has_no_interval() -> None:
    per_pair = torch.rand(4, 6, 2).double()
    per_pair[1:, 0] = math.nan  # the first score is defined by one pair only
    per_pair[:, 1] = per_pair[:1, 1]  # and of the second, three are copies of one
    per_pair[3, 1] = math.nan
    roles = summarise(per_pair, torch.zeros(2), ["L0H0", "L0H1"], "tokens", 50, groups=[0, 0, 0, 1])
    first, second, third, *_ = roles.scores.values()
    assert np.isnan(first.low).all() and not np.isnan(first.value).any()
    assert np.isnan(second.low).all() and not np.isnan(second.value).any()
    assert not np.isnan(third.low).any()


@pytest.mark.parametrize(("problems", "distinct"), [(1, None), (COPIES, 1)])
def test_an_evaluation_of_one_problem(problems: int, distinct: int | None) -> None:
    right = np.ones((problems, 4), dtype=bool)
    right[:, 0] = False
    found = score(right, [2], 0, {}, distinct=distinct)
    assert found.pass_at_1 == 0.75
    for estimate in (found, found.pass_at_k[2], found.first_k[2]):
        assert math.isnan(estimate.low) and math.isnan(estimate.high)
    names = ("none", "intervention", "random-1", "base", "base+intervention")
    tables = {name: right if name == "none" else ~right for name in names}
    for difference in compare_scores(tables, distinct=distinct).values():
        assert math.isnan(difference.low) and difference.p_value is None
    assert n_distinct([Problem("1+1=?", "2"), Problem("1+1=?", "3")]) == 1
