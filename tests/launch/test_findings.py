"""The one screen that the demo in three acts ends with."""

from __future__ import annotations

import json

import pytest

from analysis.trajectories.run import Run
from launch.acts import plant, planted_heads, planted_in
from launch.findings import acts_text, by_chance, findings
from tests.support.planted_runs import make_run


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
    found = findings(*both, ["L0H2", "L1H1"])
    text = acts_text(found)
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    assert "41.2 [30, 50] % at step 0, 41.2 [30, 50] % at step 20" in said
    assert "2 [2-2] heads are in the circuit and not in the first one's; by chance 0.0" in said
    assert "called 2: L0H2, L1H3; the first at step 10" in said
    assert "1 of the 2 zeroed heads, 1 others; by chance 2 of 8 heads hold 0.5 zeroed" in said
    assert all(part in " ".join(found.sentences) for part in ("L0H2, L1H3", "learns nothing"))


def test_what_chance_gives():
    mean, high = by_chance(planted=2, called=2, n_heads=8)
    assert (mean, high) == (0.5, 2)
    assert by_chance(planted=3, called=0, n_heads=8) == (0.0, 0)


def test_a_model_that_lacks_other_heads_than_are_called_is_refused(both):
    run = both[0].path
    planted_in(run).mkdir()
    for heads in ("L0H2,L1H3", "L0H2"):
        content = json.dumps({"intervention": f"zero:{heads}"})
        (planted_in(run) / "intervention.json").write_text(content)
        assert planted_heads(planted_in(run)) == heads.split(",")
        if heads == "L0H2":
            with pytest.raises(ValueError, match="lacks L0H2, and L0H2, L1H3 is called now"):
                plant(run)
        else:
            assert plant(run) == ["L0H2", "L1H3"]
