"""A run in a notebook: every figure is the report's, and what can't be shown is said."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import headlab
from analysis.reporting.run_view import FIGURES
from tests.support.planted_runs import FINAL, make_run


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return headlab.read_run(make_run(tmp_path_factory.mktemp("view") / "r", FINAL))


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"routing"}))  # which needs experts
def test_each_figure_is_drawn(view, name):
    assert view.figure(name).data


def test_the_map_has_a_step_for_each_checkpoint(view):
    steps = view.figure("map").layout.sliders[0].steps
    assert [step.label for step in steps] == [str(point.step) for point in view.run.points]


def test_a_mistyped_figure_is_one_line(view):
    with pytest.raises(ValueError, match="no figure 'maps'; did you mean 'map'"):
        view.figure("maps")


def test_outside_a_notebook_the_table_is_printed(view, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    view.show()
    assert capsys.readouterr().out.strip() == view.table().strip()


def test_in_a_notebook_curves_map_and_table_are_shown(view, monkeypatch):
    shown = []
    notebook = SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    display = SimpleNamespace(display=lambda what, raw=False: shown.append(what))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    view._ipython_display_()
    assert [type(what).__name__ for what in shown] == ["Figure", "Figure", "dict"]
    assert shown[2]["text/plain"] == view.table()


def test_a_directory_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no run.json"):
        headlab.read_run(tmp_path)
