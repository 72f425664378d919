"""The one screen that the demo in three acts ends with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from analysis.records.needed import Effect, Match, Needed, Number, Right
from analysis.reporting.report import write_report
from analysis.trajectories.run import Run
from launch.acts import enough_left, plant, planted_heads, planted_in
from launch.findings import acts_text, by_chance, came_back, findings, taken_out
from tests.support.planted_runs import make_run, text_of

NOW = Effect(
    change=Number(1.2, 1.0, 1.4),
    random=[0.1, 0.2, 0.3],
    excess=Number(1.0, 0.8, 1.2),
    p_value=0.25,
    right=Right(1.0, 0.42, [0.5, 0.6, 0.7]),
)
BASE = replace(NOW, change=Number(0.01, 0.0, 0.02), right=None)
PLAN = Needed(20, "pairs", "kl", "called_emergent", 2, [], note="no head is called emergent")
NEEDED = replace(PLAN, heads=["L0H2"], now=NOW, base=BASE, match=Match(3, 1.0, 0.0), note="")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two runs at whose end L0H2 and L1H3 have emerged, and are called."""
    place = tmp_path_factory.mktemp("acts")
    names = ("a0.h0", "a0.h2", "a1.h3")
    return [
        Run.read(make_run(place / name, list(names), kind))
        for name, kind in (("sft", "sft"), ("grpo", "grpo"))
    ]


def test_the_screen_tells_each_act_with_its_chance_level_in_80_columns(both):
    found = findings(both[0], NEEDED, both[1], ["L0H2", "L1H1"], NEEDED)
    text = acts_text(found)
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    assert "41.2 [30, 50] % at step 0, 41.2 [30, 50] % at step 20" in said
    assert "2 [2-2] heads are in the circuit and not in the first one's; by chance 0.0" in said
    assert "called 2: L0H2, L1H3; the first at step 10" in said
    assert "heads L0H2 of 2 called; 3 random sets, 100 % of their heads in the same layers" in said
    assert "100.0 % of the pairs, 42.0 % without the heads; without random heads 60.0 (50.0" in said
    assert "kl +1.200 [1.000, 1.400]; random sets 0.200 (0.100 to 0.300); excess +1.000 [" in said
    assert "in the base +0.010 [0.000, 0.020]; random sets" in said
    assert "1 of the 2 zeroed heads (L0H2, L1H1); by chance 2 of 8 heads hold 0.5 zeroed" in said
    assert "others 1, 1 of them called in act one" in said
    assert "without these L0H2 of 2 called; 3 random sets" in said
    page = both[0].path / "acts.html"
    shown = text_of(write_report(both[:1], page, found.sentences))
    assert all(part in shown for part in ("called 2: L0H2, L1H3", "1 of the 2", "learns nothing"))


def test_a_set_that_was_not_taken_out_says_why():
    assert taken_out(PLAN) == [("heads", "no head is called emergent")]
    alone = replace(NEEDED, match=None, base=None, now=replace(NOW, excess=None, right=None))
    assert taken_out(replace(alone, note="no random sets were asked for"))[1:] == [
        ("kl", "+1.200 [1.000, 1.400]")
    ]


def test_where_nothing_but_the_zeroed_is_called_there_are_no_others(both):
    lines = dict(came_back(both[1], ["L0H2", "L1H3"], ["L0H2"], None))
    assert lines["others"] == "0" and "without these" not in lines


def test_the_first_layers_are_left_to_a_model_that_guesses_without_them():
    heads = [(1, 0), (0, 2), (2, 1)]
    assert enough_left(heads, lambda some: 0.7) == heads
    assert enough_left(heads, lambda some: 1 - 0.25 * len(some)) == [(1, 0), (2, 1)]
    assert enough_left(heads, lambda some: 0.3) == []
    assert enough_left([], lambda some: 0.7) == []


def test_what_chance_gives():
    mean, high = by_chance(planted=2, called=2, n_heads=8)
    assert (mean, high) == (0.5, 2)
    assert by_chance(planted=3, called=0, n_heads=8) == (0.0, 0)


def test_a_model_that_lacks_other_heads_than_are_called_is_refused(both):
    """L0H2 and L1H3 are called; some of them may be left to the model."""
    run = both[0].path
    planted_in(run).mkdir()
    for heads in ("L0H2,L1H3", "L0H2", "L0H1"):
        content = json.dumps({"intervention": f"zero:{heads}"})
        (planted_in(run) / "intervention.json").write_text(content)
        assert planted_heads(planted_in(run)) == heads.split(",")
        if heads == "L0H1":
            with pytest.raises(ValueError, match="lacks L0H1, and L0H2, L1H3 is called now"):
                plant(run)
        else:
            assert plant(run) == heads.split(",")
