"""What the page says of two runs is what `headlab compare` says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.comparison.definitions import Subject
from analysis.comparison.pairs import compare_subjects
from analysis.comparison.rows import number_rows, since_rows
from analysis.records.record_files import read_scores
from analysis.reporting.dashboard.between import pairs_of
from analysis.reporting.dashboard.form import Pair
from analysis.trajectories.run import Run, read_runs
from tests.support.dashboards import HEADS, make_long_run
from tests.support.planted_runs import configure, plant

OTHERS = ["a0.h1", "a1.h0", "a1.h3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    there = tmp_path_factory.mktemp("runs")
    one = make_long_run(there / "one", 4)
    two = configure(there / "two", "grpo")
    for step, heads in ((0, HEADS[:2]), (50, OTHERS)):
        plant(two, step, heads, ("a1.h2",) if step else ())
    return read_runs([one, two])


def subject(name: str, run: Run) -> Subject:
    record, base = run.points[-1].record, run.points[0].record
    circuit = (record.graph, record.circuit, record.mean)
    return Subject(name, run.label, run.path, *circuit, record=record, base=base)


def only(pairs: list[Pair] | None) -> Pair:
    assert pairs is not None
    [pair] = pairs
    return pair


def test_the_numbers_are_those_of_the_comparison(runs: list[Run]) -> None:
    found = only(pairs_of(runs))
    one, two = (subject(*each) for each in zip("ab", runs, strict=True))
    scores = read_scores(runs[0].path, 30), read_scores(runs[1].path, 50)
    compared = compare_subjects(one, two, per_pair=scores)
    expected = [row[1] for row in number_rows(compared)]
    shown = []
    for row in found["numbers"]:
        shown.append(row["shown"])
        shown += [] if row["called"] is None else [str(row["called"])]
        shown += [row["chance"]] if row["chance"] else []
    assert shown == expected
    assert compared.bases is not None
    names = [f"L{name[1]}H{name[4]}" for name in HEADS]
    for row, (title, size, called, which) in zip(
        found["since"], since_rows(compared.bases, compared), strict=True
    ):
        assert f"{row['change']} in {row['group']}" == title
        assert (row["shown"], str(row["called"])) == (size, called)
        assert [names[head] for head in row["heads"]] == which.replace("*", "").split(", ") * bool(
            which
        )


def test_runs_that_were_measured_otherwise_have_no_numbers(runs: list[Run], tmp_path: Path) -> None:
    other = configure(tmp_path / "other", "sft")
    plant(other, 0, HEADS[:2], pairs_hash="other pairs")
    empty = configure(tmp_path / "empty", "sft")
    found = pairs_of([runs[0], *read_runs([empty, other])])
    pair = only(found)
    assert (pair["a"], pair["b"], pair["alike"]) == (0, 2, True)
    assert pair["differ"] == ["pairs_hash"]
    assert pair["numbers"] == pair["called"] == pair["since"] == []


def test_a_run_by_itself_has_nothing_to_be_compared_with(runs: list[Run]) -> None:
    assert pairs_of(runs[:1]) is None
