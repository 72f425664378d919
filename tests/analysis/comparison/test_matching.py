"""Runs compared where they have come as far, over seeds, and under two metrics."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from analysis.cli import parse
from analysis.commands.compare import act
from analysis.comparison.agreement import overlap_of
from analysis.comparison.courses import Course
from analysis.comparison.matching import match_runs
from analysis.comparison.seeds import compare_seeds, mean_over_seeds
from analysis.comparison.subjects import Options
from analysis.records.evaluations import write_evaluation
from analysis.records.record_files import read_record, write_record
from analysis.trajectories.run import Run
from tests.support.comparisons import options
from tests.support.planted_runs import BASE, PAIRS, configure, plant

NEW = ["a0.h1", "a0.h2", "a0.h3", "a1.h0"]  # heads that emerge, one after another
NOISE = torch.arange(PAIRS) / 10 - 0.25  # of KL over the pairs; 0 on the mean


def grown(
    run: Path, course: dict[int, tuple[int, float]], kind: str = "sft", **changes: object
) -> Run:
    """A run that has so many heads more than its base, and such a KL from it, at each step."""
    configure(run, kind)
    plant(run, 0, BASE, kl=torch.zeros(PAIRS), **changes)
    for step, (heads, kl) in course.items():
        origin = {"model": {"weights": f"{run.name}{step}", "adapter": None}}
        values = kl * (1 + NOISE)
        plant(run, step, [*BASE, *NEW[:heads]], kl=values, **{"origin": origin, **changes})
    return Run.read(run)


def test_counts_are_those_of_the_place_where_the_runs_are_as_far(tmp_path):
    a = grown(tmp_path / "a", {10: (1, 0.1), 20: (2, 0.4), 30: (3, 1.0)})
    b = grown(tmp_path / "b", {5: (0, 0.2), 15: (4, 0.6)})
    found = match_runs(Course.of(a, "kl"), Course.of(b, "kl"))
    assert (found.low, found.high) == pytest.approx((0.2, 0.6))
    assert [row.value.value for row in found.rows] == pytest.approx([0.2, 0.4, 0.6])
    emergent = [[each.value for each in row.counts["emergent"]] for row in found.rows]
    # of a at 0.2 a third of the way from 1 to 2, of b at 0.4 half of the way from 0 to 4
    assert emergent[0] == pytest.approx([4 / 3, 0, -4 / 3], abs=1e-5)
    assert emergent[1] == pytest.approx([2, 2, 0], abs=1e-5)
    assert emergent[2] == pytest.approx([2 + 1 / 3, 4, 5 / 3], abs=1e-5)
    assert [(row.places[0].said, row.places[1].said) for row in found.rows] == [
        ("10..20", "5"),
        ("20", "5..15"),
        ("20..30", "15"),
    ]
    # KL has noise, which both share here: a's way from 10 to 20 is as long in every resample
    low, high = found.rows[0].counts["emergent"][2].low, found.rows[0].counts["emergent"][2].high
    assert low == pytest.approx(high, abs=1e-4)
    assert [row.called["emergent"] for row in found.rows][1] == pytest.approx((2, 2), abs=1e-5)


def test_a_run_that_comes_back_counts_where_it_was_first(tmp_path):
    a = grown(tmp_path / "a", {10: (1, 0.1), 20: (3, 0.5), 30: (4, 0.2), 40: (4, 0.6)})
    place = Course.of(a, "kl").find(0.3)
    assert place is not None
    assert (place.said, place.crossings, place.nearest) == ("10..20", 3, 10)
    assert Course.of(a, "kl").find(0.7) is None
    assert Course.of(a, "step").find(20).said == "20"


def test_a_score_that_can_not_rise_further_makes_one_row(tmp_path):
    a = grown(tmp_path / "a", {10: (1, 0.1), 20: (2, 0.2), 30: (3, 0.3)})
    b = grown(tmp_path / "b", {10: (2, 0.1), 20: (3, 0.2)})
    for run, scores in ((a, {10: 0.5, 20: 1.0, 30: 1.0}), (b, {10: 1.0, 20: 1.0})):
        for step, score in scores.items():
            write_evaluation(run.path, step, {"pass_at_1": score, "low": score, "high": score})
    found = match_runs(*(Course.of(Run.read(run.path), "score") for run in (a, b)))
    assert [(row.places[0].said, row.places[1].said) for row in found.rows] == [("20", "10")]
    assert found.best.places[0].nearest == 20  # not its last checkpoint with that score


def test_runs_without_a_value_in_common_are_refused(tmp_path):
    a = grown(tmp_path / "a", {10: (1, 0.1), 20: (2, 0.4)})
    b = grown(tmp_path / "b", {10: (1, 0.5), 20: (2, 0.9)})
    with pytest.raises(ValueError, match=r"no KL from the base, nats in common \(a: 0.1 \(step 10"):
        match_runs(Course.of(a, "kl"), Course.of(b, "kl"))
    with pytest.raises(ValueError, match="no checkpoint after its base with heads and a held-out"):
        Course.of(a, "score")
    plant(tmp_path / "a", 10, BASE)
    plant(tmp_path / "a", 20, BASE)
    with pytest.raises(ValueError, match="records of earlier versions have none"):
        Course.of(Run.read(tmp_path / "a"), "kl")


def test_the_command_matches_two_runs(tmp_path, capsys):
    a = grown(tmp_path / "a", {10: (1, 0.1), 20: (2, 0.4), 30: (3, 1.0)})
    b = grown(tmp_path / "b", {5: (0, 0.2), 15: (4, 0.41)})
    given = (f"a={a.path}", f"b={b.path}")
    act(options(tmp_path, *given, "match=kl"))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert "compared head by head: a@20 (0.400" in " ".join(text.split())
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [found["subjects"][name]["step"] for name in "ab"] == [20, 15]
    assert len(found["matched"]["rows"]) == 3
    assert "Where both runs have come as far" in (tmp_path / "out/comparison.html").read_text()
    for run, scores in ((a, {10: 0.2, 20: 0.5, 30: 0.9}), (b, {5: 0.4, 15: 0.8})):
        for step, score in scores.items():
            ends = {"pass_at_1": score, "low": score - 0.1, "high": score + 0.1}
            write_evaluation(run.path, step, ends)
    act(options(tmp_path, *given, "match=score"))
    assert "The scores have noise of their own" in " ".join(capsys.readouterr().out.split())
    for wrong, line in (
        ([f"a={a.path}@10", given[1], "match=kl"], "a=.* is one circuit; give a whole run"),
        ([*given, f"c={a.path}", "match=kl"], "match compares two runs"),
        ([given[0]], r"missing: b=\.\.\. \(or seeds="),
        ([f"seeds={a.path}", *given], "give seeds or a, b, and not both"),
        ([f"seeds={a.path}", "at=2"], "give match=kl, score or step too"),
        ([*given, "match=kll"], "match is 'kll'; did you mean kl"),
    ):
        with pytest.raises(ValueError, match=line):
            act(options(tmp_path, *wrong))


def test_counts_over_seeds(tmp_path, capsys):
    """Intervals are of the seeds: those of Student and Welch, of the counts only."""
    one = [(1, 0.2), (3, 0.4), (4, 0.6)]
    other = [(0, 0.2), (1, 0.3), (0, 0.5)]
    for name, group in (("sft", one), ("grpo", other)):
        for seed, (heads, kl) in enumerate(group):
            grown(tmp_path / f"{name}{seed}", {10: (heads // 2, 0.1), 20: (heads, kl)})
    act(
        parse(
            Options,
            [
                f"out={tmp_path}/out",
                f"seeds={tmp_path}/sft?",
                "against=" + ",".join(f"{tmp_path}/grpo{i}" for i in range(3)),
            ],
        )
    )
    text = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "out" / "seeds.json").read_text())
    counts, others = [heads for heads, _ in one], [heads for heads, _ in other]
    mean = found["groups"][0]["means"]["emergent"]
    low, high = stats.ttest_1samp(counts, 0).confidence_interval()
    assert mean == pytest.approx({"value": 8 / 3, "low": max(low, 0), "high": high})
    welch = stats.ttest_ind(counts, others, equal_var=False)
    assert found["contrast"]["emergent"]["p_value"] == pytest.approx(welch.pvalue)
    assert found["contrast"]["emergent"]["value"] == pytest.approx(8 / 3 - 1 / 3)
    assert "a0.h1" not in text and "L0H1" not in text  # no head by its name
    assert "have one seed" in text  # all say seed 3
    # matched at the KL that all have: 0.2, or one that is given
    runs = [[Run.read(tmp_path / f"sft{i}") for i in range(3)]]
    matched = compare_seeds(runs, "kl")
    assert matched.value == pytest.approx(0.2)
    emergent = [seed.numbers["emergent"] for seed in matched.groups[0].seeds]
    assert emergent == pytest.approx([1, 1 + 2 / 3, 2 + 2 / 5], abs=1e-5)
    with pytest.raises(ValueError, match=r"at=0.3 is not between 0.1 and 0.2, which all have"):
        compare_seeds(runs, "kl", 0.3)
    # two seeds, or three that are alike, say nothing of the spread
    few = compare_seeds([runs[0][:2]]).groups[0].means["emergent"]
    assert few.value == 2 and math.isnan(few.low) and math.isnan(few.high)
    assert math.isnan(mean_over_seeds([3.0, 3.0, 3.0]).low)


def test_what_are_no_seeds_of_one_training_is_refused(tmp_path):
    runs = [grown(tmp_path / name, {20: (1, 0.2)}) for name in ("a", "b")]
    with pytest.raises(ValueError, match="is named twice"):
        compare_seeds([[runs[0], runs[0]]])
    base = grown(tmp_path / "base", {})
    with pytest.raises(ValueError, match="has no record after its base"):
        compare_seeds([[runs[0], base]])
    copy = grown(tmp_path / "copy", {20: (1, 0.2)}, origin=runs[0].points[-1].record.origin)
    with pytest.raises(ValueError, match="end with the same weights .* one seed"):
        compare_seeds([[runs[0], copy]])
    other = grown(tmp_path / "c", {20: (1, 0.2)}, settings={"resamples": 50, "seed": 7})
    with pytest.raises(ValueError, match="differ in settings"):
        compare_seeds([[runs[0], other]])
    with pytest.raises(ValueError, match="no run with tracked heads matches"):
        act(parse(Options, [f"out={tmp_path}/out", f"seeds={tmp_path}/x*"]))


def test_the_chance_of_an_overlap_is_that_of_random_sets():
    """Against all draws of two sets of 3 and 2 out of 5."""
    from itertools import combinations

    names = [f"L0H{i}" for i in range(5)]
    a = torch.tensor([1, 1, 1, 0, 0]).bool()
    b = torch.tensor([1, 1, 0, 0, 0]).bool()
    found = overlap_of(a, b, names)
    draws = [len({0, 1, 2} & set(draw)) for draw in combinations(range(5), 2)]
    likeness = [common / (5 - common) for common in draws]
    assert (found.both, found.jaccard) == (["L0H0", "L0H1"], 2 / 3)
    assert found.chance == pytest.approx(sum(likeness) / len(likeness))
    assert found.chance_high == pytest.approx(2 / 3)
    assert found.p_value == pytest.approx(draws.count(2) / len(draws))
    nothing = overlap_of(a & False, b & False, names)
    assert math.isnan(nothing.jaccard) and math.isnan(nothing.p_value)


def test_two_runs_that_differ_in_the_metric_are_compared_by_what_both_find(tmp_path, capsys):
    settings = {"method": "EAP-IG-inputs", "resamples": 200, "seed": 7, "metric": "kl"}
    other = {**settings, "metric": "logit_diff"}
    a = grown(tmp_path / "a", {10: (1, 0.1), 20: (3, 0.4)}, settings=settings)
    b = grown(tmp_path / "b", {20: (4, 0.4)}, settings=other)
    last = read_record(b.path, 20)
    assert last is not None
    scores = torch.zeros(PAIRS, last.graph.n_edges)
    given = [f"a={a.path}", f"b={b.path}"]
    with pytest.raises(ValueError, match=r"different weights at step 20 \(a20 and b20\)"):
        act(options(tmp_path, *given))
    write_record(b.path, replace(last, origin=a.points[-1].record.origin), scores)
    act(options(tmp_path, *given))
    text = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert set(found["steps"]) == {"0", "20"}
    called = found["steps"]["20"]["emergent_called"]
    assert (called["a"], called["b"], called["jaccard"]) == (3, 4, 0.75)
    assert "Called emergent under both at step 20: L0H1, L0H2, L0H3." in text
    assert "a under kl and b under logit_diff, 8 heads in all" in text
    with pytest.raises(ValueError, match="a is at step 10 and b at step 20; two metrics are"):
        act(options(tmp_path, f"a={a.path}@10", f"b={b.path}@20"))
