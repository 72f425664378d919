"""Runs in a terminal: which are found, when they are read again, and what is shown."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from analysis.records.training_log import append_metrics
from analysis.watch.listing import Listing, run_directories
from analysis.watch.terminal import head_map, screen, watch
from tests.support.planted_runs import FINAL, configure, make_run, plant


def shown(root, height=40):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(screen(Listing(root).look(), 80, height))
    return console.file.getvalue()


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "sft", FINAL)
    make_run(tmp_path / "study" / "grpo", FINAL, "grpo")
    (tmp_path / "notes").mkdir()
    make_run(tmp_path / ".hidden", FINAL)
    return tmp_path


def test_runs_are_found_in_a_folder_and_in_its_folders(runs):
    names = [str(path.relative_to(runs)) for path in run_directories(runs)]
    assert names == ["sft", "study/grpo"]
    assert run_directories(runs / "sft") == [runs / "sft"]


def test_a_run_is_read_again_only_when_its_files_have_changed(runs):
    listing = Listing(runs)
    first = listing.look()
    again = listing.look()
    assert all(one.run is other.run for one, other in zip(first, again, strict=True))
    plant(runs / "sft", 30, FINAL)
    sft, grpo = listing.look()
    assert [row.step for row in sft.run.rows] == [0, 10, 20, 30]
    assert grpo.run is first[1].run
    append_metrics(runs / "study" / "grpo", 40, {"reward": 1.0})
    assert listing.look()[1].run.logged[-1] == (40, 1.0)


def test_the_table_has_state_step_score_and_heads(runs):
    lines = shown(runs).splitlines()
    assert lines[1].split() == ["sft", "open", "20", "41.2", "%", "▁", "▁", "3", "+2", "−1"]
    assert max(map(len, lines)) <= 80
    assert "L1   . - . +" in shown(runs / "sft")
    assert "L0   o . + ." in shown(runs / "sft")


def test_a_run_that_can_t_be_read_says_why(runs):
    (runs / "sft" / "run.json").write_text("{")
    assert "sft/run.json can't be read" in shown(runs / "sft").replace("\n", "")


def test_a_run_without_checkpoints_and_a_folder_without_runs(tmp_path):
    assert "no run here yet" in shown(tmp_path)
    configure_at = tmp_path / "new"
    configure_at.mkdir()
    configure(configure_at)
    assert "No head was tracked yet." in shown(tmp_path)
    with pytest.raises(ValueError, match="there is no directory"):
        Listing(tmp_path / "none")


def test_names_can_t_steer_the_terminal(tmp_path):
    make_run(tmp_path / "a\x1b[31mb\u202ec[bold]", FINAL)
    text = shown(tmp_path)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


@pytest.mark.parametrize(
    ("layers", "heads", "width", "height", "lines"),
    [(4, 8, 80, 20, 4), (30, 9, 80, 20, 15), (28, 28, 80, 20, 14), (80, 64, 80, 10, 80)],
)
def test_the_map_has_every_head_within_the_width(layers, heads, width, height, lines):
    places = [(layer, head) for layer in range(layers) for head in range(heads)]
    shares, states = torch.zeros(len(places)), [None] * len(places)
    shares[0], states[-1] = 1.0, "retained"
    graph = SimpleNamespace(n_layers=layers, n_heads=heads, heads=places)
    change = SimpleNamespace(called=dict.fromkeys(("emergent", "pruned"), shares > 0))
    point = SimpleNamespace(
        record=SimpleNamespace(graph=graph, shares=shares), states=states, change=change
    )
    drawn = head_map(point, 1.0, width, height)
    text = [line.plain for line in drawn]
    assert len(text) == lines
    assert max(map(len, text)) <= width
    marks = "".join(text)
    assert [marks.count(letter) for letter in "-o."] == [1, 1, layers * heads - 2]
    assert text[0].startswith(f"L{lines - 1}")


def test_where_the_output_is_no_terminal_it_is_printed_once(runs, capsys):
    watch(runs)
    assert "study/grpo" in capsys.readouterr().out
